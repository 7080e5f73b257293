"""Many sidecars at one api process: records a second and the wait for one, beside a bare app in the same run."""

import asyncio
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from e2e.bench.bars import Bar, percentile
from milepost.net.framing import Inbox, request_bytes
from milepost.net.stream import Stream
from milepost.wire.pod import PREFIX
from tests.apiserver import free_ports
from tests.benchmarks.rig import HOST, Rig
from tests.integration.engine import apply_task
from tests.unit.sdk.conftest import end

SECONDS = 4.0
WARM_SECONDS = 1.0
VALUE = json.dumps('"' + "x" * 100 + '"')
SHARE = 0.8
PER_SECOND = 6000.0
P99_MS = 35.0


class Writer:
    """One connection that sends a request when the one before is answered."""

    def __init__(self, stream: Stream, headers: list[tuple[str, str]]) -> None:
        self._stream = stream
        self._headers = headers
        self._inbox = Inbox()

    async def post(self, target: str, body: bytes) -> bytes:
        """The answer's body. RuntimeError for any status but 200."""
        await self._stream.send(request_bytes("POST", target, HOST, self._headers, body))
        while (head := self._inbox.reply()) is None:
            self._inbox.feed(await self._stream.receive())
        answer = b""
        while (piece := self._inbox.body()) != b"":
            if piece is None:
                self._inbox.feed(await self._stream.receive())
            else:
                answer += piece
        if head.status != 200:
            raise RuntimeError(answer.decode())
        return answer

    async def until(self, end_at: float, target: str, body: Callable[[int], bytes], took: list[float]) -> None:
        """Write until then; the milliseconds of each go to `took`."""
        number = 0
        while (begun := time.perf_counter()) < end_at:
            number += 1
            await self.post(target, body(number))
            took.append((time.perf_counter() - begun) * 1000)


async def _rate(
    writers: Sequence[tuple[Writer, Callable[[int], bytes]]], target: str, pid: int
) -> tuple[float, float, float]:
    """Records a second, the p99 of their milliseconds, and the server's microseconds of CPU for one."""
    for seconds, prefix in ((WARM_SECONDS, b"w"), (SECONDS, b"r")):
        took: list[float] = []
        begun, busy = time.perf_counter(), _busy(pid)
        running = (writer.until(begun + seconds, target, _named(prefix, body), took) for writer, body in writers)
        await asyncio.gather(*running)
    spent = time.perf_counter() - begun
    return len(took) / spent, percentile(took, 99), (_busy(pid) - busy) / len(took) / 1000


def _named(prefix: bytes, body: Callable[[int], bytes]) -> Callable[[int], bytes]:
    return lambda number: body(number).replace(b"KEY", prefix)


def _busy(pid: int) -> int:
    return sum(int(each.read_text().split()[0]) for each in Path(f"/proc/{pid}/task").glob("*/schedstat"))


async def throughput(rig: Rig, count: int) -> Sequence[Bar]:
    """The api's figures, and the share of the bare app's."""
    bare = await _bare(rig, count)
    await apply_task(rig.store)
    writers = [await _sidecar(rig, session.pod_id) for session in await rig.sessions(count)]
    ours = await _rate(writers, f"{PREFIX}/records", rig.api.pid)
    for name, (rate, p99, cpu) in (("bare", bare), ("api", ours)):
        print(f"{name}: {count} writers, {rate:.0f} records/s, p99 {p99:.1f} ms, {cpu:.0f} us of CPU for one")
    return [
        Bar("bare_to_writers", bare[0] / ours[0], "ratio", 1 / SHARE),
        Bar("writers_ms_per_1000", 1e6 / ours[0], "ms", 1e6 / PER_SECOND),
        Bar("writers_p99", ours[1], "ms", P99_MS),
    ]


async def _sidecar(rig: Rig, pod_id: str) -> tuple[Writer, Callable[[int], bytes]]:
    stream = await Stream.tcp(HOST, rig.port, rig.client_tls())
    opening = Writer(stream, [("Authorization", f"Bearer token-of-{pod_id}")])
    session = json.loads(await opening.post(f"{PREFIX}/session", json.dumps({"pod_id": pod_id}).encode()))
    writer = Writer(stream, [("Authorization", f"Bearer {session['token']}"), ("Content-Type", "application/json")])
    start = json.loads(await writer.post(f"{PREFIX}/start", b""))
    fence = json.dumps({name: start[name] for name in ("run_id", "attempt", "token")})

    def body(number: int) -> bytes:
        record = f'{{"write_id":"KEY{number}","kind":"step","key":"KEY{number}","value":{VALUE}}}'
        return f'{{"fence":{fence},"records":[{record}]}}'.encode()

    return writer, body


async def _bare(rig: Rig, count: int) -> tuple[float, float, float]:
    (port,) = free_ports(1)
    arguments = [str(port), str(rig.ca), str(rig.home / "api.key"), rig.settings.dsn, str(rig.server.ca or "-")]
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "tests.benchmarks.bare", *arguments)
    try:
        await _answers(rig, port)
        headers = [("Content-Type", "application/json")]
        writers = [Writer(await Stream.tcp(HOST, port, rig.client_tls()), headers) for _ in range(count)]
        made = [(writer, lambda n: f'{{"key":"KEY{n}","value":{VALUE}}}'.encode()) for writer in writers]
        return await _rate(made, "/records", process.pid)
    finally:
        await end(process)


async def _answers(rig: Rig, port: int) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                (await Stream.tcp(HOST, port, rig.client_tls())).close()
            except OSError:
                await asyncio.sleep(0.1)
            else:
                return
