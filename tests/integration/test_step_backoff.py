"""Steps that are tried again, by true processes on a true Postgres: what users' HTTP clients raise, and long waits."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from textwrap import dedent

import orjson
import pytest

from milepost.wire.pod import Wait
from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.domain.runs import QueueIntake, Retry, RunView
from tests.integration.engine import NS, apply_task, eventually, next_pod, trigger
from tests.integration.test_pod_processes import port, run_pod

__all__ = ["port"]

HEAD = """
import os
from milepost import Context, Retry, SyncContext, step, task
"""
CLIENTS = {
    "httpx2": """
        async def get(url):
            import httpx2
            async with httpx2.AsyncClient(trust_env=False) as client:
                return (await client.get(url)).raise_for_status().text
    """,
    "httpx": """
        async def get(url):
            import httpx
            async with httpx.AsyncClient(trust_env=False) as client:
                return (await client.get(url)).raise_for_status().text
    """,
    "requests": """
        def get(url):
            import requests
            answer = requests.get(url, timeout=5)
            answer.raise_for_status()
            return answer.text
    """,
    "aiohttp": """
        async def get(url):
            import aiohttp
            async with aiohttp.ClientSession(raise_for_status=True) as session, session.get(url) as answer:
                return await answer.text()
    """,
    "urllib": """
        def get(url):
            from urllib.request import urlopen
            return urlopen(url, timeout=5).read().decode()
    """,
}


class Server:
    """Answers each path by its script, one line a request, the last for ever; `seen` counts them."""

    def __init__(self) -> None:
        self.url = ""
        self.seen: Counter[str] = Counter()
        self.scripts: dict[str, list[str]] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        path = head.split()[1].decode()
        script = self.scripts[path]
        line = script[min(self.seen[path], len(script) - 1)]
        self.seen[path] += 1
        if line == "reset":
            writer.transport.abort()
            return
        status, *headers = line.split("|")
        lines = [f"HTTP/1.1 {status}", "Content-Length: 2", "Connection: close", *headers]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\nok")
        await writer.drain()
        writer.close()


@asynccontextmanager
async def serving() -> AsyncIterator[Server]:
    made = Server()
    listener = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        listener.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving() as made:
        yield made


async def apply(store: PostgresStore, text: str, **changes: object) -> None:
    await apply_task(store, shape={"source": {"inline": HEAD + dedent(text)}}, **changes)


async def view(store: PostgresStore, run_id: object) -> RunView:
    return await store.get_run(NS, str(run_id))


async def tries(store: PostgresStore, run_id: object) -> list[dict]:
    query = "select value from records where run_id = $1 and kind = 'checkpoint' and key like '~retry/%' order by seq"
    return [orjson.loads(row["value"]) for row in await store._db.fetch(query, run_id)]


@pytest.mark.parametrize("client", CLIENTS)
async def test_what_a_client_raises_is_tried_again_or_not(
    store: PostgresStore, port: int, server: Server, tmp_path: Path, client: str
):
    pytest.importorskip(client)
    server.scripts = {
        "/flaky": ["503 Busy|Retry-After: 0", "reset", "429 Slow Down|Retry-After: 0", "200 OK"],
        "/bad": ["400 Bad Request"],
    }
    text = dedent(CLIENTS[client]) + dedent("""
        retry = Retry(max_attempts=5, min_seconds=0.02, max_seconds=0.02)

        @task
        async def main(ctx: Context, url: str):
            await ctx.step("flaky", get, url + "/flaky", retry=retry)
            await step(name="bad", retry=retry)(get)(url + "/bad")
    """)
    await apply(store, text, retry=Retry(max_attempts=5, min_seconds=0.0, max_seconds=0.0))
    created = await trigger(store, input=orjson.dumps({"url": server.url}).decode())
    code, log = await run_pod(store, port, tmp_path / "one")
    assert code == 70, log
    assert server.seen == {"/flaky": 4, "/bad": 1}, log
    told = await tries(store, created.run_id)
    failed = 2 if client == "aiohttp" else 3  # it repeats a GET by itself when the connection breaks
    assert [(t["step"], t["failed"]) for t in told] == [("flaky", n + 1) for n in range(failed)], log
    run = await view(store, created.run_id)
    assert (run.state, run.reason, run.attempts_counted) == ("failed", "FatalError", 1), "no other attempt would help"
    assert "400" in str(run.message)


LONG = """
@task
{0}def main(ctx: {1}Context, url: str):
    def get():
        from urllib.request import urlopen
        if ctx.run.attempt == 3:
            os._exit(9)
        return urlopen(url + "/job", timeout=5).read().decode()

    {2}ctx.step("first", lambda: 1)
    got = {2}ctx.step("job", get, retry=Retry(max_attempts=4, min_seconds=0.5, max_seconds=0.5, hold_seconds=0))
    return [got, ctx.run.attempt, ctx.run.cause, ctx.run.failures]
