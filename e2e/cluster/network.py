"""Namespaces, links and the edge: the cluster reaches itself and this machine, and nothing else."""

import json
import re
from collections.abc import Iterable
from pathlib import Path

from e2e.cluster.layout import FIRST, HOST_LINK, NODES, OUTSIDE, OUTSIDE_LINK, PODS, RANGES, SERVICES, Place
from e2e.cluster.shell import run

EDGE = "MILEPOST-EDGE"
ESCAPED = "MILEPOST-ESCAPED"
POD_GATEWAY = "169.254.1.1"
FALLBACK = "4000"  # metric of the routes that hold when the link is gone


def ensure_edge() -> None:
    """Refuse to forward anything from or to the cluster, and count what leaves by a default route all the same.

    This comes before the link: an address that no Service rule rewrites yet would otherwise follow the default route.
    """
    for prefix in RANGES:
        run(["ip", "route", "replace", "unreachable", prefix, "metric", FALLBACK])
    _ensure_chain("filter", EDGE)
    for direction in ("-i", "-o"):
        _ensure_rule("filter", [EDGE, direction, HOST_LINK, "-j", "REJECT"])
    _ensure_jump("filter", ["FORWARD", "-j", EDGE])
    _ensure_chain("mangle", ESCAPED)
    for prefix in RANGES:
        _ensure_rule("mangle", [ESCAPED, "-s", prefix])
    for link in uplinks():
        _ensure_jump("mangle", ["POSTROUTING", "-o", link, "-j", ESCAPED])


def uplinks() -> list[str]:
    """The interfaces of this machine's default routes."""
    routes = json.loads(run(["ip", "-j", "route", "show", "default"]).stdout or "[]")
    return sorted({route["dev"] for route in routes if "dev" in route})


def escaped_packets() -> int:
    """How many packets with a source address of the cluster left by a default route since `up`."""
    return count_packets(run(["iptables", "-w", "-t", "mangle", "-nvxL", ESCAPED]).stdout)


def count_packets(listing: str) -> int:
    """The sum of the packet counters in the output of `iptables -nvxL CHAIN`."""
    return sum(int(found[1]) for found in re.finditer(r"^\s*(\d+)\s+\d+\s", listing, re.MULTILINE))


def ensure_first(place: Place) -> None:
    """The network namespace of the first node and its link to the machine."""
    _ensure_namespace(place)
    if not _has_link(None, HOST_LINK):
        run(["ip", "link", "add", HOST_LINK, "type", "veth", "peer", "name", "eth0", "netns", place.netns])
    run(["ip", "addr", "replace", f"{place.gateway}/30", "dev", HOST_LINK])
    run(["ip", "link", "set", HOST_LINK, "up"])
    _configure_eth0(place)
    # Service addresses need a route before kube-proxy's rules rewrite them, and so does the gateway that Calico gives
    # pods, or the kernel would not answer ARP requests for it. Everything else fails at once, here.
    for prefix in (SERVICES, POD_GATEWAY):
        run(["ip", "-n", place.netns, "route", "replace", prefix, "via", place.gateway])
    run(["ip", "-n", place.netns, "route", "replace", "unreachable", "default"])
    # The host may talk to pods, Services and nodes directly: kube-proxy in the first node rewrites for it, too.
    for prefix in (PODS, SERVICES, NODES):
        run(["ip", "route", "replace", prefix, "via", place.ip, "dev", HOST_LINK])


def ensure_further(place: Place) -> None:
    """The network namespace of a further node, linked to the first node's."""
    _ensure_namespace(place)
    link = f"mp{place.index}"
    first = ["ip", "-n", FIRST.netns]
    if not _has_link(FIRST, link):
        run([*first, "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", place.netns])
    run([*first, "addr", "replace", f"{place.gateway}/30", "dev", link])
    run([*first, "link", "set", link, "up"])
    _configure_eth0(place)
    run(["ip", "-n", place.netns, "route", "replace", "default", "via", place.gateway])
    run([*first, "route", "replace", place.pods, "via", place.ip])


