"""What people see of pods that wait, from the rows."""

import pytest

from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.adapters.postgres.warm_views import NEWEST_RUNS
from milepost_operator.domain.warm_views import WarmView
from tests.integration.engine import NS, apply_task, launch, next_pod, started, trigger


@pytest.fixture
async def tasks(store: PostgresStore) -> PostgresStore:
    await apply_task(store)
    await apply_task(store, "other")
    return store


async def view(store: PostgresStore, task: str = "index") -> WarmView:
    return next(one for one in await store.warm_view(NS) if one.task == task)


async def test_a_task_that_never_ran_has_nothing(tasks: PostgresStore) -> None:
    assert [one.task for one in await tasks.warm_view(None)] == ["index", "other"]
    assert (await view(tasks)).empty
    assert await tasks.warm_view("elsewhere") == []


async def test_pods_at_work_are_busy(tasks: PostgresStore) -> None:
    await trigger(tasks)
    (session,) = await launch(tasks)
    assert await view(tasks) == WarmView(NS, "index", 0, 1, 0, 0)  # it has not started
    assert (await started(tasks, session)).attempt == 1
    now = await view(tasks)
    assert (now.idle, now.busy, now.hits + now.misses) == (0, 1, 1)
    assert (await view(tasks, "other")).empty
    assert sum((await tasks.pods_by_state()).values()) == 1


async def test_starts_are_told_apart_by_what_they_took(tasks: PostgresStore) -> None:
    for reason in ("first", "busy", None):
        await trigger(tasks)
        pod = await next_pod(tasks)
        assert await pod.succeed() == "succeeded"
        query = "update attempts set cold_reason = $2 where run_id = $1::uuid"
        await tasks._db.fetch(query, pod.start.run_id, reason)
    now = await view(tasks)
    assert (now.hits, now.misses, now.cold_reason) == (1, 2, "busy")


async def test_old_runs_do_not_count(tasks: PostgresStore) -> None:
    await trigger(tasks)
    pod = await next_pod(tasks)
    assert await pod.succeed() == "succeeded"
    await tasks._db.fetch("update runs set created_at = created_at - interval '61 minutes'")
    now = await view(tasks)
    assert (now.hits, now.misses) == (0, 0)
    assert NEWEST_RUNS == 200  # as docs/warm.md and the CRD say


async def test_what_a_task_says_is_kept_as_written(store: PostgresStore) -> None:
    await apply_task(store, warm={"seconds": 5, "reuse": "key"})
    query = "select warm ->> 'seconds' as seconds, warm ->> 'reuse' as reuse from tasks"
    (row,) = await store._db.fetch(query)
    assert (row["seconds"], row["reuse"]) == ("5", "key")


async def test_each_start_is_told_once(tasks: PostgresStore) -> None:
    heard: list[str | None] = []
    tasks.tell_starts(heard.append)
    await trigger(tasks)
    (session,) = await launch(tasks)
    for _ in range(2):  # a restarted sidecar asks again
        await started(tasks, session)
    assert heard == ["first"]
