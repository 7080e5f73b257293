"""The Python clients against the true server, by TLS; and against one that can't answer."""

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from milepost import MilepostError, NotRecordableError
from milepost.client import (
    ApiError,
    AsyncMilepost,
    BadRequestError,
    BusyError,
    ConflictError,
    Created,
    Debounce,
    DeniedError,
    Milepost,
    NotFoundError,
    Singleton,
    Throttle,
    Trigger,
    UnavailableError,
    WaitTimeoutError,
)
from milepost_operator.adapters.postgres.store import PostgresStore
from tests.integration.engine import NS, apply_task, next_pod
from tests.integration.http_api import TOKEN, Api, serving


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    home = tmp_path_factory.mktemp("tls")
    cert, key = home / "tls.crt", home / "tls.key"
    options = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    subprocess.run(
        ["openssl", *options.split(), "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", cert],
        check=True,
        capture_output=True,
    )
    return cert, key


@pytest.fixture
async def api(store: PostgresStore, tmp_path: Path, pair: tuple[Path, Path]) -> AsyncIterator[Api]:
    await apply_task(store)
    async with serving(store, tmp_path, *pair) as opened:
        yield opened


async def test_the_async_client_does_it_all(api: Api, store: PostgresStore, pair: tuple[Path, Path]) -> None:
    async with AsyncMilepost(f"https://localhost:{api.port}", TOKEN, ca=pair[0]) as client:
        made = await client.trigger("index", {"top": 1}, priority=5, tags=["a"], idempotency_key="k")
        assert (made.duplicate, made.namespace, made.state) == (False, NS, "queued")
        assert (await client.trigger("index", {"top": 1}, idempotency_key="k")).id == made.id
        with pytest.raises(ConflictError, match="another input") as conflict:
            await client.trigger("index", {"top": 2}, idempotency_key="k")
        assert (conflict.value.code, conflict.value.status) == ("idempotency-mismatch", 409)
        waiting = asyncio.ensure_future(client.wait(made.name))
        await (await next_pod(store)).succeed('{"n": [1, null]}')
        ended = await asyncio.wait_for(waiting, 10)
        assert (ended.state, ended.result, ended.input, ended.tags) == (
            "succeeded",
            {"n": [1, None]},
            {"top": 1},
            ["a"],
        )
        assert ended.finished_at is not None
        assert ended.finished_at.tzinfo is not None
        answers = await client.trigger_batch(
            [
                Trigger("index", n, at=datetime.now(UTC) + timedelta(hours=1))
                if n % 2
                else Trigger("index", n, priority=999)
                for n in range(4)
            ]
        )
        assert [type(a) for a in answers] == [BadRequestError, Created, BadRequestError, Created]
        refused = answers[2]
        assert isinstance(refused, ApiError)
        assert refused.path == "$.items[2].priority"
        listed = [run async for run in client.list(task="index", limit="2")]
        assert len(listed) == 3
        delayed = next(run for run in listed if run.state == "delayed")
        with pytest.raises(WaitTimeoutError, match="delayed still"):
            await client.wait(delayed.id, timeout=0.1)
        assert (await client.cancel(delayed.id)).state == "cancelled"
        with pytest.raises(NotFoundError):
            await client.get("no-such")
        with pytest.raises(NotRecordableError):
            await client.trigger("index", {1, 2})  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="time zone"):
            await client.trigger("index", at=datetime(2027, 1, 1))  # noqa: DTZ001


async def test_the_plain_client_does_it_all(api: Api, pair: tuple[Path, Path]) -> None:
    def work() -> None:
        with Milepost(f"https://localhost:{api.port}", TOKEN, ca=pair[0]) as client:
            one = client.trigger("index", debounce=Debounce("d", 60))
            assert client.trigger("index", debounce=Debounce("d", 60)).id == one.id
            single = client.trigger("index", singleton=Singleton("s"))
            with pytest.raises(ConflictError, match="singleton"):
                client.trigger("index", singleton=Singleton("s", "reject"))
            assert client.get(single.name).id == single.id
            with pytest.raises(WaitTimeoutError):
                client.wait(single.id, timeout=0.1)
            assert client.cancel(single.id).ended
            assert client.wait(single.id).state == "cancelled"
            answers = client.trigger_batch([Trigger("index", n) for n in range(1500)])
            assert len({a.id for a in answers if isinstance(a, Created)}) == 1500
            assert sum(1 for _ in client.list(state="queued", limit="500")) == 1500
            began = time.monotonic()
            assert not client.trigger("index", throttle=Throttle("t", 1, 3600)).duplicate
            with pytest.raises(BusyError, match="come again") as busy:
                client.trigger("index", throttle=Throttle("t", 1, 3600))
            assert busy.value.retry_after
            assert busy.value.retry_after > 3000
            assert time.monotonic() - began < 10
        with pytest.raises(DeniedError), Milepost(f"https://localhost:{api.port}", "x" * 20, ca=pair[0]) as stranger:
            stranger.get("x")
        with pytest.raises(UnavailableError, match="certificate") as unknown:
            Milepost(f"https://localhost:{api.port}", TOKEN, tries=1).get("x")
        assert isinstance(unknown.value, MilepostError)

    await asyncio.to_thread(work)


class Flaky:
    """Answers 503, then breaks the connection after it took the request, then passes on what the API says."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.seen = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
        )
        request = head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + await reader.readexactly(length)
        self.seen += 1
        if self.seen == 1:
            writer.write(b"HTTP/1.1 503 Later\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        else:
            upstream, onward = await asyncio.open_connection("127.0.0.1", self.port)
            onward.write(request)
            answer = await upstream.read()
            onward.close()
            if self.seen > 2:
                writer.write(answer)
        writer.close()


@pytest.mark.parametrize("plain", [True, False])
async def test_a_lost_answer_makes_no_second_run(store: PostgresStore, tmp_path: Path, plain: bool) -> None:
    await apply_task(store)
    async with serving(store, tmp_path) as api:
        flaky = Flaky(api.port)
        server = await asyncio.start_server(flaky, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        began = time.monotonic()
        if plain:
            made = await asyncio.to_thread(lambda: Milepost(url, TOKEN).trigger("index"))
        else:
            async with AsyncMilepost(url, TOKEN) as client:
                made = await client.trigger("index")
        assert (flaky.seen, made.duplicate) == (3, True)
        assert time.monotonic() - began >= 0.8
        server.close()
        assert len(await store.list_runs(NS)) == 1


async def test_what_does_not_answer_is_given_up() -> None:
    async with AsyncMilepost("http://127.0.0.1:9", TOKEN, tries=3) as client:
        with pytest.raises(UnavailableError, match="no answer"):
            await client.get("x")
    for url in ("localhost:80", "ftp://x", "https://", "https://u:p@x"):
        with pytest.raises(ValueError, match="no address"):
            AsyncMilepost(url, TOKEN)
