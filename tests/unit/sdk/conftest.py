"""A true sidecar and a true runner against the pod protocol in memory."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from milepost.net.client import Client
from milepost.net.messages import Headers, Reply
from milepost.net.stream import Stream
from tests.fakes.podapi import FakeApi


class Pod:
    """A pod's two containers as processes; `log` has all they wrote."""

    def __init__(self, api: FakeApi, home: Path, stack: AsyncExitStack) -> None:
        self.api = api
        self.home = home
        self.socket = str(home / "s.sock")
        self.log = home / "log"
        self.sidecar: asyncio.subprocess.Process | None = None
        self._stack = stack
        (home / "token").write_text("pod-token\n")
        self.env = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(home),
            "PYTHONDONTWRITEBYTECODE": "1",
            "MILEPOST_API_URL": f"http://127.0.0.1:{api.port}",
            "MILEPOST_POD_ID": "abcdefgh12345678",
            "MILEPOST_SOCKET": self.socket,
            "MILEPOST_TOKEN_FILE": str(home / "token"),
        }

    async def _process(self, module: str) -> asyncio.subprocess.Process:
        with self.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", module, env=self.env, stdout=log, stderr=log, cwd=self.home
            )
        self._stack.push_async_callback(end, process)
        return process

    async def start_sidecar(self) -> asyncio.subprocess.Process:
        self.sidecar = await self._process("milepost.sidecar")
        return self.sidecar

    async def start_runner(self) -> asyncio.subprocess.Process:
        return await self._process("milepost.runner")

    async def run(self) -> int:
        """Run both to the runner's end; its exit code."""
        await self.start_sidecar()
        runner = await self.start_runner()
        async with asyncio.timeout(30):
            code = await runner.wait()
        await end(self.sidecar)
        return code

    async def cancelled(self) -> int:
        """Run both, with a cancel after the first record; the runner's exit code."""
        await self.start_sidecar()
        runner = await self.start_runner()
        await self.api.wait_until(lambda: bool(self.api.records))
        self.api.cancel = True
        async with asyncio.timeout(20):
            return await runner.wait()

    def source(self, text: str) -> None:
        """Give the task inline."""
        self.api.start["source"] = text

    def words(self) -> list[str]:
        """Give what the task noted, in order, over all attempts."""
        return [word for line in self.lines() for word in line.split()]

    def lines(self) -> list[str]:
        """Give what the task noted, a line each time."""
        noted = self.home / "noted"
        return noted.read_text().splitlines() if noted.exists() else []

    async def connected(self) -> Client:
        """Give a client of the sidecar's socket, once it listens."""
        client = Client(lambda: Stream.unix(self.socket), "milepost")
        self._stack.callback(client.close)
        async with asyncio.timeout(10):
            await until(Path(self.socket).exists)
        return client


async def until(holds: Callable[[], bool]) -> None:
    """Poll for what no event tells."""
    while not holds():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(3):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


async def curl(client: Client, method: str, path: str, body: bytes = b"", headers: Headers | None = None) -> Reply:
    async with asyncio.timeout(10):
        return await client.request(method, path, headers or [], body)


@pytest.fixture
async def pod(tmp_path: Path) -> AsyncIterator[Pod]:
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(FakeApi().serving())
        made = Pod(api, tmp_path, stack)
        try:
            yield made
        finally:
            if made.log.exists():
                sys.stdout.write(made.log.read_text())


@pytest.fixture
def kept():
    """The records of a run in memory."""
    from tests.unit.sdk.changing import Kept  # noqa: PLC0415  it imports this module

    return Kept()
