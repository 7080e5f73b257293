"""Schedules on a real Postgres: each slot one run, whoever fires, whatever dies, however late."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from milepost_operator.adapters.postgres.queries import Q
from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.domain.errors import ConflictError, InvalidInputError, NotFoundError
from milepost_operator.domain.runs import QueueIntake
from milepost_operator.domain.schedules import ScheduleSpec, ScheduleView
from milepost_operator.settings import Settings
from tests.integration.engine import NS, apply_task, eventually, next_pod

SCHEDULER = Path(__file__).with_name("scheduler_process.py")


@pytest.fixture
async def replicas(settings: Settings) -> AsyncIterator[list[PostgresStore]]:
    """Three schedulers."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(PostgresStore.open(settings)) for _ in range(3)]


def each_minute(**changes: Any) -> ScheduleSpec:
    """A slot now and each minute: whenever a test begins, its next slot is as far off as can be."""
    cron = f"{datetime.now(UTC).second} * * * * *"
    return replace(ScheduleSpec(cron, input='{"a": 1.50}', tags=("nightly",), priority=3), **changes)


async def schedule(store: PostgresStore, **changes: Any) -> ScheduleView:
    return await store.create_schedule(NS, "index", "often", each_minute(**changes), "ann")


async def manifest(
    store: PostgresStore,
    schedules: Sequence[tuple[str, ScheduleSpec]],
    kept: Sequence[str] = (),
    *,
    uid: str = "uid-index",
    generation: int = 1,
) -> list[str]:
    """What the Task's manifest says of schedules."""
    return await store.apply_schedules(NS, "index", schedules, kept, uid=uid, generation=generation)


async def late(store: PostgresStore, slots: int, schedule_id: UUID | None = None) -> None:
    """As if nobody had fired the last so many slots of `each_minute`."""
    await store._db.fetch(
        "update schedules set cursor_at = clock_timestamp() - $1 * interval '1 minute',"
        " next_at = clock_timestamp() - $1 * interval '1 minute', due_at = clock_timestamp() - interval '1 millisecond'"
        " where due_at is not null and ($2::uuid is null or schedule_id = $2)",
        slots,
        schedule_id,
    )


async def slots(store: PostgresStore) -> list[str]:
    rows = await store._db.fetch("select slot from runs where schedule_id is not null order by order_at, slot")
    return [row["slot"] for row in rows]


async def drain(store: PostgresStore) -> int:
    """Fire until nothing is due."""
    total = 0
    while (fired := await store.fire_schedules(100)).runs:
        total += fired.runs
    return total


async def now_of(store: PostgresStore) -> datetime:
    row = await store._db.fetchrow("select clock_timestamp() as now")
    assert row
    now: datetime = row["now"]
    return now


async def test_a_slot_becomes_a_run_of_its_task(store: PostgresStore) -> None:
    await store.apply_queue(QueueIntake(NS, "etl", "q", 1, 2))
    await apply_task(store, queue="etl")
    made = await schedule(store, concurrency_key="acme")
    assert (made.active, made.managed, made.paused) == (True, False, False)
    assert made.next_at
    assert (await store.fire_schedules(100)).schedules == 0
    await late(store, 1)
    assert (await store.fire_schedules(100)).runs == 1
    row = await store._db.fetchrow("select *, order_at(ready_at, 3) = order_at as ordered from runs")
    assert row
    assert (row["task"], row["queue"], row["state"], row["origin"]) == ("index", "etl", "queued", "schedule")
    assert (row["input"], row["tags"], row["priority"], row["concurrency_key"]) == (
        '{"a": 1.50}',
        ["nightly"],
        3,
        "acme",
    )
    assert (row["ordered"], row["schedule_id"]) == (True, made.schedule_id)
    assert row["slot"].endswith(f":{int(made.spec.cron.split()[0]):02}[UTC]")
    view = await store.get_schedule(NS, made.schedule_id)
    assert (view.fired, view.last_slot) == (1, row["slot"])
    assert view.next_at
    assert view.next_at > await now_of(store)
    assert await (await next_pod(store)).succeed() == "succeeded"


