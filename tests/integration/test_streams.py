"""Streams of runs, from the task's process to who reads them."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from textwrap import dedent
from uuid import UUID

import httpx2
import pytest

from milepost.client import ApiError, AsyncMilepost, Chunk, Milepost
from milepost.wire.pod import ChunkWrite, StreamRequest
from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.domain.runs import Retry
from tests.integration.engine import NS, Pod, apply_task, next_pod, trigger
from tests.integration.http_api import TOKEN, Api, serving
from tests.integration.test_changed_code import Runs, client, port, runs  # noqa: F401  (fixtures)


@pytest.fixture
async def api(store: PostgresStore, tmp_path) -> AsyncIterator[Api]:
    await apply_task(store)
    async with serving(store, tmp_path) as found:
        yield found


async def tell(pod: Pod, *values: str) -> None:
    first = len(await pod.store.chunks(_id(pod), 0, 1000))
    chunks = [ChunkWrite(f"c{first + n}", value) for n, value in enumerate(values)]
    (answer,) = await pod.store.append_chunks([(pod.session, StreamRequest(pod.fence, chunks))])
    assert answer == [first + n + 1 for n in range(len(values))]


def _id(pod: Pod) -> UUID:
    return UUID(pod.start.run_id)


async def test_pages_wait_for_what_is_told_next(api: Api, store: PostgresStore):
    created = await trigger(store)
    pod = await next_pod(store)
    url = f"/v1/runs/{created.name}/stream"
    assert (await api.client.get(url)).json() == {"items": [], "next": 0, "ended": False}
    waiting = asyncio.create_task(api.client.get(url, params={"wait": 20}))
    await tell(pod, '{"t":\n"a"}', "[1]", "null")
    page = (await waiting).json()
    first = page["items"][0]
    assert (first["position"], first["attempt"], first["value"]) == (1, 1, {"t": "a"})
    rest = (await api.client.get(url, params={"after": 1, "limit": 1})).json()
    assert ([i["value"] for i in rest["items"]], rest["next"], rest["ended"]) == ([[1]], 2, False)
    ending = asyncio.create_task(api.client.get(url, params={"after": 3, "wait": 20}))
    await pod.succeed()
    assert (await ending).json() == {"items": [], "next": 3, "ended": True}


async def test_misuse_of_the_route_is_named(api: Api, store: PostgresStore):
    created = await trigger(store)
    url = f"/v1/runs/{created.name}/stream"
    for query, status in (
        ("after=-1", 422),
        ("after=x", 422),
        ("limit=0", 422),
        ("limit=1001", 422),
        ("wait=61", 422),
        ("x=1", 422),
    ):
        assert (await api.client.get(f"{url}?{query}")).status_code == status
    assert (await api.client.get("/v1/runs/nothing/stream")).status_code == 404
    assert (await api.client.get(f"{url}?namespace=other")).status_code == 403
    events = {"Accept": "text/event-stream", "Last-Event-ID": "three"}
    assert (await api.client.get(url, headers=events)).json()["path"] == "Last-Event-ID"


async def test_events_come_as_they_are_told_and_go_on_where_they_broke(api: Api, store: PostgresStore):
    created = await trigger(store)
    pod = await next_pod(store)
    await tell(pod, '{"a":\n1}', '"b"')
    url, accept = f"/v1/runs/{created.name}/stream", {"Accept": "text/event-stream"}
    async with api.client.stream("GET", url, headers=accept | {"Last-Event-ID": "1"}) as events:
        assert events.headers["content-type"].startswith("text/event-stream")
        lines = events.aiter_lines()
        assert await anext(lines) == "id: 2"
        assert '"value":"b"' in await anext(lines)
        await tell(pod, "3")
        assert [line for line in [await anext(lines), await anext(lines)] if line] == ["id: 3"]
    async with api.client.stream("GET", url, headers=accept) as events:
        await pod.succeed()
        text = "".join([part async for part in events.aiter_text()])
    assert [line for line in text.splitlines() if line.startswith(("id", "event"))] == [
        "id: 1",
        "id: 2",
        "id: 3",
        "event: end",
    ]
    assert '"value":{"a": 1}' in text


async def test_the_clients_read_to_the_end(api: Api, store: PostgresStore):
    created = await trigger(store)
    pod = await next_pod(store)
    await tell(pod, "1")
    seen: list[object] = []
    async with AsyncMilepost(api.url, TOKEN) as client:  # noqa: F811
        async for chunk in client.stream(created.name):
            seen.append((chunk.position, chunk.attempt, chunk.value))
            if len(seen) == 1:
                await tell(pod, '"two"')
            elif len(seen) == 2:
                await pod.succeed()
        assert seen == [(1, 1, 1), (2, 1, "two")]
        with pytest.raises(ApiError):
            [one async for one in client.stream("nothing")]

    def read() -> list[Chunk]:
        with Milepost(api.url, TOKEN) as plain:
            return list(plain.stream(created.name, after=1))

    found = await asyncio.to_thread(read)
    assert [chunk.value for chunk in found] == ["two"]
    assert found[0].created_at.utcoffset() == timedelta(0)


async def test_chunks_go_with_the_records_of_their_run(store: PostgresStore):
    await apply_task(store, retry=Retry(), retention={"records_success_seconds": 60})
    created = await trigger(store)
    pod = await next_pod(store)
    await tell(pod, "1", "2")
    await pod.succeed()
    await store._db.fetch("update runs set finished_at = finished_at - interval '10 minutes'")
    while await store.prune(1000):
        pass
    assert await store.chunks(created.run_id, 0, 10) == []
    assert (await store._db.fetchrow("select count(*) from runs"))[0] == 1
    other = await trigger(store)
    pod = await next_pod(store)
    await tell(pod, "1")
    await pod.succeed()
    await store._db.fetch("delete from runs where run_id = $1", other.run_id)
    assert (await store._db.fetchrow("select count(*) from stream_chunks"))[0] == 0


CODE = dedent("""
    from milepost import task

    @task
    async def main(ctx):
        for word in ("once", "more"):
            await ctx.stream({"word": word, "attempt": ctx.run.attempt})
        if ctx.run.attempt == 1:
            raise RuntimeError("the network")
        return "done"
    """)


async def test_a_task_in_a_pod_is_heard_outside(runs: Runs, client: httpx2.AsyncClient):  # noqa: F811
    created = await runs.begin()
    await runs.pod(CODE)
    await runs.pod(CODE)
    page = (await client.get(f"/v1/runs/{created.name}/stream?namespace={NS}")).json()
    assert [(i["attempt"], i["value"]["word"]) for i in page["items"]] == [
        (1, "once"),
        (1, "more"),
        (2, "once"),
        (2, "more"),
    ]
    assert page["next"] == 4
