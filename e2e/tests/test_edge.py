"""The counter of escaped packets counts: shown in a network namespace of its own, with a way out to nowhere."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="needs root on Linux"),
]

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import socket
from e2e.cluster import network
from e2e.cluster.shell import run
for words in (
    "link set lo up",
    "link add out type veth peer name far",
    "addr add 198.51.100.1/24 dev out",
    "addr add 10.244.0.9/32 dev out",
    "link set out up",
    "link set far up",
    "neigh add 198.51.100.2 lladdr 02:00:00:00:00:02 dev out",
    "route add default via 198.51.100.2",
):
    run(["ip", *words.split()])
network.ensure_edge()
network.ensure_edge()
counts = [network.escaped_packets()]
for source in ("198.51.100.1", "10.244.0.9"):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.bind((source, 0))
        for _ in range(3):
            sender.sendto(b"x", ("203.0.113.9", 9))
    counts.append(network.escaped_packets())
network.remove([])
print(*counts, sum("MILEPOST" in rule for table in ("filter", "mangle") for rule in network.rules_of(table)))
"""


def test_what_leaves_with_an_address_of_the_cluster_is_counted() -> None:
    inside = ["unshare", "--net", sys.executable, "-c", SCRIPT]
    done = subprocess.run(inside, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.split() == ["0", "0", "3", "0"], done.stderr
