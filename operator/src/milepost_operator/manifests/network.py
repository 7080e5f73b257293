"""NetworkPolicies for the pods of Tasks: nobody calls them, and they call what is open to them.

Policies add up, so what a Task may not call has to be in none that selects its pods. In each namespace with Tasks:

- `milepost-tasks` selects all of our pods: in comes nothing, out go DNS and the api's port (the sidecar's).
- `milepost-tasks-open` selects those of the Tasks that say neither `restricted` nor `none`: out goes the world, less
  what is closed and the private networks.
- `milepost-task-<name>`: what one Task allows by name.

A pod of a Task that no policy knows yet has the first one alone: what is late is shut, not open.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_address, ip_network
from typing import Final

from milepost_operator.crds.network import Destination, Network, NetworkPort
from milepost_operator.domain.errors import InvalidInputError
from milepost_operator.manifests import names
from milepost_operator.manifests.raw import Manifest, Object

Net = IPv4Network | IPv6Network

BASE: Final = "milepost-tasks"
OPEN: Final = "milepost-tasks-open"
_OWN: Final = "milepost-task-"
_MAX_NAME: Final = 253
_WORLD: Final = (ip_network("0.0.0.0/0"), ip_network("::/0"))
DNS: Final[tuple[Object, ...]] = ({"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]},)


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """What the installation says of the network of tasks.

    `api_…`: the pods of the api and the port they listen on. `closed`: what no Task may open, as CIDRs; the API server
    is added to it. `private`: what a Task has to allow by name. `dns`, `open_to`: egress rules of a NetworkPolicy, for
    all Tasks, and for the open ones beside the world. `api_server`: its addresses; None: as the cluster says.
    """

    api_namespace: str
    api_labels: Mapping[str, str]
    api_port: int
    closed: Sequence[str] = ()
    private: Sequence[str] = ()
    dns: Sequence[Object] = DNS
    open_to: Sequence[Object] = field(default=())
    api_server: Sequence[str] | None = None


def policies(
    namespace: str, tasks: Mapping[str, Network], settings: NetworkSettings, api_server: Iterable[str]
) -> list[Manifest]:
    """The policies of a namespace with these Tasks, in the order in which they take hold: what shuts comes before what
    opens. `api_server`: its addresses. InvalidInputError when a CIDR is none.
    """
    closed = [network(one, "closed") for one in (*settings.closed, *map(_single, api_server))]
    own = [_task(namespace, name, task, closed) for name, task in sorted(tasks.items()) if task.allow]
    shut = [names.label_value(name) for name, task in tasks.items() if task.egress in {"restricted", "none"}]
    return [_base(namespace, settings), _open(namespace, settings, closed, shut), *own]


def policy_name(task: str) -> str:
    """Of the policy for what one Task allows."""
    name = f"{_OWN}{task}"
    return name if len(name) <= _MAX_NAME else f"{name[: _MAX_NAME - 11].rstrip('-.')}-{names.digest(task)}"


def network(cidr: str, where: str) -> Net:
    """A CIDR that is one. InvalidInputError says what to write instead; `where`: of which field."""
    try:
        return ip_network(cidr)
    except ValueError:
        pass
    try:
        meant = ip_network(cidr, strict=False)
    except ValueError as error:
        raise InvalidInputError("invalid-network", f"{where}: {cidr} is no CIDR such as 203.0.113.0/24") from error
    raise InvalidInputError("invalid-network", f"{where}: {cidr} has bits beyond its prefix: {meant} is meant?")


def check(task: Network, settings: NetworkSettings | None) -> None:
    """InvalidInputError when what a Task allows can't be allowed, with its place in the spec."""
    closed = [network(one, "closed") for one in settings.closed] if settings else []
    for index, destination in enumerate(task.allow or ()):
        if destination.cidr is not None:
            where = f"spec.network.allow[{index}].cidr"
            wanted = network(destination.cidr, where)
            if not _blocks([wanted], closed):
                raise InvalidInputError(
                    "closed-network", f"{where}: {wanted} is closed to all tasks by this installation"
                )


def _single(address: str) -> str:
    return str(ip_network(address)) if "/" in address else str(ip_network(ip_address(address)))