async def test_three_schedulers_fire_each_slot_once(replicas: list[PostgresStore], store: PostgresStore) -> None:
    await apply_task(store)
    for n in range(300):
        await store.create_schedule(NS, "index", f"s{n}", each_minute(), "ann")
    for _ in range(2):
        await late(store, 1)
        fired = await asyncio.gather(*(one.fire_schedules(40) for one in replicas for _ in range(4)))
        assert sum(one.runs for one in fired) + sum([await drain(one) for one in replicas]) in {300, 0}
    counted = await store._db.fetch("select schedule_id, count(*) from runs group by schedule_id, slot")
    assert [row["count"] for row in counted] == [1] * 300


async def test_a_cursor_that_goes_back_makes_no_second_run(store: PostgresStore) -> None:
    """The constraint alone is enough."""
    await apply_task(store)
    made = await schedule(store)
    for runs in (1, 0):
        await late(store, 1)
        assert (await store.fire_schedules(10)).runs == runs
    assert len(await slots(store)) == 1
    assert (await store.get_schedule(NS, made.schedule_id)).next_at


@pytest.mark.parametrize("moment", ["inserted", "moved", "committed"])
async def test_a_scheduler_killed_at_any_moment_loses_and_doubles_nothing(
    store: PostgresStore, settings: Settings, moment: str
) -> None:
    """SIGKILL between the insert of the runs and the commit; then two others take over."""
    await apply_task(store)
    for n in range(50):
        await store.create_schedule(NS, "index", f"s{n}", each_minute(), "ann")
    await late(store, 1)
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(SCHEDULER), settings.dsn, moment, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout
    assert await asyncio.wait_for(process.stdout.readline(), 20) == b"here\n"
    while_open = await store.fire_schedules(100)
    assert while_open.schedules == 0  # its rows are locked, or done
    process.send_signal(signal.SIGKILL)
    await process.wait()
    await eventually(lambda: _nobody_else(store))
    await drain(store)
    counted = await store._db.fetch("select count(*) as n, count(distinct (schedule_id, slot)) as different from runs")
    assert tuple(counted[0]) == (50, 50)


async def _nobody_else(store: PostgresStore) -> bool:
    query = "select count(*) from pg_stat_activity where application_name = 'killed'"
    row = await store._db.fetchrow(query)
    return bool(row and row[0] == 0)


@pytest.mark.parametrize(("missed", "runs", "dropped"), [("skip", 1, 59), ("latest", 1, 59), ("catchup", 60, 0)])
async def test_missed_slots_follow_the_policy(store: PostgresStore, missed: str, runs: int, dropped: int) -> None:
    await apply_task(store)
    made = await schedule(store, missed=missed)
    await late(store, 60)
    assert await drain(store) == runs
    view = await store.get_schedule(NS, made.schedule_id)
    assert (view.fired, view.dropped) == (runs, dropped)
    assert bool(view.note) == (dropped > 0)
    found = await slots(store)
    assert found == sorted(found)


async def test_catchup_is_capped_and_says_so(store: PostgresStore) -> None:
    await apply_task(store)
    made = await schedule(store, missed="catchup", catchup_limit=150)
    await late(store, 1440)
    assert await drain(store) == 150
    view = await store.get_schedule(NS, made.schedule_id)
    assert "100 or more slots did not run (catchupLimit: 150)" in str(view.note)
    (task,) = await store.task_schedules(None, 32)
    assert task.next_at == view.next_at
    assert "catchupLimit" in task.schedules[0]


async def test_forbid_passes_over_a_slot_while_a_run_lives(store: PostgresStore) -> None:
    await apply_task(store)
    made = await schedule(store, overlap="forbid")
    await late(store, 1)
    assert await drain(store) == 1
    await store._db.fetch("update runs set slot = slot || ' earlier'")
    await late(store, 1)
    assert await drain(store) == 0
    assert (await store.get_schedule(NS, made.schedule_id)).overlapped == 1
    await (await next_pod(store)).succeed()
    await late(store, 1)
    assert await drain(store) == 1


