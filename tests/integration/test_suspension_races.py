"""Replicas, senders and pods at the same moment: each wait is resolved once, nothing that came is slept through."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID

import pytest

from milepost.wire.pod import Wait
from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.domain.lifecycle import RunFilter
from milepost_operator.domain.runs import QueueIntake
from milepost_operator.settings import Settings
from tests.integration.engine import NS, apply_task, launch, next_pod, started, trigger
from tests.integration.engine import Pod as Sidecar
from tests.integration.test_pod_processes import port
from tests.unit.sdk.conftest import Pod, curl

__all__ = ["port"]
RUNS = 20


@pytest.fixture
async def replicas(store: PostgresStore, settings: Settings) -> AsyncIterator[list[PostgresStore]]:
    async with PostgresStore.open(settings) as two, PostgresStore.open(settings) as three:
        yield [store, two, three]


async def test_signals_timers_children_and_pods_at_once(store: PostgresStore, replicas: list[PostgresStore]) -> None:
    rng = random.Random(7)
    await store.apply_queue(QueueIntake(NS, "open", "u", 1, None))
    await apply_task(store, queue="open")
    parents = [await trigger(store) for _ in range(RUNS)]
    pods = [Sidecar(store, s, await started(store, s)) for s in await launch(store)]
    children = [await trigger(store) for _ in range(RUNS)]
    for pod, child in zip(pods, children, strict=True):
        parent = UUID(pod.start.run_id)
        await store._db.fetch("update runs set parent_run = $2 where run_id = $1", child.run_id, parent)
    work = [Sidecar(store, s, await started(store, s)) for s in await launch(store)]

    async def suspend(pod: Sidecar, child: UUID) -> None:
        mine = Sidecar(rng.choice(replicas), pod.session, pod.start)
        waits = [
            Wait("child", "child", name=str(child)),
            Wait("go", "signal", name="go"),
            Wait("nap", "timer", seconds=0.05),
        ]
        assert await mine.suspend(*waits) in {"suspended", "queued"}

    async def wake(replica: PostgresStore) -> None:
        for _ in range(10):
            await replica.wake_runs(3)
            await asyncio.sleep(0.005)

    deeds = [suspend(pod, child.run_id) for pod, child in zip(pods, children, strict=True)]
    deeds += [rng.choice(replicas).signal_run(run.run_id, "go", str(n)) for run in parents for n in range(2)]  # type: ignore[misc]
    deeds += [Sidecar(rng.choice(replicas), p.session, p.start).succeed() for p in work]  # type: ignore[misc]
    deeds += [wake(replica) for replica in replicas]
    rng.shuffle(deeds)
    await asyncio.gather(*deeds)
    while await store.wake_runs(100):
        pass
    assert {v["state"] for v in (await store.page(NS, RunFilter(), None, 100)).items} == {"queued", "succeeded"}
    rows = await store._db.fetch(
        "select run_id, count(taken_by) as taken, count(*) as sent from signals group by 1 order by 1"
    )
    assert {r["sent"] for r in rows} == {2}
    assert {r["taken"] for r in rows} <= {0, 1}, "one wait takes one signal"
    resumed = await store._db.fetch("select count(*) as n from run_events where reason = 'RunResumed' group by run_id")
    assert [r["n"] for r in resumed] == [1] * RUNS


async def test_a_signal_and_the_suspension_that_waits_for_it_never_miss_each_other(
    store: PostgresStore, replicas: list[PostgresStore]
) -> None:
    await apply_task(store)
    run = await trigger(store)
    for n in range(25):
        pod = await next_pod(store)
        wait = Wait(f"go#{n}", "signal", name="go")
        await asyncio.gather(pod.suspend(wait), replicas[1].signal_run(run.run_id, "go", str(n)))
        assert (await store.get_run(NS, run.name)).state == "queued"
    waits = (await next_pod(store)).start.waits
    assert [w.value for w in waits] == [str(n) for n in range(25)]


async def test_a_pod_suspends_over_its_socket_and_the_next_one_reads_what_came(
    store: PostgresStore, port: int, tmp_path: Path
) -> None:
    """The true sidecar, api and Postgres; the task is whoever speaks to the socket."""
    await apply_task(store)
    run = await trigger(store)
    for home in (tmp_path / "one", tmp_path / "two"):
        (session,) = await launch(store)
        home.mkdir()
        async with AsyncExitStack() as stack:
            pod = Pod(SimpleNamespace(port=port), home, stack)  # type: ignore[arg-type]
            pod.env["MILEPOST_POD_ID"] = session.pod_id
            (home / "token").write_text(f"token-of-{session.pod_id}")
            await pod.start_sidecar()
            client = await pod.connected()
            attempt = (await curl(client, "GET", "/v1/attempt")).problem()
            if attempt["cause"] == "resume":
                assert attempt["waits"] == [{"key": "k", "kind": "signal", "timed_out": False, "value": {"n": 1}}]
                assert (await curl(client, "PUT", "/v1/result", b'"done"')).json() == {"state": "succeeded"}
                continue
            bad = await curl(client, "PUT", "/v1/suspension", b'{"waits": [{"key": "k", "kind": "signal"}]}')
            assert (bad.status, bad.problem()["path"]) == (422, "$.waits[0].name")
            body = b'{"waits": [{"key": "k", "kind": "signal", "name": "go", "seconds": 3600}]}'
            assert (await curl(client, "PUT", "/v1/suspension", body)).json() == {"state": "suspended"}
            late = await curl(client, "PUT", "/v1/steps/s", b"1")
            assert (late.status, late.problem()["code"]) == (409, "settled")
        await store.signal_run(run.run_id, "go", '{"n": 1}')
    assert (await store.get_run(NS, run.name)).result == '"done"'
