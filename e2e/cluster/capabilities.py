"""What not every cluster offers. Tests ask for these, and never for a provider by its name."""

from collections.abc import Iterable
from enum import StrEnum
from typing import Final

from e2e.cluster.shell import Problem

POD_PIDS: Final = 512
"""The limit of a pod's processes in the clusters that are made here."""


class Capability(StrEnum):
    """The value is what a person writes: in `@pytest.mark.needs`, and in MILEPOST_CLUSTER_CAN."""

    NODE_ACCESS = "node-access"
    """Programs run on the nodes, and signals reach the processes there."""
    NODE_STOP = "node-stop"
    """A kubelet, or all of a node, can be stopped and brought back."""
    SECOND_NODE = "second-node"
    """There is another node than the first one, or `up` can add it."""
    NETWORK_POLICY = "network-policy"
    """NetworkPolicy is enforced."""
    OUTSIDE = "outside"
    """This machine can play an address of the world, and the metadata address, for its pods."""
    PIDS_LIMIT = "pids-limit"
    """The processes of a pod are limited."""
    EDGE_COUNTER = "edge-counter"
    """Packets of the cluster that leave this machine are counted."""
    AUDIT_LOG = "audit-log"
    """Each write to the API server is in a log that this machine can read."""


def named(names: str) -> frozenset[Capability]:
    """Capabilities by their names, separated by commas. Raises Problem for one that does not exist."""
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    known = {capability.value for capability in Capability}
    if unknown := [name for name in wanted if name not in known]:
        raise Problem(f"no cluster has the capability {', '.join(unknown)}: there are {', '.join(sorted(known))}")
    return frozenset(Capability(name) for name in wanted)


def lacking(wanted: Iterable[str], offered: frozenset[Capability]) -> list[Capability]:
    """Those of the wanted (by name) that are not offered, in their order."""
    return [capability for name in wanted for capability in named(name) if capability not in offered]