async def test_forbid_with_catchup_runs_one_by_one_in_order(store: PostgresStore) -> None:
    await apply_task(store)
    await schedule(store, overlap="forbid", missed="catchup")
    await late(store, 3)
    for n in range(1, 4):
        assert (await store.fire_schedules(10)).runs == 1
        await store._db.fetch("update schedules set due_at = clock_timestamp()")
        assert (await store.fire_schedules(10)).runs == 0
        assert len(await slots(store)) == n
        await (await next_pod(store)).succeed()
        await store._db.fetch("update schedules set due_at = clock_timestamp()")
    assert (await store.fire_schedules(10)).runs == 0
    found = await slots(store)
    assert found == sorted(found)


async def test_replace_cancels_the_older_run_first(store: PostgresStore) -> None:
    await apply_task(store)
    await schedule(store, overlap="replace")
    await late(store, 1)
    assert await drain(store) == 1
    pod = await next_pod(store)
    await store._db.fetch("update runs set slot = slot || ' earlier'")
    await late(store, 1)
    assert await drain(store) == 1
    rows = await store._db.fetch("select state, message from runs order by created_at")
    assert [row["state"] for row in rows] == ["cancelling", "queued"]
    assert rows[0]["message"] == "cancelled by the next slot of schedule often"
    assert await pod.succeed() == "cancelled"


async def test_a_paused_schedule_misses_nothing(store: PostgresStore) -> None:
    await apply_task(store)
    made = await schedule(store, missed="catchup")
    paused = await store.pause_schedule(NS, made.schedule_id, "ann", paused=True)
    assert (paused.paused, paused.paused_by, paused.next_at) == (True, "ann", None)
    await store._db.fetch("update schedules set cursor_at = clock_timestamp() - interval '1 hour'")
    assert await drain(store) == 0
    resumed = await store.pause_schedule(NS, made.schedule_id, "ann", paused=False)
    assert (resumed.paused, resumed.paused_by) == (False, None)
    assert await drain(store) == 0
    assert resumed.next_at
    assert resumed.next_at > await now_of(store)


async def test_an_edit_of_the_times_misses_nothing_and_another_edit_loses_nothing(store: PostgresStore) -> None:
    await apply_task(store)
    made = await schedule(store, missed="catchup")
    await late(store, 60)
    await store.change_schedule(NS, made.schedule_id, lambda spec: replace(spec, tags=("other",)), "ann")
    assert await drain(store) == 60
    await late(store, 60)
    await store.change_schedule(NS, made.schedule_id, lambda spec: replace(spec, cron="*/2 * * * *"), "ann")
    assert await drain(store) == 0


async def test_a_new_zone_names_new_slots(store: PostgresStore) -> None:
    """09:00 in Tokyo has nothing to do with 09:00 in Berlin eight hours later."""
    await apply_task(store)
    made = await schedule(store, time_zone="Asia/Tokyo")
    await late(store, 1)
    assert await drain(store) == 1
    changed = await store.change_schedule(NS, made.schedule_id, lambda s: replace(s, time_zone="Europe/Berlin"), "ann")
    assert changed.schedule_id == made.schedule_id
    await late(store, 1)
    assert await drain(store) == 1
    first, second = await slots(store)
    assert (first.endswith("[Asia/Tokyo]"), second.endswith("[Europe/Berlin]")) == (True, True)


async def test_a_backfill_is_idempotent_and_knows_what_ran(store: PostgresStore) -> None:
    await apply_task(store)
    made = await schedule(store, cron="30 1,2 * * *", time_zone="America/New_York", overlap="forbid")
    since = datetime(2025, 11, 1, tzinfo=UTC)
    until = since + timedelta(days=3)
    asked = await store.backfill(NS, made.schedule_id, since, until, dry_run=True)
    assert (asked.slots, asked.created, asked.existing) == (6, 0, 0)
    assert asked.first == "2025-11-01T01:30:00[America/New_York]"
    assert await slots(store) == []
    done = await asyncio.gather(*(store.backfill(NS, made.schedule_id, since, until, dry_run=False) for _ in range(3)))
    assert sum(one.created for one in done) == 6
    again = await store.backfill(NS, made.schedule_id, since, until + timedelta(days=1), dry_run=False)
    assert (again.slots, again.created, again.existing) == (8, 2, 6)
    assert len(await slots(store)) == 8
    with pytest.raises(InvalidInputError, match="in the future"):
        await store.backfill(NS, made.schedule_id, since, datetime(2100, 1, 1, tzinfo=UTC), dry_run=True)
    every = await store.create_schedule(NS, "index", "dense", ScheduleSpec("* * * * *"), "ann")
    with pytest.raises(InvalidInputError, match="more than 10000 slots: end it after 2025-11-07T22:39:00"):
        await store.backfill(NS, every.schedule_id, since, since + timedelta(days=30), dry_run=True)


