"""The NetworkPolicies of namespaces with Tasks: made before their first pod, mended when somebody changed them, taken
away when nothing of ours is left.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import structlog
from pydantic import ValidationError

from milepost_operator.crds.network import Network
from milepost_operator.domain.errors import (
    ConflictError,
    InvalidInputError,
    MilepostError,
    NotFoundError,
    UnavailableError,
)
from milepost_operator.manifests import network, raw
from milepost_operator.manifests.network import NetworkSettings
from milepost_operator.manifests.raw import Manifest, Object
from milepost_operator.ports.network import NetworkReads, Policies, TaskNetwork
from milepost_operator.reconcile.conditions import Said
from milepost_operator.reconcile.loop import each

log = structlog.stdlib.get_logger(__name__)

CONDITION: Final = "NetworkApplied"
AT_ONCE: Final = 4

Given = Mapping[str, object] | None
"""A Task's `spec.network` as JSON; None where it has none."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What makes the policies of a namespace the wanted ones. `write`: each with whether one of its name is there."""

    write: Sequence[tuple[Manifest, bool]]
    surplus: Sequence[Object]


def changes(wanted: Sequence[Manifest], live: Sequence[Object]) -> Changes:
    """By name, in the order of `wanted`; one that differs in its spec or its labels is written anew."""
    there = {raw.name(one): one for one in live}
    names = {raw.name(one) for one in wanted}
    return Changes(
        write=[
            (one, raw.name(one) in there)
            for one in wanted
            if raw.name(one) not in there or not _same(one, there[raw.name(one)])
        ],
        surplus=[one for one in live if raw.name(one) not in names],
    )


@dataclass(frozen=True, slots=True)
class Settled:
    """`refused`: Tasks whose own part was; they are shut, and hurt nobody else. `surplus`: policies not wanted."""

    refused: Mapping[str, MilepostError]
    surplus: Sequence[Object]


def _same(wanted: Object, found: Object) -> bool:
    labels = raw.part(wanted, "metadata", "labels")
    shown = raw.part(found, "metadata", "labels")
    return wanted["spec"] == found.get("spec") and all(shown.get(key) == value for key, value in labels.items())


