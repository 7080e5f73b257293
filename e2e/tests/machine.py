"""What a cluster could change on this machine, besides its processes: compare it before and after."""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from e2e.cluster.shell import run

SETTINGS = Path("/proc/sys")
GROUPS = Path("/sys/fs/cgroup")
NAMESPACES = Path("/run/netns")
WRITABLE = 0o200
MOVING = re.compile(
    r"kernel/(ns_last_pid|random/.*|sched_.*)|.*/neigh/.*|fs/(dentry|file|inode)-.*|net/core/netdev_rss_key"
)
"""Settings that the kernel itself writes."""

State = Mapping[str, frozenset[str]]


def state() -> State:
    """Look at interfaces, addresses, routes, rules, mounts, namespaces, settings and control groups."""
    return {
        "interface": frozenset(f"{one['ifname']} {one['mtu']}" for one in json.loads(run(["ip", "-j", "link"]).stdout)),
        "address": frozenset(
            f"{one['ifname']} {address['local']}/{address['prefixlen']}"
            for one in json.loads(run(["ip", "-j", "address"]).stdout)
            for address in one["addr_info"]
        ),
        "route": _lines("ip", "route", "show", "table", "all") | _lines("ip", "-6", "route", "show", "table", "all"),
        "rule": _lines("ip", "rule") | _lines("ip", "-6", "rule"),
        "filter": frozenset(
            line for line in _lines("iptables-save") if line.startswith("-") or line.endswith(" - [0:0]")
        ),
        "mount": frozenset(line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()),
        "namespace": frozenset(path.name for path in NAMESPACES.glob("*")),
        "setting": _settings(),
        "control group": frozenset(str(path.relative_to(GROUPS)) for path in GROUPS.glob("*/*") if path.is_dir()),
    }


def changes(before: State, after: State) -> list[str]:
    """One line for each thing that came or went."""
    found = []
    for kind, things in before.items():
        found += [f"{kind} gone: {thing}" for thing in sorted(things - after[kind])]
        found += [f"{kind} left: {thing}" for thing in sorted(after[kind] - things)]
    return found


def _lines(*argv: str) -> frozenset[str]:
    return frozenset(run(list(argv)).stdout.splitlines())


def _settings() -> frozenset[str]:
    found = set()
    for path in SETTINGS.rglob("*"):
        name = str(path.relative_to(SETTINGS))
        if MOVING.fullmatch(name):
            continue
        with suppress(OSError):  # some can only be written
            if path.is_file() and path.stat().st_mode & WRITABLE:
                found.add(f"{name} = {path.read_bytes().decode(errors='replace').strip()}")
    return frozenset(found)
