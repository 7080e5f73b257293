"""A kind cluster and its engine from nothing to nothing. Destructive: it takes down the one of this machine."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.cluster import dockerd
from e2e.cluster.kind import KindCluster
from e2e.cluster.shell import wait_until
from e2e.tests.machine import State, changes, state
from e2e.tests.starts import DESTRUCTIVE, start

STAGES = {
    "network": Path("/run/netns") / dockerd.NETNS,
    "engine": dockerd.SOCKET,
    "nodes": KindCluster().home / "cluster.json",
    "pods": KindCluster().kubeconfig,
}
"""What is there as soon as a start has come to each."""

pytestmark = DESTRUCTIVE


def started_up_to(stage: str) -> "subprocess.Popen[str]":
    process = start("kind")
    wait_until(stage, STAGES[stage].exists, 120, 0.02)
    return process


@pytest.fixture(scope="module")
def before() -> State:
    """The machine without a cluster, after a first one: what the kernel loads for it stays."""
    cluster = KindCluster()
    cluster.up()
    cluster.down()
    return state()


@pytest.fixture(autouse=True)
def nothing(before: State) -> Iterator[None]:
    """After each test and a `down` the machine is as it was."""
    yield
    KindCluster().down()
    assert changes(before, state()) == []


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_cluster(nodes: int) -> None:
    cluster = KindCluster()
    cluster.up(nodes=nodes)
    assert len(cluster.kubectl("get", "nodes", "-o", "name").stdout.split()) == nodes
    began = time.monotonic()
    cluster.up(nodes=nodes)
    assert time.monotonic() - began < 10, "it is adopted"


@pytest.mark.parametrize("stage", STAGES)
def test_an_interrupted_start(stage: str) -> None:
    process = started_up_to(stage)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130


@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_start(stage: str) -> None:
    process = started_up_to(stage)
    process.kill()
    process.wait(10)


def test_a_failed_create() -> None:
    process = start("kind", stderr=subprocess.PIPE, MILEPOST_KIND_IMAGE="milepost.local/no-such-image:1")
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "milepost.local/no-such-image:1" in said


def test_a_killed_engine() -> None:
    cluster = KindCluster()
    cluster.up()
    assert dockerd.engine() == f"unix://{dockerd.SOCKET}"
    os.kill(int((dockerd.RUN / "docker.pid").read_text()), signal.SIGKILL)
