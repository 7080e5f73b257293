"""A kind cluster and its engine from nothing to nothing. Destructive: it takes down the one of this machine."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.cluster import dockerd
from e2e.cluster.kind import KindCluster
from e2e.tests.machine import State, changes, state

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.environ.get("MILEPOST_E2E_LIFECYCLE") != "1", reason="set MILEPOST_E2E_LIFECYCLE=1"),
]


def start(**env: str) -> "subprocess.Popen[str]":
    given = os.environ | {"MILEPOST_PROVIDER": "kind", **env}
    command = [sys.executable, "-m", "e2e.cluster", "up"]
    return subprocess.Popen(command, cwd=ROOT, env=given, stderr=subprocess.PIPE, text=True)


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


@pytest.mark.parametrize("delay", [0.5, 2, 6, 12, 18])
def test_an_interrupted_start(delay: float) -> None:
    process = start()
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) in {0, 130}


@pytest.mark.parametrize("delay", [1, 4, 10])
def test_a_killed_start(delay: float) -> None:
    process = start()
    time.sleep(delay)
    process.kill()
    process.wait(10)


def test_a_failed_create() -> None:
    process = start(MILEPOST_KIND_IMAGE="milepost.local/no-such-image:1")
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "milepost.local/no-such-image:1" in said


def test_a_killed_engine() -> None:
    cluster = KindCluster()
    cluster.up()
    assert dockerd.engine() == f"unix://{dockerd.SOCKET}"
    os.kill(int((dockerd.RUN / "docker.pid").read_text()), signal.SIGKILL)