def _policy(namespace: str, name: str, labels: Object, spec: Manifest) -> Manifest:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": namespace, "labels": {names.MANAGED_BY: names.MANAGER, **labels}},
        "spec": spec,
    }


def _ours(*more: Object) -> Manifest:
    return {
        "matchLabels": {names.MANAGED_BY: names.MANAGER},
        "matchExpressions": [{"key": names.TASK_LABEL, "operator": "Exists"}, *more],
    }


def _base(namespace: str, settings: NetworkSettings) -> Manifest:
    api = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": settings.api_namespace}},
        "podSelector": {"matchLabels": dict(settings.api_labels)},
    }
    sidecar = {"to": [api], "ports": [{"protocol": "TCP", "port": settings.api_port}]}
    egress = [*settings.dns, sidecar]
    return _policy(
        namespace, BASE, {}, {"podSelector": _ours(), "policyTypes": ["Ingress", "Egress"], "egress": egress}
    )


def _open(namespace: str, settings: NetworkSettings, closed: Sequence[Net], shut: Sequence[str]) -> Manifest:
    private = [network(one, "private") for one in settings.private]
    but = [{"key": names.TASK_LABEL, "operator": "NotIn", "values": sorted(set(shut))}] if shut else []
    world = _blocks(_WORLD, [*closed, *private])
    egress = [*([{"to": world}] if world else []), *settings.open_to]
    spec: Manifest = {"podSelector": _ours(*but), "policyTypes": ["Egress"]}
    return _policy(namespace, OPEN, {}, spec | ({"egress": egress} if egress else {}))


def _task(namespace: str, name: str, task: Network, closed: Sequence[Net]) -> Manifest:
    egress = [rule for one in task.allow or () for rule in _rules(one, closed)]
    label = {names.TASK_LABEL: names.label_value(name)}
    spec: Manifest = {
        "podSelector": {"matchLabels": {names.MANAGED_BY: names.MANAGER, **label}},
        "policyTypes": ["Egress"],
    }
    return _policy(namespace, policy_name(name), label, spec | ({"egress": egress} if egress else {}))


def _rules(destination: Destination, closed: Sequence[Net]) -> list[Manifest]:
    """One egress rule, or none where all of it is closed: without `to`, a rule would open everything."""
    if destination.cidr is not None:
        to: list[Manifest] = _blocks([network(destination.cidr, "spec.network.allow.cidr")], closed)
    else:
        selectors = destination.model_dump(
            mode="json", by_alias=True, exclude_none=True, include={"pod_selector", "namespace_selector"}
        )
        to = [selectors]
    ports = {"ports": [_port(one) for one in destination.ports]} if destination.ports else {}
    return [{"to": to, **ports}] if to else []


def _port(one: NetworkPort) -> Manifest:
    made: Manifest = {"protocol": one.protocol or "TCP", "port": one.port}
    return made if one.end_port is None else made | {"endPort": one.end_port}


def _blocks(wanted: Iterable[Net], closed: Sequence[Net]) -> list[Manifest]:
    """`wanted` less `closed` as ipBlocks; nothing of a network that is closed as a whole."""
    blocks: list[Manifest] = []
    for one in wanted:
        inside = _collapsed(shut for shut in closed if _within(shut, one))
        if one in inside or any(_within(one, shut) for shut in closed):
            continue
        block: Manifest = {"cidr": str(one)}
        blocks.append({"ipBlock": block | ({"except": [str(shut) for shut in inside]} if inside else {})})
    return blocks


def _within(one: Net, other: Net) -> bool:
    """Whether all of `one` is in `other`."""
    if isinstance(one, IPv4Network):
        return isinstance(other, IPv4Network) and one.subnet_of(other)
    return isinstance(other, IPv6Network) and one.subnet_of(other)


def _collapsed(nets: Iterable[Net]) -> list[Net]:
    """In order, without those that are in another one; all of one family."""
    found = list(nets)
    four = collapse_addresses(one for one in found if isinstance(one, IPv4Network))
    six = collapse_addresses(one for one in found if isinstance(one, IPv6Network))
    return [*four, *six]
