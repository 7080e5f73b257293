"""The pod network of a kind cluster made of the local node image: one route per node, no image, no daemon."""

import json
from collections.abc import Callable

from e2e.cluster.kubectl import Kubectl
from e2e.cluster.shell import wait_until

PODS = "10.245.0.0/16"
SERVICES = "10.97.0.0/16"
CONFLIST = "/etc/cni/net.d/10-milepost.conflist"
# What pods send out of the cluster carries the node's address, or no answer would find back, not even a refusal.
LEAVING = f"POSTROUTING -s {PODS} ! -d {PODS} -j MASQUERADE"
MASQUERADE = f"iptables -w -t nat -C {LEAVING} 2>/dev/null || iptables -w -t nat -A {LEAVING}"


def connect(kubectl: Kubectl, execute: Callable[[str, str], object]) -> None:
    """Give every node its range of pod addresses and the routes to the others'; `execute(node, script)` runs in one.

    Addresses of nodes may change when they start again, so this is done after every start.
    """
    wait_until("the nodes' pod ranges", lambda: all(_ranges(kubectl).values()), 60, 0.5)
    ranges, addresses = _ranges(kubectl), _addresses(kubectl)
    for node in ranges:
        routes = [f"ip route replace {ranges[other]} via {addresses[other]}" for other in ranges if other != node]
        write = f"mkdir -p /etc/cni/net.d; printf '%s' '{conflist(ranges[node])}' > {CONFLIST}"
        execute(node, "; ".join([write, *routes, MASQUERADE]))


def conflist(pods: str) -> str:
    """The CNI configuration of a node whose pods get addresses of `pods`."""
    ipam = {
        "type": "host-local",
        "dataDir": "/run/cni-ipam-state",
        "ranges": [[{"subnet": pods}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    plugins = [
        {"type": "ptp", "ipMasq": False, "ipam": ipam},
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ]
    return json.dumps({"cniVersion": "1.0.0", "name": "milepost", "plugins": plugins})


def _ranges(kubectl: Kubectl) -> dict[str, str]:
    return _by_node(kubectl, "{.spec.podCIDR}")


def _addresses(kubectl: Kubectl) -> dict[str, str]:
    return _by_node(kubectl, '{.status.addresses[?(@.type=="InternalIP")].address}')


def _by_node(kubectl: Kubectl, path: str) -> dict[str, str]:
    listing = kubectl.value(f"{{range .items[*]}}{{.metadata.name}}={path} {{end}}", "nodes")
    return dict(pair.split("=", 1) for pair in listing.split())
