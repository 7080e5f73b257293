"""One pod, run after run, all of it the true thing: runner, sidecar, api, duties and Postgres."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

from milepost.wire.local import EXIT_FAILED
from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.domain.runs import Retry
from milepost_operator.domain.warm_views import WarmView
from milepost_operator.obs.metrics import Metrics
from tests.integration.engine import NS, apply_task, eventually, trigger
from tests.integration.test_pod_processes import pod_of
from tests.integration.test_pod_processes import port as port  # noqa: PLC0414  a fixture
from tests.unit.sdk.conftest import Pod

SOURCE = """
import os
from milepost import Context, Retry, task

seen = []

@task
async def main(ctx: Context, say: str = "", wait: bool = False):
    seen.append(await ctx.step("said", lambda: say))
    if wait:
        later = Retry(max_attempts=2, min_seconds=3600, max_seconds=3600, hold_seconds=0)
        await ctx.step("later", lambda: 1 / 0, retry=later)
    if say == "fail":
        raise ValueError(say)
    if say == "crash":
        os._exit(9)
    return {"seen": seen, "parent": os.getppid()}
"""


@asynccontextmanager
async def warm(store: PostgresStore, port: int, home: Path) -> AsyncIterator[Pod]:
    """The pod that the only run waiting wants, at work, able to take more."""
    scratch = home.with_name("scratch")
    scratch.mkdir()
    more = {"MILEPOST_SCRATCH": str(scratch), "MILEPOST_REUSABLE": "true"}
    async with pod_of(store, port, home, **more) as pod:
        await pod.start_sidecar()
        yield pod


async def idle(store: PostgresStore) -> None:
    async def holds() -> object:
        return await store._db.fetch("select from pods where state = 'idle'")

    await eventually(holds, 20.0)


async def run(store: PostgresStore, text: str) -> str:
    """Admit a run with this input and hand it over; how it ended."""
    created = await trigger(store, input=text)
    await store.admit(10)
    assert (await store.hand_over()).pods
    return await ended(store, created.run_id)


async def ended(store: PostgresStore, run_id: UUID) -> str:
    async def holds() -> object:
        return (await store.get_run(NS, str(run_id))).state in {"succeeded", "failed", "backoff"}

    await eventually(holds, 20.0)
    found = await store.get_run(NS, str(run_id))
    return f"{found.state} {found.result}"


async def pods(store: PostgresStore) -> list[tuple[object, ...]]:
    return [tuple(row) for row in await store._db.fetch("select state, runs, retired from pods order by created_at")]


async def test_one_pod_takes_one_run_after_another(store: PostgresStore, port: int, tmp_path: Path):
    """Each run is alone in its process, whatever came of the one before."""
    await apply_task(store, shape={"source": {"inline": SOURCE}}, retry=Retry(max_attempts=1))
    created = await trigger(store, input='{"say": "one"}')
    async with warm(store, port, tmp_path / "pod") as pod:
        runner = await pod.start_runner()
        assert await ended(store, created.run_id) == f'succeeded {{"seen":["one"],"parent":{runner.pid}}}'
        await idle(store)
        assert await run(store, '{"say": "fail"}') == "failed None"
        await idle(store)
        assert await run(store, '{"wait": true}') == "backoff None"
        await idle(store)
        assert await run(store, '{"say": "two"}') == f'succeeded {{"seen":["two"],"parent":{runner.pid}}}'
        await idle(store)
        assert await run(store, '{"say": "crash"}') == "failed None"
        async with asyncio.timeout(10):
            assert await runner.wait() == EXIT_FAILED
    assert await pods(store) == [("closing", 4, "crash")]
    starts = await store._db.fetch("select cold_reason from attempts order by reserved_at")
    assert [row["cold_reason"] for row in starts] == ["first", None, None, None, None]


async def test_a_pod_ends_with_its_version(store: PostgresStore, port: int, tmp_path: Path):
    """What people see of it on the way: once cold, once warm."""
    metrics = Metrics()
    store.tell_starts(metrics.started)
    await apply_task(store, shape={"source": {"inline": SOURCE}})
    await trigger(store)
    async with warm(store, port, tmp_path / "pod") as pod:
        runner = await pod.start_runner()
        await idle(store)
        assert (await run(store, '{"say": "two"}')).startswith("succeeded")
        await idle(store)
        assert await store.warm_view(NS) == [WarmView(NS, "index", 1, 0, 1, 1, "first")]
        told = metrics.exposition().decode()
        assert 'milepost_pod_starts_total{reason="",start="warm"} 1.0' in told
        assert 'milepost_pod_starts_total{reason="first",start="cold"} 1.0' in told
        await apply_task(store, generation=2, shape={"source": {"inline": SOURCE + "\n"}})
        assert await store.keep_warm() == 1
        async with asyncio.timeout(20):
            assert await runner.wait() == 0, pod.log.read_text()


async def test_what_a_pod_does_not_take_in_time_goes_elsewhere_and_the_pod_ends(
    store: PostgresStore, port: int, tmp_path: Path
):
    await apply_task(store, shape={"source": {"inline": SOURCE}})
    await trigger(store)
    async with warm(store, port, tmp_path / "pod") as pod:
        runner = await pod.start_runner()
        await idle(store)
        pod.sidecar.send_signal(signal.SIGSTOP)
        try:
            late = await trigger(store, input='{"say": "late"}')
            await store.admit(10)
            assert (await store.hand_over()).pods
            await store._db.fetch("update pods set offered_at = offered_at - interval '3 s' where state = 'offered'")
            await store.keep_warm()
        finally:
            pod.sidecar.send_signal(signal.SIGCONT)
        async with asyncio.timeout(20):
            assert await runner.wait() == 0, pod.log.read_text()
    assert (await store.get_run(NS, str(late.run_id))).state == "admitted"
    assert await pods(store) == [("closing", 1, "silent"), ("wanted", 0, None)]
