"""Everything of a cluster that can be found on this machine: what `down` must bring to nothing."""

import json
from pathlib import Path

from e2e.cluster import cgroups, network
from e2e.cluster.layout import HOST_LINK, MOST_NODES, RANGES, STATE, Place
from e2e.cluster.processes import pids_in_namespaces, pids_mentioning
from e2e.cluster.shell import run

PLACES = [Place(index) for index in range(MOST_NODES)]


def leftovers() -> list[str]:
    """One line per thing that is still there; empty after a clean `down`."""
    found = [f"process {pid}: {_command(pid)}" for pid in sorted(processes())]
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    found += [f"mount {line.split()[4]}" for line in mounts if str(STATE) in line or "/run/netns/mp-" in line]
    found += [f"mount {line.split()[4]}" for line in mounts if "/run/netns/cni-" in line]
    links = json.loads(run(["ip", "-j", "link", "show"]).stdout)
    found += [f"interface {link['ifname']}" for link in links if _ours(link["ifname"])]
    namespaces = Path("/run/netns")
    found += [f"network namespace {path.name}" for path in sorted(namespaces.glob("mp-*"))]
    found += [f"control group {group}" for place in PLACES for group in cgroups.groups(place.cgroup)]
    found += [f"route {line.strip()}" for line in run(["ip", "route"]).stdout.splitlines() if _routes_ours(line)]
    for table in ("filter", "mangle"):
        found += [f"iptables {table} {rule}" for rule in network.rules_of(table) if "MILEPOST" in rule]
    if STATE.exists():
        found.append(f"directory {STATE}")
    return found


def processes() -> set[int]:
    """Processes in the cluster's network or mount namespaces, in its control groups, or with its files as arguments."""
    spaces = {place.netns_file.stat().st_ino for place in PLACES if place.netns_file.exists()}
    for place in PLACES:
        holder = place.run / "mounts.pid"
        if holder.exists():
            space = Path(f"/proc/{json.loads(holder.read_text() or '{}').get('pid')}/ns/mnt")
            spaces |= {space.stat().st_ino} if space.exists() else set()
    spaces -= {Path("/proc/self/ns/net").stat().st_ino, Path("/proc/self/ns/mnt").stat().st_ino}
    pids = pids_in_namespaces(spaces)
    for place in PLACES:
        pids |= cgroups.members(place.cgroup)
    return pids | pids_mentioning(f"{STATE}/node") | pids_mentioning(f"{STATE}/etcd")


def _ours(link: str) -> bool:
    return link == HOST_LINK or link.startswith("cali")


def _routes_ours(line: str) -> bool:
    return any(line.startswith((prefix, f"unreachable {prefix}")) for prefix in (*RANGES, "10.200.0.0/30"))


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:120]
    except (FileNotFoundError, ProcessLookupError):
        return "(ended)"
