"""The operator as processes: probes, hand-over between two replicas, an end in order."""

import asyncio
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from milepost_operator.adapters.kube.client import KubeClient
from milepost_operator.adapters.kube.config import from_kubeconfig
from milepost_operator.settings import Settings
from tests.apiserver import free_ports

pytestmark = pytest.mark.usefixtures("crds")


async def get(port: int, path: str) -> tuple[int, str]:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return 0, ""
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    text = (await reader.read()).decode()
    writer.close()
    return int(text.split()[1]), text.partition("\r\n\r\n")[2]


class Replica:
    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process = process
        self.port = port

    async def until(self, path: str, said: str, seconds: float = 20.0) -> None:
        async with asyncio.timeout(seconds):
            while said not in (await get(self.port, path))[1]:  # noqa: ASYNC110 (polls with a deadline)
                await asyncio.sleep(0.1)


@pytest.fixture
async def namespace(kubeconfig: Path) -> AsyncIterator[str]:
    name = f"op-{secrets.token_hex(4)}"
    async with KubeClient(from_kubeconfig(kubeconfig)) as kube:
        await kube.create("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        yield name
        await kube.delete(f"/api/v1/namespaces/{name}")


async def start(settings: Settings, kubeconfig: Path, namespace: str) -> Replica:
    (port,) = free_ports(1)
    env = os.environ | {
        "KUBECONFIG": str(kubeconfig),
        "MILEPOST_DATABASE_URL": settings.dsn,
        "MILEPOST_NAMESPACES": namespace,
        "MILEPOST_OPERATOR_NAMESPACE": namespace,
        "MILEPOST_CLUSTER": namespace,
        "MILEPOST_RUNNER_IMAGE": "runner:1",
        "MILEPOST_METRICS_PORT": str(port),
    }
    command = (sys.executable, "-m", "milepost_operator", "operator")
    process = await asyncio.create_subprocess_exec(*command, env=env, stdout=asyncio.subprocess.DEVNULL)
    return Replica(process, port)


async def test_a_second_replica_takes_over_within_seconds(settings: Settings, kubeconfig: Path, namespace: str) -> None:
    first = await start(settings, kubeconfig, namespace)
    try:
        await first.until("/metrics", "milepost_operator_leader 1.0")
        await first.until("/readyz", '"problems": {}')
        second = await start(settings, kubeconfig, namespace)
        try:
            await second.until("/readyz", '"problems": {}')
            assert "milepost_operator_leader 0.0" in (await get(second.port, "/metrics"))[1]
            assert (await get(second.port, "/healthz"))[0] == 200
            assert (await get(second.port, "/other"))[0] == 404
            first.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(15):
                assert await first.process.wait() == 0
            await second.until("/metrics", "milepost_operator_leader 1.0", 6.0)
            await second.until("/metrics", "milepost_operator_epoch 2.0", 6.0)  # the first thing that a leader does
        finally:
            second.process.terminate()
            await second.process.wait()
    finally:
        if first.process.returncode is None:
            first.process.kill()
            await first.process.wait()
