"""Where things are: addresses, names and directories of the cluster on this machine."""

from dataclasses import dataclass
from pathlib import Path

STATE = Path("/var/lib/milepost/cluster")
LOCK = Path("/run/lock/milepost-cluster.lock")

PODS = "10.244.0.0/16"
SERVICES = "10.96.0.0/16"
NODES = "10.200.0.0/16"
RANGES = (PODS, SERVICES, NODES)
DNS = "10.96.0.10"
HOST_IP = "10.200.0.1"
HOST_LINK = "mp0"  # the machine's end of the veth to node0
MOST_NODES = 2
OUTSIDE = "mp-outside"
"""Network namespace of what stands for the world, where a test wants one."""
OUTSIDE_LINK = ("10.200.99.1", "10.200.99.2")  # the first node's end, and the other


@dataclass(frozen=True)
class Place:
    """One node: its name, addresses, namespaces and directories."""

    index: int

    @property
    def name(self) -> str:
        return f"node{self.index}"

    @property
    def netns(self) -> str:
        return f"mp-{self.name}"

    @property
    def netns_file(self) -> Path:
        return Path("/run/netns") / self.netns

    @property
    def cgroup(self) -> str:
        return f"milepost-{self.name}"

    @property
    def ip(self) -> str:
        return f"10.200.{self.index}.2"

    @property
    def gateway(self) -> str:
        return f"10.200.{self.index}.1"

    @property
    def pods(self) -> str:
        return f"10.244.{self.index}.0/24"

    @property
    def home(self) -> Path:
        return STATE / self.name

    @property
    def run(self) -> Path:
        return self.home / "run"

    @property
    def log(self) -> Path:
        return STATE / "log" / self.name

    def in_network(self) -> list[str]:
        """The words that run a program in the node's network."""
        return ["nsenter", f"--net={self.netns_file}"]


FIRST = Place(0)
SERVER = f"https://{FIRST.ip}:6443"
ADMIN = STATE / "admin.kubeconfig"