def remove_further(place: Place) -> None:
    """Take down the network namespace of a further node, and with it the link to the first node's."""
    run(["ip", "netns", "del", place.netns])


def ensure_outside(addresses: Iterable[str]) -> None:
    """A network namespace beside the first node that has these addresses, with routes to them; no way leads on."""
    near, far = OUTSIDE_LINK
    inside, first = ["ip", "-n", OUTSIDE], ["ip", "-n", FIRST.netns]
    remove_outside()
    run(["ip", "netns", "add", OUTSIDE])
    run([*inside, "link", "set", "lo", "up"])
    run([*first, "link", "add", "outside", "type", "veth", "peer", "name", "eth0", "netns", OUTSIDE])
    run([*first, "addr", "add", f"{near}/30", "dev", "outside"])
    run([*first, "link", "set", "outside", "up"])
    run([*inside, "addr", "add", f"{far}/30", "dev", "eth0"])
    run([*inside, "link", "set", "eth0", "up"])
    for address in addresses:
        run([*inside, "addr", "add", f"{address}/32", "dev", "lo"])
        run([*first, "route", "replace", address, "via", far])


def remove_outside() -> None:
    """Take it down, with its link and routes, if it is there."""
    run(["ip", "-n", FIRST.netns, "link", "del", "outside"], check=False)
    run(["ip", "netns", "del", OUTSIDE], check=False)


def remove(places: list[Place]) -> None:
    """Take down links, namespaces, routes and rules, whatever of them there is."""
    remove_outside()
    run(["ip", "link", "del", HOST_LINK], check=False)
    for place in places:
        run(["ip", "netns", "del", place.netns], check=False)
    shared = Path("/run/netns")
    if shared.is_mount() and not any(shared.iterdir()):
        run(["umount", shared])  # what `ip netns` mounted for the first of them
    for prefix in RANGES:
        run(["ip", "route", "del", "unreachable", prefix, "metric", FALLBACK], check=False)
    for table, chain in (("filter", EDGE), ("mangle", ESCAPED)):
        for rule in rules_of(table):
            if f"-j {chain}" in rule:
                run(["iptables", "-w", "-t", table, "-D", *rule.split()[1:]])
        run(["iptables", "-w", "-t", table, "-F", chain], check=False)
        run(["iptables", "-w", "-t", table, "-X", chain], check=False)


def rules_of(table: str) -> list[str]:
    """The rules of this machine's iptables table, as iptables-save writes them."""
    return run(["iptables", "-w", "-t", table, "-S"], check=False).stdout.splitlines()


def _ensure_namespace(place: Place) -> None:
    if place.netns not in run(["ip", "netns", "list"]).stdout.split():
        run(["ip", "netns", "add", place.netns])
    script = "for f in all default; do echo 1 > /proc/sys/net/ipv6/conf/$f/disable_ipv6; done 2>/dev/null"
    run([*place.in_network(), "sh", "-c", f"echo 1 > /proc/sys/net/ipv4/ip_forward; {script}; true"])
    run(["ip", "-n", place.netns, "link", "set", "lo", "up"])


def _configure_eth0(place: Place) -> None:
    inside = ["ip", "-n", place.netns]
    run([*inside, "addr", "replace", f"{place.ip}/30", "dev", "eth0"])
    run([*inside, "link", "set", "eth0", "up"])


def _has_link(place: Place | None, link: str) -> bool:
    inside = ["-n", place.netns] if place else []
    return run(["ip", *inside, "link", "show", link], check=False).returncode == 0


def _ensure_chain(table: str, chain: str) -> None:
    if f"-N {chain}" not in rules_of(table):
        run(["iptables", "-w", "-t", table, "-N", chain])


def _ensure_rule(table: str, rule: list[str]) -> None:
    if run(["iptables", "-w", "-t", table, "-C", *rule], check=False).returncode:
        run(["iptables", "-w", "-t", table, "-A", *rule])


def _ensure_jump(table: str, rule: list[str]) -> None:
    if run(["iptables", "-w", "-t", table, "-C", *rule], check=False).returncode:
        run(["iptables", "-w", "-t", table, "-I", *rule])