async def test_a_backfilled_run_knows_its_slot(store: PostgresStore) -> None:
    await apply_task(store)
    made = await schedule(
        store, cron="0 6 * * *", time_zone="Europe/Berlin", input='{"day": "$(slot)", "at": "$(slot.utc)"}'
    )
    await store.backfill(
        NS, made.schedule_id, datetime(2026, 7, 1, tzinfo=UTC), datetime(2026, 7, 3, tzinfo=UTC), dry_run=False
    )
    rows = await store._db.fetch("select input, encode(input_hash, 'hex') as hash from runs order by slot")
    assert [row["input"] for row in rows] == [
        f'{{"day": "2026-07-0{n}T06:00:00", "at": "2026-07-0{n}T04:00:00Z"}}' for n in (1, 2)
    ]
    assert len({row["hash"] for row in rows}) == 2


async def test_the_manifest_rules_its_schedules(store: PostgresStore) -> None:
    await apply_task(store)
    each = each_minute()
    assert await manifest(store, [("a", each), ("b", each)]) == []
    a, b = await store.list_schedules(NS, task="index")
    await manifest(store, [("a", each), ("b", each)])
    assert await store.list_schedules(NS, task="index") == [a, b]
    assert (a.name, a.managed, b.name) == ("a", True, "b")
    await late(store, 1, a.schedule_id)
    assert await drain(store) == 1
    for refused in (
        store.change_schedule(NS, a.schedule_id, lambda spec: spec, "ann"),
        store.delete_schedule(NS, a.schedule_id),
    ):
        with pytest.raises(ConflictError, match="belongs to the manifest"):
            await refused
    # a pause of the API stays while the manifest says nothing new
    await store.pause_schedule(NS, a.schedule_id, "ann", paused=True)
    await manifest(store, [("a", replace(each, priority=1)), ("b", each)])
    assert (await store.get_schedule(NS, a.schedule_id)).paused_by == "ann"
    await manifest(store, [("a", replace(each, paused=True)), ("b", each)])
    await manifest(store, [("a", each), ("b", each)])
    assert not (await store.get_schedule(NS, a.schedule_id)).paused
    # what can't be taken stays, what is left out goes, what comes back is the same to its slots
    await manifest(store, [], kept=["a"])
    assert [one.name for one in await store.list_schedules(NS)] == ["a"]
    await manifest(store, [])
    assert await store.list_schedules(NS) == []
    await manifest(store, [("a", each)])
    assert (await store.get_schedule(NS, a.schedule_id)).schedule_id == a.schedule_id


async def test_a_name_of_the_api_is_not_taken_by_a_manifest(store: PostgresStore) -> None:
    await apply_task(store)
    each = each_minute()
    await schedule(store)
    assert await manifest(store, [("often", each), ("b", each)]) == ["often"]
    with pytest.raises(ConflictError, match="has a schedule b"):
        await store.create_schedule(NS, "index", "b", each, "ann")


async def test_without_its_task_a_schedule_rests(store: PostgresStore) -> None:
    made = await schedule(store)
    assert (made.active, made.next_at) == (False, None)
    await apply_task(store)
    each = each_minute()
    await manifest(store, [("m", each)])
    assert (await store.get_schedule(NS, made.schedule_id)).active
    await late(store, 1)
    await store.remove_task(NS, "index", "uid-index")
    assert await drain(store) == 0
    (left,) = await store.list_schedules(NS)
    assert (left.name, left.active) == ("often", False)
    await apply_task(store, uid="uid-2")
    await manifest(store, [("m", each)], uid="uid-2")
    assert [one.active for one in await store.list_schedules(NS)] == [True, True]
    await store.remove_task(NS, "index", "uid-index")  # news of the Task that was
    assert [one.active for one in await store.list_schedules(NS)] == [True, True]
    await store._db.fetch("update tasks set present = false")
    await late(store, 1)
    assert (await store.fire_schedules(10)).runs == 0
    assert [one.active for one in await store.list_schedules(NS)] == [False, False]


