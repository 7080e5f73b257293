"""Over real sockets: what an in-process transport can't show."""

import asyncio
import contextlib
import os
import signal
import socket
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from milepost.wire.pod import Record
from milepost_operator.api.health import Health
from milepost_operator.api.server import Listener, metrics_app, serve
from milepost_operator.api.sessions import KeyFileError
from tests.unit.api.conftest import Bench


@pytest.fixture
async def served(bench: Bench) -> AsyncIterator[Bench]:
    """The same bench behind a listener on a free port."""
    made = socket.create_server(("127.0.0.1", 0))
    listener = Listener(bench.app, 0)
    task = asyncio.create_task(listener.serve([made]))
    address = f"http://127.0.0.1:{made.getsockname()[1]}"
    async with httpx2.AsyncClient(base_url=address, trust_env=False) as client:
        bench.client = client
        yield bench
    listener.should_exit = True
    await task


async def test_a_stream_that_breaks_does_not_look_complete(served: Bench) -> None:
    sidecar = await served.pod()
    run = served.store.runs[sidecar.row.run_id]
    run.records.extend(Record(i, "step", f"k{i}", '"' + "x" * 70_000 + '"') for i in range(1, 3))
    assert (await sidecar.get("records", after=0)).text.count("\n") == 2
    real = served.store.records

    async def broken(fence, after, *, newest):
        async for record in real(fence, after, newest=newest):
            yield record
            raise RuntimeError("a bug")

    served.store.records = broken  # type: ignore[method-assign]
    with pytest.raises(httpx2.TransportError):
        await sidecar.get("records", after=0)
    assert (await sidecar.post("start")).status_code == 200


async def test_an_oversized_body_gets_its_answer_over_the_wire(served: Bench) -> None:
    sidecar = await served.pod()
    answer = await sidecar.client.post("/pod/v1/heartbeat", content=b"x" * 20_000, headers=sidecar.headers)
    assert (answer.status_code, answer.json()["code"]) == (413, "body-too-large")


async def test_a_request_whose_head_does_not_come_holds_no_connection(bench: Bench) -> None:
    made = socket.create_server(("127.0.0.1", 0))
    listener = Listener(bench.app, 0)
    task = asyncio.create_task(listener.serve([made]))
    address = made.getsockname()
    head = b"GET /healthz HTTP/1.1\r\nHost: a\r\n"
    slow = [await asyncio.open_connection(*address) for _ in range(3)]
    idle = await asyncio.open_connection(*address)
    for sent, (_, writer) in zip((b"", head[:5], head), slow, strict=True):
        writer.write(sent)
    idle[1].write(head + b"\r\n")
    await idle[0].readuntil(b"}")
    for later in (0.0, 30.0):
        listener.close_unfinished(time.monotonic() + later)
    for reader, writer in slow:
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()
    idle[1].write(head + b"\r\n")  # between two requests: the keep-alive's time
    await idle[0].readuntil(b"}")
    idle[1].close()
    listener.should_exit = True
    await task


async def test_both_ports_serve_until_the_signal_and_background_work_ends(bench: Bench) -> None:
    ended = asyncio.Event()

    async def background() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    side = metrics_app(bench.metrics, Health(bench.store.ready, dict))
    main_port, side_port = _free_port(), _free_port()
    task = asyncio.create_task(serve(Listener(bench.app, main_port), Listener(side, side_port), background))
    async with httpx2.AsyncClient(trust_env=False) as client:
        async with asyncio.timeout(5):
            while not await _answers(client, f"http://127.0.0.1:{side_port}/readyz"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        metrics = await client.get(f"http://127.0.0.1:{side_port}/metrics")
        assert "milepost_http_request_duration_seconds" in metrics.text
        assert (await client.get(f"http://127.0.0.1:{side_port}/v1/runs")).status_code == 404
        assert (await client.get(f"http://127.0.0.1:{main_port}/metrics")).status_code == 401
    os.kill(os.getpid(), signal.SIGTERM)
    async with asyncio.timeout(8):
        await task
    assert ended.is_set()


def test_half_a_tls_pair_is_refused(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(KeyFileError):
        Listener(bench.app, 0, tmp_path / "tls.crt")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as made:
        return int(made.getsockname()[1])


async def _answers(client: httpx2.AsyncClient, url: str) -> bool:
    try:
        return (await client.get(url)).status_code == 200
    except (httpx2.TransportError, ssl.SSLError):
        return False
