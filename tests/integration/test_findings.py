"""What recent attempts say of a Task: found by any replica, kept in rows, and acted on where the queue says so."""

import asyncio
from datetime import timedelta

import pytest

from milepost.wire.pod import Evidence, SettleRequest
from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.domain.findings import Finding, Kind
from milepost_operator.domain.runs import Ending, QueueIntake, Retry
from milepost_operator.domain.states import Reason
from milepost_operator.settings import Settings
from tests.integration.engine import NS, Pod, apply_task, launch, lose, next_pod, settled, started, trigger

Q = "agents"
MIB = 1024**2
ONCE = Retry(max_attempts=1)
LATE = Ending(Reason.TIMEOUT, "the attempt took longer than timeouts.attemptSeconds")


async def found(store: PostgresStore) -> dict[Kind, Finding]:
    """After one look at every Task."""
    await store._db.fetch("update task_checks set checked_at = '-infinity'")
    await store.check_tasks(100)
    return {one.finding.kind: one.finding for one in await store.task_findings()}


async def time_out(store: PostgresStore, count: int = 1, **changes: object) -> None:
    for _ in range(count):
        await trigger(store, **changes)
        for session in await launch(store):
            await started(store, session)
            await lose(store, session.pod_id, LATE)


async def test_a_task_that_does_well_has_nothing_told_of_it(store: PostgresStore) -> None:
    await apply_task(store)
    await trigger(store)
    await (await next_pod(store)).succeed()
    assert await found(store) == {}


async def test_timeouts_in_a_row_are_found_and_forgotten(store: PostgresStore) -> None:
    await apply_task(store, retry=ONCE)
    await time_out(store, 3)
    loop = (await found(store))[Kind.TIMEOUT_LOOP]
    assert (loop.holds, loop.value) == (True, 3)
    await store._db.fetch("update attempts set ended_at = ended_at - interval '2 hours'")
    assert not (await found(store))[Kind.TIMEOUT_LOOP].holds
    await store.remove_task(NS, "index")
    assert await found(store) == {}
    assert not await store._db.fetch("select from task_findings")


@pytest.mark.parametrize(("written", "minutes"), [(0, 10), (1, 4)])
async def test_work_since_the_last_record_is_what_a_lost_attempt_leaves(
    store: PostgresStore, written: int, minutes: int
) -> None:
    """The attempt began 10 minutes ago, and its record, if it made one, is 4 minutes old: less than it takes."""
    await apply_task(store)
    await trigger(store)
    pod = await next_pod(store)
    for number in range(written):
        await pod.write(f"s{number}")
    await store._db.fetch("update attempts set started_at = started_at - interval '10 minutes'")
    await store._db.fetch("update records set created_at = created_at - interval '4 minutes'")
    lost = Ending(Reason.NODE_LOST, "gone", counted=False, infra=True)
    await lose(store, pod.session.pod_id, lost)
    (session,) = await launch(store)
    again = Pod(store, session, await started(store, session))
    await again.write("of the second attempt")
    gap = (await found(store)).get(Kind.CHECKPOINT_GAP)
    assert (gap is not None) is (written == 0)
    if gap:
        assert f"up to {minutes} min after the last record" in gap.message


async def test_memory_is_proposed_from_what_attempts_took(store: PostgresStore) -> None:
    await apply_task(store)
    for _ in range(5):
        await trigger(store)
        pod = await next_pod(store)
        used = Evidence(peak_bytes=480 * MIB)
        await settled(store, pod.session, SettleRequest(pod.fence, "succeeded", "1", evidence=used))
    proposal = (await found(store))[Kind.MEMORY_PROPOSAL]
    assert (proposal.reason, proposal.value) == ("Raise", 608 * MIB)
    assert "from 512Mi to 608Mi" in proposal.message


async def test_pulls_that_fail_at_first_are_kept_with_the_pod(store: PostgresStore) -> None:
    await store.apply_queue(QueueIntake(NS, Q, "u", 1, 10))
    await apply_task(store, queue=Q)
    for _ in range(3):
        await trigger(store)
    for session in await launch(store):
        await store.note_pod(session.pod_id, Reason.IMAGE_PULL.value, "too many requests")
        await started(store, session)
    assert (await found(store))[Kind.PULL_FLAPPING].value == 3


async def paused(store: PostgresStore) -> str | None:
    pause = (await store.get_queue(NS, Q)).pause
    return None if pause is None else f"{pause.by}: {pause.reason}"


async def opted_in(store: PostgresStore, *kinds: str, generation: int = 1) -> None:
    await store.apply_queue(QueueIntake(NS, Q, "u", generation, 10, pause_on=kinds))
    await apply_task(store, queue=Q, retry=ONCE)


async def test_a_queue_that_says_so_is_paused_once_for_what_is_found(store: PostgresStore) -> None:
    await opted_in(store, "TimeoutLoop")
    await time_out(store, 3)
    await found(store)
    told = await paused(store)
    assert told
    assert told.startswith("milepost: TimeoutLoop of task index: 3 of 3 attempts")
    await store.resume_queue(NS, Q)
    await found(store)
    assert await paused(store) is None, "who resumed it has the last word while it still holds"
    await store._db.fetch("update attempts set ended_at = ended_at - interval '2 hours'")
    await found(store)
    await time_out(store, 3)
    await found(store)
    assert await paused(store), "it began again"


async def test_a_queue_that_says_nothing_goes_on(store: PostgresStore) -> None:
    await opted_in(store, "RetryStorm")
    await time_out(store, 3)
    assert (await found(store))[Kind.TIMEOUT_LOOP].holds
    assert await paused(store) is None
    await opted_in(store, "TimeoutLoop", generation=2)
    await found(store)
    assert await paused(store), "from now on it does"


async def test_somebodys_own_pause_stays_his(store: PostgresStore) -> None:
    await opted_in(store, "TimeoutLoop")
    await time_out(store, 3)
    await store.pause_queue(NS, Q, "alice", "upgrade")
    await found(store)
    assert await paused(store) == "alice: upgrade"
    await store.resume_queue(NS, Q)
    await found(store)
    assert await paused(store) is None


async def test_replicas_share_the_tasks_and_pause_once(store: PostgresStore, settings: Settings) -> None:
    await opted_in(store, "TimeoutLoop")
    await time_out(store, 3)
    for number in range(30):
        await apply_task(store, f"other-{number}")
    await store._db.fetch("update task_checks set checked_at = '-infinity'")
    async with PostgresStore.open(settings) as other:
        counts = await asyncio.gather(*(one.check_tasks(10) for one in (store, other, store, other)))
    assert sum(counts) == 31
    assert await store.check_tasks(10) == 0, "not before its time"
    assert await paused(store)
    await store._db.fetch("update task_checks set checked_at = checked_at - $1::interval", timedelta(seconds=31))
    assert await store.check_tasks(100) == 31
