"""The clusters that tests and the demo can run on, behind one interface, and the choice between them."""

import importlib
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from e2e.cluster import layout, preflight
from e2e.cluster.capabilities import Capability
from e2e.cluster.shell import Problem, Result

PROVIDERS = {
    "host": "e2e.cluster.host:HostCluster",
    "kind": "e2e.cluster.kind:KindCluster",
    "external": "e2e.cluster.external:ExternalCluster",
}


class Cluster(Protocol):
    """A Kubernetes cluster that can be brought up, filled with images and disturbed."""

    @property
    def name(self) -> str:
        """ "host", "kind" or "external"."""
        ...

    @property
    def kubeconfig(self) -> Path:
        """A kubeconfig with all rights."""
        ...

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What it offers beyond the Kubernetes API; asked of a cluster that is up."""
        ...

    @property
    def image_builder(self) -> str:
        """The builder whose archives it loads: "buildah" or "docker"."""
        ...

    @property
    def own_programs(self) -> bool:
        """Whether kubectl and helm are those built here, whatever is on PATH."""
        ...

    @property
    def audit_log(self) -> Path | None:
        """The API server's audit log, where there is one."""
        ...

    def up(self, nodes: int = 1) -> None:
        """Have at least `nodes` nodes Ready; adopts or repairs what runs already."""
        ...

    def remove_node(self) -> None:
        """Take away the node that came last, with all that runs there."""
        ...

    def down(self) -> None:
        """Leave nothing behind, whatever state the cluster is in."""
        ...

    def load_images(self, archive: Path) -> None:
        """Put the images of an OCI archive on every node, under the names the archive gives them."""
        ...

    def node_names(self) -> list[str]:
        """The names of the nodes that run, each at the place of its number."""
        ...

    def node_exec(self, node: int, argv: list[str]) -> Result:
        """Run a program on a node (`ctr`, `ps`, `ip`); the caller looks at the return code."""
        ...

    def stop_kubelet(self, node: int, *, power_off: bool = False) -> None:
        """Stop a node's kubelet; with `power_off` all of the node dies at once: runtime, pods and network."""
        ...

    def start_kubelet(self, node: int) -> None:
        """Bring back what `stop_kubelet` stopped, and return when the node is Ready."""
        ...

    def reach(self, namespace: str, service: str, port: int) -> str:
        """The "address:port" at which this machine reaches a Service's port."""
        ...

    def release_volumes(self) -> None:
        """Make volumes whose claims are gone usable again."""
        ...

    def escaped_packets(self) -> int:
        """How many packets of the cluster left this machine; -1 without the capability `edge-counter`."""
        ...


def choose(env: Mapping[str, str] = os.environ) -> Cluster:
    """The cluster to use.

    MILEPOST_PROVIDER=host|kind|external decides; else a kubeconfig in MILEPOST_KUBECONFIG or KUBECONFIG means that
    cluster, a running host cluster is kept, a Docker engine means kind, and root on Linux means a cluster on this host.
    """
    choice = env.get("MILEPOST_PROVIDER") or _guess(env)
    if choice not in PROVIDERS:
        raise Problem(f"MILEPOST_PROVIDER={choice} is not known: use {', '.join(PROVIDERS)}")
    # Only the chosen provider is imported: another's needs (a Docker client, root) are no concern then.
    module, _, name = PROVIDERS[choice].partition(":")
    make: Callable[..., Cluster] = getattr(importlib.import_module(module), name)
    if choice != "external":
        return make()
    path = env.get("MILEPOST_KUBECONFIG") or env.get("KUBECONFIG")
    if not path:
        raise Problem("MILEPOST_PROVIDER=external needs a kubeconfig: set MILEPOST_KUBECONFIG to its path")
    return make(Path(path))


def _guess(env: Mapping[str, str]) -> str:
    path = env.get("MILEPOST_KUBECONFIG") or env.get("KUBECONFIG")
    ours = Path(path).resolve() in _our_kubeconfigs() if path else False
    if path and not ours:
        return "external"
    if ours or layout.ADMIN.exists():
        return "host"
    if docker_answers():
        return "kind"
    if sys.platform == "linux" and os.geteuid() == 0:
        return "host"
    if shutil.which("docker"):
        raise Problem(preflight.silent(preflight.ask("docker").stderr))
    raise Problem(
        "there is no cluster to use: start Docker (kind runs in it), or set MILEPOST_KUBECONFIG to the kubeconfig of a "
        "cluster, or run this as root on Linux to get a Kubernetes of its own"
    )


def _our_kubeconfigs() -> set[Path]:
    return {layout.ADMIN, checkout_kubeconfig()}


def checkout_kubeconfig() -> Path:
    """Where `up` leaves a copy of the kubeconfig for people: .milepost/kubeconfig of this checkout."""
    return Path(__file__).resolve().parents[2] / ".milepost/kubeconfig"


def docker_answers() -> bool:
    """Whether a Docker engine can be spoken to."""
    return shutil.which("docker") is not None and preflight.ask("docker").returncode == 0
