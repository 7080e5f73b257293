"""An attempt that is offered, or may move, any two deeds in either order and at once: neither lost nor had twice."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass

import pytest

from milepost.wire.pod import NextRequest, Start
from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.domain.errors import MilepostError
from milepost_operator.domain.runs import Created, Ending, PodSession, Retry
from milepost_operator.domain.states import Reason
from milepost_operator.settings import Settings
from tests.integration.engine import NS, Pod, apply_task, started, trigger
from tests.integration.test_warm import ago, idle_pod, launch_warm

LOST = Ending(Reason.POD_LOST, "gone", counted=False, infra=True)
DEEDS = ("start", "expire", "die", "retire", "cancel", "change", "next")


@dataclass
class Case:
    """An attempt that is offered to a pod, and two replicas."""

    stores: list[PostgresStore]
    task: str
    epoch: int
    session: PodSession
    run: Created

    async def do(self, deed: str, store: PostgresStore) -> object:
        pod_id = self.session.pod_id
        if deed == "start":
            return (await store.start([self.session]))[0]
        if deed == "expire":
            query = "update pods set offered_at = clock_timestamp() - interval '3 s' where pod_id = $1 and state = $2"
            await store._db.fetch(query, pod_id, "offered")
            return await store.keep_warm()
        if deed == "die":
            return await store.pod_ended(self.epoch, pod_id, None, LOST)
        if deed == "retire":
            return await store.retire_pod(self.epoch, pod_id, "deleted")
        if deed == "cancel":
            return await store.cancel_run(self.run.run_id, "test")
        if deed == "change":
            return await apply_task(store, self.task, generation=2, shape={"entrypoint": "a:c"})
        return (await store.next_work([(self.session, NextRequest())]))[0]


@pytest.fixture
async def stores(settings: Settings) -> AsyncIterator[list[PostgresStore]]:
    roomy = settings.model_copy(update={"default_queue_concurrency": 1000, "lease_seconds": 600.0})
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(PostgresStore.open(roomy)) for _ in range(2)]


async def offered(stores: list[PostgresStore], task: str) -> Case:
    await apply_task(stores[0], task, retry=Retry(min_seconds=0.0, max_seconds=0.0))
    session = await idle_pod(stores[0], task=task)
    run = await trigger(stores[0], task)
    await stores[0].admit(10)
    assert session.pod_id in (await stores[0].hand_over()).pods
    return Case(stores, task, await stores[0].take_epoch("test", "template"), session, run)


async def in_turn(case: "Case | Coming", first: str, second: str) -> list[object]:
    return [await case.do(first, case.stores[0]), await case.do(second, case.stores[1])]


async def at_once(case: "Case | Coming", first: str, second: str) -> list[object]:
    return await asyncio.gather(case.do(first, case.stores[0]), case.do(second, case.stores[1]))


async def judge(case: Case, deeds: tuple[str, str], answers: list[object]) -> None:
    """The attempt is begun by its pod or by another, or it was cancelled; a loss counts once it was begun."""
    store = case.stores[0]
    begun = [answer for answer in answers if isinstance(answer, Start)]
    (row,) = await store._db.fetch(
        "select r.state, r.attempt, r.attempts_counted, r.infra_streak, a.state as of_attempt, a.pod_id,"
        " p.state as of_pod from runs r join attempts a using (run_id, attempt) left join pods p on p.pod_id = a.pod_id"
        " where r.run_id = $1",
        case.run.run_id,
    )
    assert row["attempts_counted"] == 0
    if not begun:
        assert row["infra_streak"] == 0, "nothing was begun, nothing is burnt"
        assert row["attempt"] == 1
    if "cancel" in deeds and row["state"] in {"cancelled", "cancelling"}:
        return
    if row["of_attempt"] == "reserved":
        assert row["of_pod"] in {"wanted", "offered"}
    elif row["of_attempt"] == "running":
        assert (row["pod_id"], row["of_pod"]) == (case.session.pod_id, "bound")
    else:
        assert begun
        assert "die" in deeds
    sessions = [case.session, *await launch_warm(store)]
    for session in sessions:
        try:
            await Pod(store, session, await started(store, session)).succeed()
        except MilepostError:
            continue
    assert (await store.get_run(NS, case.run.name)).state == "succeeded"


@pytest.mark.parametrize("together", [in_turn, at_once])
async def test_an_offered_attempt_survives_any_two_deeds(
    stores: list[PostgresStore], together: Callable[[Case, str, str], Awaitable[list[object]]]
) -> None:
    pairs = itertools.product(DEEDS, repeat=2) if together is in_turn else itertools.combinations(DEEDS, 2)
    for number, deeds in enumerate(pairs):
        case = await offered(stores, f"t{number}")
        try:
            await judge(case, deeds, await together(case, *deeds))
            broken = {k: v for k, v in (await stores[0].violations()).items() if v} if number % 10 == 0 else {}
            assert broken == {}
        except BaseException as error:
            error.add_note(f"{together.__name__}: {deeds}")
            raise
        await stores[0]._db.fetch("update pods set state = 'closing' where state in ('resting', 'idle')")
    assert {k: v for k, v in (await stores[0].violations()).items() if v} == {}


@dataclass
class Coming:
    """An attempt whose pod is launched and not there yet, and a pod that waits."""

    stores: list[PostgresStore]
    task: str
    epoch: int
    idle: PodSession
    pod_id: str
    run: Created

    async def do(self, deed: str, store: PostgresStore) -> object:
        if deed == "move":
            return await store.hand_over()
        if deed == "tell":
            return await store.launched(self.epoch, self.pod_id, "job")
        if deed == "come":
            try:
                session = await store.open_session(
                    self.pod_id, NS, f"u-{self.pod_id}", f"mp-{self.pod_id}-abcde", reusable=True
                )
            except MilepostError as error:
                return error
            return (await store.start([session]))[0]
        if deed == "end":
            return await store.pod_ended(self.epoch, self.pod_id, None, LOST)
        if deed == "cancel":
            return await store.cancel_run(self.run.run_id, "test")
        return await store.retire_pod(self.epoch, self.pod_id, "deleted")


async def coming(stores: list[PostgresStore], task: str, *, told: bool) -> Coming:
    await apply_task(stores[0], task, retry=Retry(min_seconds=0.0, max_seconds=0.0))
    idle = await idle_pod(stores[0], task=task)
    run = await trigger(stores[0], task)
    await stores[0].admit(10)
    await ago(stores[0], "created_at", 60.0, "state = 'wanted'")
    epoch = await stores[0].take_epoch("test", "template")
    (order,) = await stores[0].take_wanted(epoch, 10)
    assert not told or await stores[0].launched(epoch, order.pod_id, "job")
    return Coming(stores, task, epoch, idle, order.pod_id, run)


MOVES = ("move", "come", "tell", "end", "cancel", "retire")


async def judge_move(case: Coming, deeds: tuple[str, str], answers: list[object]) -> None:
    """The attempt is with one pod, whichever; what is left of the other is free, or closed."""
    store = case.stores[0]
    (row,) = await store._db.fetch(
        "select r.state, r.infra_streak, a.state as of_attempt, a.pod_id, h.pod_id as by_head, p.state as of_pod"
        " from runs r join attempts a using (run_id, attempt) join run_heads h using (run_id)"
        " left join pods p on p.pod_id = a.pod_id where r.run_id = $1",
        case.run.run_id,
    )
    begun = [answer for answer in answers if isinstance(answer, Start)]
    if "end" not in deeds:
        assert row["infra_streak"] == 0
    if row["state"] in {"cancelled", "cancelling"}:
        assert "cancel" in deeds
    elif row["of_attempt"] != "ended":
        assert row["by_head"] == row["pod_id"]
        if begun:
            assert (row["pod_id"], row["of_pod"]) == (case.pod_id, "bound")
        else:
            assert row["of_pod"] in {"wanted", "creating", "created", "bound", "offered"}
    await store.promote(100)
    await store.admit(100)
    await store.hand_over()
    for session in [case.idle, *await launch_warm(store)]:
        try:
            await Pod(store, session, await started(store, session)).succeed()
        except MilepostError:
            continue
    if begun:
        with suppress(MilepostError):
            await Pod(store, PodSession(case.pod_id, NS, f"u-{case.pod_id}"), begun[0]).succeed()
    state = (await store.get_run(NS, case.run.name)).state
    assert state == "succeeded" or "cancel" in deeds, state


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("together", [in_turn, at_once])
async def test_an_attempt_whose_pod_is_not_there_yet_survives_any_two_deeds(
    stores: list[PostgresStore], together: Callable[["Case | Coming", str, str], Awaitable[list[object]]], *, told: bool
) -> None:
    pairs = itertools.product(MOVES, repeat=2) if together is in_turn else itertools.combinations(MOVES, 2)
    for number, deeds in enumerate(pairs):
        case = await coming(stores, f"t{number}", told=told)
        try:
            await judge_move(case, deeds, await together(case, *deeds))
            broken = {k: v for k, v in (await stores[0].violations()).items() if v} if number % 10 == 0 else {}
            assert broken == {}
        except BaseException as error:
            error.add_note(f"{together.__name__}: {deeds}")
            raise
        await stores[0]._db.fetch("update pods set state = 'closing' where run_id is null and state <> 'closed'")
    assert {k: v for k, v in (await stores[0].violations()).items() if v} == {}