async def test_an_older_manifest_that_comes_late_rules_nothing(store: PostgresStore) -> None:
    made = await schedule(store)
    each = each_minute()
    await apply_task(store, generation=2)
    for late_one in ({"generation": 1}, {"generation": 3}, {"generation": 2, "uid": "uid-0"}):
        assert await manifest(store, [("often", each), ("old", each)], **late_one) == []
        assert await store.list_schedules(NS) == [made]
    assert await manifest(store, [("often", each), ("new", each)], generation=2) == ["often"]
    before = await store.list_schedules(NS)
    assert {one.name: one.active for one in before} == {"new": True, "often": True}
    await manifest(store, [], generation=1)
    assert await store.list_schedules(NS) == before
    await store.remove_task(NS, "index")
    await manifest(store, [("new", each)], generation=2)
    assert {one.name: one.active for one in await store.list_schedules(NS)} == {"often": False}


async def test_a_deleted_schedule_goes_when_its_runs_have(store: PostgresStore) -> None:
    await apply_task(store)
    made = await schedule(store)
    await late(store, 1)
    await drain(store)
    await store.delete_schedule(NS, made.schedule_id)
    with pytest.raises(NotFoundError):
        await store.get_schedule(NS, made.schedule_id)
    await store._db.fetch("update schedules set deleted_at = deleted_at - interval '2 days'")
    count = "select count(*) from schedules"
    for left in (1, 0):
        await store.forget_schedules()
        row = await store._db.fetchrow(count)
        assert row
        assert row[0] == left
        await store._db.fetch("delete from runs")


async def test_a_zone_that_is_no_more_stops_its_schedule_only(store: PostgresStore) -> None:
    await apply_task(store)
    made = await schedule(store)
    await store.create_schedule(NS, "index", "good", each_minute(), "ann")
    await store._db.fetch(
        "update schedules set spec = replace(spec::text, 'UTC', 'Mars/Phobos')::json where schedule_id = $1",
        made.schedule_id,
    )
    await late(store, 1)
    assert await drain(store) == 1
    assert "no time zone is called 'Mars/Phobos'" in str((await store.get_schedule(NS, made.schedule_id)).note)


async def test_a_run_waits_for_a_queue_that_is_missing(store: PostgresStore) -> None:
    await apply_task(store, queue="nowhere")
    await schedule(store)
    await late(store, 1)
    await drain(store)
    (row,) = await store._db.fetch("select state, reason, held_at is not null as timed from runs")
    assert tuple(row) == ("held", "QueueNotFound", True)


async def test_lists_go_by_keyset(store: PostgresStore) -> None:
    await apply_task(store)
    for name in "dbca":
        await store.create_schedule(NS, "index", name, each_minute(), "ann")
    first = await store.list_schedules(NS, limit=2)
    rest = await store.list_schedules(NS, after=(NS, "index", first[-1].name))
    assert [one.name for one in (*first, *rest)] == ["a", "b", "c", "d"]
    assert await store.list_schedules("other") == []


async def test_due_schedules_are_found_by_their_index(store: PostgresStore) -> None:
    await store._db.fetch(
        "insert into schedules (schedule_id, cluster, namespace, task, name, spec, next_at, due_at)"
        " select gen_random_uuid(), 'default', 'x', 't', n::text, '{}', clock_timestamp() + n * interval '1 minute',"
        " clock_timestamp() + n * interval '1 minute' from generate_series(1, 20000) n"
    )
    await store._db.fetch("analyze schedules")
    rows = await store._db.fetch(f"explain {Q['due_schedules']}", "default", 500)
    plan = "\n".join(row[0] for row in rows)
    assert "schedules_due" in plan
    assert "Seq Scan on schedules" not in plan