"""


@pytest.mark.parametrize("form", ["async", "plain"])
async def test_long_waits_release_the_pod_and_the_count_survives_a_crash(
    store: PostgresStore, port: int, server: Server, tmp_path: Path, form: str
):
    parts = ("async ", "", "await ") if form == "async" else ("", "Sync", "")
    server.scripts = {"/job": ["503 Busy", "reset", "502 Bad", "200 OK"]}
    await apply(store, LONG.format(*parts), retry=Retry(max_attempts=2, min_seconds=0.0, max_seconds=0.0))
    created = await trigger(store, input=orjson.dumps({"url": server.url}).decode())
    codes, states = [], []
    for number in range(5):
        due = await view(store, created.run_id)
        if due.ready_at is not None:
            await asyncio.sleep(max(0.0, (due.ready_at - datetime.now(UTC)).total_seconds()))
        code, log = await run_pod(store, port, tmp_path / str(number))
        run = await view(store, created.run_id)
        codes.append(code)
        states.append((run.state, run.reason, run.attempts_counted))
        if number == 0:
            why = await store.why(created.run_id)
            assert why is not None
            assert (why.code, why.next_at) == ("StepBackoff", run.ready_at)
            assert why.sentence.startswith("step `job` failed in 1 of 4 tries: HTTPError: HTTP Error 503: Busy, at 20")
    assert codes == [0, 0, 70, 0, 0], log
    assert states == [
        ("backoff", "StepBackoff", 0),
        ("backoff", "StepBackoff", 0),
        ("backoff", "ProcessCrashed", 1),
        ("backoff", "StepBackoff", 1),
        ("succeeded", "Succeeded", 1),
    ], log
    assert run.result == '["ok",5,"resume",1]'
    assert server.seen == {"/job": 4}
    assert [t["failed"] for t in await tries(store, created.run_id)] == [1, 2, 3]
    query = "select reason, message from run_events where run_id = $1 and reason = 'StepBackoff' order by seq"
    first = (await store._db.fetch(query, created.run_id))[0]["message"]
    assert first.startswith("attempt 1 ended to wait (0 s, counts for nothing): step `job` failed in 1 of 4 tries")


async def test_the_end_of_the_task_is_judged_in_the_same_way(
    store: PostgresStore, port: int, server: Server, tmp_path: Path
):
    text = dedent(CLIENTS["httpx2"]) + dedent("""
        @task
        async def main(url: str):
            return await get(url + "/job")
    """)
    server.scripts = {"/job": ["429 Slow Down|Retry-After: 300"]}
    await apply(store, text)
    created = await trigger(store, input=orjson.dumps(server.url).decode())
    await run_pod(store, port, tmp_path / "one")
    run = await view(store, created.run_id)
    assert (run.state, run.reason, run.attempts_counted) == ("backoff", "TaskFailed", 1)
    assert run.ready_at is not None
    assert 280 < (run.ready_at - datetime.now(UTC)).total_seconds() <= 300


async def test_a_step_that_waits_keeps_its_place_and_spends_nothing(store: PostgresStore) -> None:
    await store.apply_queue(QueueIntake(NS, "one", "u", 1, 1))
    await apply_task(store, queue="one")
    first, second = await trigger(store), await trigger(store)
    pod = await next_pod(store)
    told = "step `job` failed in 1 of 4 tries: TimeoutError: slow"
    waits = [Wait("~retry/b", "retry", name="step `b` failed", seconds=900), Wait("~retry/job", "retry", told, 0.3)]
    assert await pod.suspend(*waits) == await pod.suspend(*waits) == "backoff"
    run = await view(store, first.run_id)
    assert (run.state, run.reason, run.message, run.attempts_counted) == (
        "backoff", "StepBackoff", f"{told} (and 1 more)", 0,
    )  # fmt: skip
    other = await next_pod(store)
    assert other.start.run_id == str(second.run_id), "the only slot is free"
    third = await trigger(store)

    async def due() -> bool:
        return await store.promote(10) == 1

    await eventually(due)
    await other.succeed()
    again = await next_pod(store)
    assert again.start.run_id == str(first.run_id), "before those that came later"
    assert (again.start.cause, again.start.attempts_counted, again.start.waits) == ("resume", 0, [])
    assert [a.reason for a in await store.get_attempts(first.run_id)] == ["StepBackoff", None]
    await again.succeed()
    await store.cancel_run(third.run_id, "test")


async def test_cancelling_while_a_step_waits_ends_the_run_at_once(store: PostgresStore) -> None:
    await apply_task(store)
    created = await trigger(store)
    pod = await next_pod(store)
    await pod.suspend(Wait("~retry/job", "retry", "step `job` failed", 900))
    await store.cancel_run(created.run_id, "test")
    assert (await view(store, created.run_id)).state == "cancelled"
    assert await store.promote(10) == 0


async def test_a_try_among_other_waits_is_a_timer(store: PostgresStore) -> None:
    await apply_task(store)
    created = await trigger(store)
    pod = await next_pod(store)
    told = Wait("~retry/job", "retry", "step `job` failed", 900)
    assert await pod.suspend(told, Wait("ok", "signal", "ok")) == "suspended"
    why = await store.why(created.run_id)
    assert why is not None
    assert why.sentence.startswith("suspended, waits for timer `step `job` failed` until ")
    await store.signal_run(created.run_id, "ok", "1")
    assert (await view(store, created.run_id)).state == "queued"


async def test_the_first_example_of_the_docs(store: PostgresStore, port: int, server: Server, tmp_path: Path):
    page = Path(__file__).parents[2] / "docs/retries.md"
    example = page.read_text().split("```python\n")[1].split("```")[0]
    server.scripts = {"/": ["503 Busy|Retry-After: 0", "200 OK"]}
    await apply_task(store, shape={"source": {"inline": example}})
    created = await trigger(store, input=orjson.dumps({"url": f"{server.url}/"}).decode())
    code, log = await run_pod(store, port, tmp_path / "one")
    assert code == 0, log
    assert (await view(store, created.run_id)).result == "1"
    assert server.seen == {"/": 2}