class TaskNetworks:
    """`settings` None: no policies, and those that are there go. `namespaces`: those that are served; empty: all.

    `on_written` is told what was done to a policy: created, replaced or deleted.
    """

    def __init__(
        self,
        store: NetworkReads,
        policies: Policies,
        settings: NetworkSettings | None,
        namespaces: Sequence[str],
        *,
        on_written: Callable[[str], object] = lambda _: None,
    ) -> None:
        self._store = store
        self._policies = policies
        self._settings = settings
        self._scopes: Sequence[str | None] = namespaces or (None,)
        self._on_written = on_written
        self._one_at_a_time = asyncio.Lock()
        self._in_force: dict[str, Mapping[str, Given]] = {}
        self._surplus: set[str] = set()

    async def turn(self) -> None:
        """All namespaces. One that fails hinders no other."""
        async with self._one_at_a_time:
            live = _by_namespace([one for scope in self._scopes for one in await self._policies.list_policies(scope)])
            tasks = _tasks(await self._store.task_networks(None) if self._settings else ())
            known = self._surplus
            self._surplus = set()
            addresses = await self._api_server() if tasks else ()

            async def settle(namespace: str) -> None:
                done = await self._settle(namespace, tasks.get(namespace, {}), live.get(namespace, ()), addresses)
                for task, error in done.refused.items():
                    log.warning("network_refused", namespace=namespace, task=task, error=str(error))
                await self._remove(done.surplus, known)

            self._in_force = {namespace: of for namespace, of in self._in_force.items() if namespace in tasks}
            await each(sorted({*tasks, *live}), settle, at_once=AT_ONCE, what="network policies")

    def check(self, given: Given) -> None:
        """InvalidInputError when what a Task allows is no network, or one that no Task may open."""
        network.check(_parsed(given), self._settings)

    async def before(self, namespace: str, task: str, given: Given) -> None:
        """Return when the policies for a Task's next pod are in place. The errors of `ports.network.Policies`."""
        if self._settings and not self._covers(namespace, task, given):
            await self._settle_for(namespace, task)

    async def of_task(self, namespace: str, task: str, given: Given, *, told: bool) -> list[Said]:
        """Make it so, and what there is to say of it. `told`: the Task has the condition. UnavailableError."""
        if self._settings is None:
            message = "this installation makes no NetworkPolicies for tasks: spec.network has no effect"
            return [Said(CONDITION, False, "Disabled", message)] if given else []
        try:
            if not self._covers(namespace, task, given):
                await self._settle_for(namespace, task)
        except UnavailableError:
            raise
        except MilepostError as error:
            return [Said(CONDITION, False, "Refused", f"no new pod begins: {error}")]
        message = f"{_sentence(_parsed(given))}; where the cluster's network plugin enforces NetworkPolicies"
        return [Said(CONDITION, True, "Applied", message)] if given or told else []

    def _covers(self, namespace: str, task: str, given: Given) -> bool:
        """A Task of which nothing is known is like one that says nothing: no policy of its namespace names it."""
        known = self._in_force.get(namespace)
        return known is not None and known.get(task) == given

    async def _settle_for(self, namespace: str, task: str) -> None:
        """Settle the namespace now. Raises what this Task or all of the namespace was refused for."""
        async with self._one_at_a_time:
            tasks = _tasks(await self._store.task_networks(namespace)).get(namespace, {})
            if not tasks or self._in_force.get(namespace) == tasks:
                return
            live = await self._policies.list_policies(namespace)
            done = await self._settle(namespace, tasks, live, await self._api_server())
            if task in done.refused:
                raise done.refused[task]

    async def _settle(
        self, namespace: str, tasks: Mapping[str, Given], live: Sequence[Object], addresses: Sequence[str]
    ) -> Settled:
        """Write what is wanted."""
        if not tasks or self._settings is None:
            return Settled({}, live)
        specs, refused = _specs(tasks)
        owners = {network.policy_name(name): name for name in tasks}
        todo = changes(network.policies(namespace, specs, self._settings, addresses), live)
        for policy, exists in todo.write:
            try:
                await self._write(policy, exists=exists)
            except UnavailableError:
                raise
            except MilepostError as error:
                if raw.name(policy) not in owners:
                    raise
                refused[owners[raw.name(policy)]] = error
        self._in_force[namespace] = {name: given for name, given in tasks.items() if name not in refused}
        return Settled(refused, todo.surplus)

    async def _write(self, policy: Manifest, *, exists: bool) -> None:
        first, second = self._policies.create_policy, self._policies.replace_policy
        if exists:
            first, second = second, first
        try:
            await first(policy)
        except (ConflictError, NotFoundError):  # it lacked our label, or went meanwhile
            await second(policy)
        self._written("replaced" if exists else "created", policy)

    async def _remove(self, surplus: Sequence[Object], known: set[str]) -> None:
        """What two turns in a row find of no use: rows may come back, as after a new installation."""
        for policy in surplus:
            if raw.uid(policy) in known:
                await self._policies.delete_policy(raw.namespace(policy), raw.name(policy), raw.uid(policy))
                self._written("deleted", policy)
            else:
                self._surplus.add(raw.uid(policy))

    def _written(self, deed: str, policy: Object) -> None:
        self._on_written(deed)
        log.info("network_policy", deed=deed, namespace=raw.namespace(policy), name=raw.name(policy))

    async def _api_server(self) -> Sequence[str]:
        if self._settings and self._settings.api_server is not None:
            return self._settings.api_server
        return await self._policies.api_server_addresses()


def _parsed(given: Given) -> Network:
    return Network.model_validate(given or {})


def _specs(tasks: Mapping[str, Given]) -> tuple[dict[str, Network], dict[str, MilepostError]]:
    """What each Task says, read; one that can't be read, written by another release, is shut."""
    specs: dict[str, Network] = {}
    refused: dict[str, MilepostError] = {}
    for name, given in tasks.items():
        try:
            specs[name] = _parsed(given)
        except ValidationError as error:
            specs[name] = Network(egress="none")
            refused[name] = InvalidInputError("invalid-network", f"spec.network can't be read: {error}")
    return specs, refused


def _tasks(rows: Sequence[TaskNetwork]) -> dict[str, dict[str, Given]]:
    found: dict[str, dict[str, Given]] = {}
    for row in rows:
        found.setdefault(row.namespace, {})[row.task] = row.network
    return found


def _by_namespace(policies: Sequence[Object]) -> dict[str, list[Object]]:
    found: dict[str, list[Object]] = {}
    for policy in policies:
        found.setdefault(raw.namespace(policy), []).append(policy)
    return found


def _sentence(spec: Network) -> str:
    """What is open, in words."""
    allowed = f"{len(spec.allow)} destination{'s' * (len(spec.allow) != 1)}" if spec.allow else ""
    match spec.egress:
        case "none":
            return "egress to nothing but DNS and Milepost's API"
        case "restricted":
            return f"egress to {allowed}"
        case _:
            return f"egress to the world{f' and {allowed}' if allowed else ''}"
