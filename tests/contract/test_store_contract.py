"""What the api relies on, asked of the store in memory (which its unit tests use) and of the true one alike."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from uuid import UUID

import pytest

from milepost.wire.pod import (
    ChunkWrite,
    Failure,
    HeartbeatRequest,
    NextRequest,
    RecordsRequest,
    RecordWrite,
    SettleRequest,
    StreamRequest,
    Wait,
)
from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.domain.errors import (
    ConflictError,
    ForbiddenError,
    GoneError,
    MilepostError,
    NotFoundError,
)
from milepost_operator.domain.lifecycle import RunFilter
from milepost_operator.domain.objects import StoredObject, Upload
from milepost_operator.domain.runs import Created, Ending, PodSession
from milepost_operator.domain.states import Reason, RunState
from milepost_operator.settings import Settings
from tests.fakes.memory_store import MemoryStore
from tests.integration.engine import NS, Pod, apply_task, launch, lose, settled, started, trigger

pytestmark = pytest.mark.parametrize("kind", ["memory", "postgres"], indirect=True)


@dataclass
class World:
    """One kind of store, and what admission and the operator do beside it."""

    store: MemoryStore | PostgresStore

    async def run(self, **changes: object) -> Created:
        return await trigger(self.store, **changes)  # type: ignore[arg-type]

    async def admitted(self, run: Created, number: int = 1) -> PodSession:
        """The session of the pod of the run's next attempt."""
        if isinstance(self.store, MemoryStore):
            pod_id = f"{str(run.run_id)[-8:]}{number:08}"
            self.store.launch(run.run_id, pod_id)
            return await self.store.open_session(pod_id, NS, f"pod-{pod_id}", f"mp-{pod_id}-abcde")
        (session,) = await launch(self.store)
        return session

    async def pod(self, run: Created, number: int = 1) -> Pod:
        session = await self.admitted(run, number)
        return Pod(self.store, session, await started(self.store, session))  # type: ignore[arg-type]

    async def handed(self, run: Created, idle: PodSession) -> None:
        """The run's next attempt is offered to a pod that waits."""
        if isinstance(self.store, MemoryStore):
            self.store.offer(run.run_id, idle.pod_id)
            return
        await self.store.admit(10)
        assert list((await self.store.hand_over()).pods) == [idle.pod_id]

    async def lose(self, pod: Pod) -> None:
        """Only the true store has losses; in memory the next launch stands for one."""
        if isinstance(self.store, PostgresStore):
            loss = Ending(Reason.POD_LOST, "gone", counted=False, infra=True)
            await lose(self.store, pod.session.pod_id, loss)

    async def state(self, run: Created) -> str:
        return (await self.store.get_run(NS, run.name)).state


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> Settings | None:
    """Of the true store: where its database is."""
    return request.getfixturevalue("settings") if request.param == "postgres" else None


@pytest.fixture
async def world(kind: Settings | None) -> AsyncIterator[World]:
    if kind is None:
        yield World(MemoryStore())
        return
    async with PostgresStore.open(kind) as store:
        await apply_task(store)
        yield World(store)


def refused(answer: object, code: str) -> None:
    assert isinstance(answer, MilepostError), answer
    assert answer.code == code


async def tell(pod: Pod, *chunks: tuple[str, str]) -> object:
    request = StreamRequest(pod.fence, [ChunkWrite(write_id, value) for write_id, value in chunks])
    (answer,) = await pod.store.append_chunks([(pod.session, request)])
    return answer


async def test_a_run_tells_its_stream_in_order_and_each_part_once(world: World) -> None:
    run = await world.run()
    pod = await world.pod(run)
    assert await tell(pod, ("a", '{"t": 1}'), ("b", "2")) == [1, 2]
    assert await tell(pod, ("b", "2"), ("c", "3")) == [2, 3]
    assert await world.store.told([(run.run_id, 3), (run.run_id, 2)]) == [(run.run_id, 2)]
    told = await world.store.chunks(run.run_id, 1, 10)
    assert [(c.position, c.attempt, c.value) for c in told] == [(2, 1, "2"), (3, 1, "3")]
    assert [c.value for c in await world.store.chunks(run.run_id, 0, 1)] == ['{"t": 1}']
    await pod.succeed()
    assert await world.store.told([(run.run_id, 3)]) == [(run.run_id, 3)]
    refused(await tell(pod, ("d", "4")), "settled")


async def test_the_next_attempt_goes_on_with_the_stream_and_the_old_one_is_fenced(world: World) -> None:
    run = await world.run()
    old = await world.pod(run)
    await tell(old, ("a", "1"))
    await world.lose(old)
    new = await world.pod(run, 2)
    refused(await tell(old, ("b", "2")), "fenced")
    assert await tell(new, ("c", "3")) == [2]
    assert [(c.attempt, c.value) for c in await world.store.chunks(run.run_id, 0, 10)] == [(1, "1"), (2, "3")]


async def test_a_stream_is_bounded(world: World) -> None:
    if isinstance(world.store, MemoryStore):
        world.store.max_stream_bytes = 1024
    else:
        world.store._db.settings = world.store._db.settings.model_copy(update={"max_stream_bytes": 1024})
    run = await world.run()
    pod = await world.pod(run)
    assert await tell(pod, ("a", f'"{"x" * 1000}"')) == [1]
    refused(await tell(pod, ("b", f'"{"x" * 100}"')), "stream-full")
    assert await tell(pod, ("a", f'"{"x" * 1000}"')) == [1]
    assert await tell(pod, ("c", '"fits"')) == [2]


async def test_a_key_is_one_run_s(world: World) -> None:
    first = await world.run(idempotency_key="k", input='{"a": 1}')
    again = await world.run(idempotency_key="k", input='{ "a":1 }')
    assert (again.run_id, again.duplicate, first.duplicate, first.state) == (first.run_id, True, False, "queued")
    with pytest.raises(ConflictError) as other:
        await world.run(idempotency_key="k", input='{"a": 2}')
    refused(other.value, "idempotency-mismatch")
    await world.run(name="mine")
    with pytest.raises(ConflictError) as taken:
        await world.run(name="mine")
    refused(taken.value, "name-taken")


async def test_runs_are_found_by_name_and_id_and_listed_newest_first(world: World) -> None:
    made = [await world.run(name=f"r{n}", tags=[f"t{n % 2}"]) for n in range(4)]
    assert (await world.store.get_run(NS, str(made[0].run_id))).name == "r0"
    for namespace, name in ((NS, "nope"), ("other", "r0"), (NS, str(UUID(int=1)))):
        with pytest.raises(NotFoundError):
            await world.store.get_run(namespace, name)
    page = await world.store.page(NS, RunFilter(), None, 3)
    assert [v["name"] for v in page.items] == ["r3", "r2", "r1"]
    rest = await world.store.page(None, RunFilter(), page.following, 3)
    assert [v["name"] for v in rest.items] == ["r0"]
    some = await world.store.page(NS, RunFilter(tag="t1", task="index", queue="default"), None, 9)
    assert [v["name"] for v in some.items] == ["r3", "r1"]
    for namespace, asked in ((NS, RunFilter(states=[RunState.RUNNING])), ("other", RunFilter())):
        assert (await world.store.page(namespace, asked, None, 9)).items == []


async def test_a_session_binds_its_pod_for_good(world: World) -> None:
    session = await world.admitted(await world.run())
    pod_id, name = session.pod_id, f"mp-{session.pod_id}-abcde"
    assert await world.store.open_session(pod_id, NS, session.pod_uid, name) == session
    for namespace, uid, pod_name in ((NS, "other", name), ("other", session.pod_uid, name), (NS, session.pod_uid, "x")):
        with pytest.raises(ForbiddenError):
            await world.store.open_session(pod_id, namespace, uid, pod_name)
    with pytest.raises(NotFoundError):
        await world.store.open_session("nope", NS, "u", "mp-nope-abcde")


async def test_an_attempt_starts_once_and_is_given_again(world: World) -> None:
    run = await world.run(input='{"z": 1.50}', tags=["t"])
    pod = await world.pod(run)
    await pod.write("a")
    again = await started(world.store, pod.session)
    assert replace(again, records=0, last_seq=0, last_key=None) == pod.start
    assert (again.records, again.last_seq, again.last_key) == (1, 1, "a")
    assert (again.input, again.tags, again.attempt, await world.state(run)) == ('{"z": 1.50}', ["t"], 1, "running")
    assert [(a.state, a.reason) for a in await world.store.get_attempts(run.run_id)] == [("running", None)]


async def test_records_are_kept_in_order_the_first_step_wins(world: World) -> None:
    pod = await world.pod(await world.run())
    assert await pod.write("a", '{"x": 1.50}', write_id="w") == [1]
    assert await pod.write("a", '{"x": 1.50}', write_id="w") == [1], "sent again"
    refused(await pod.write("a", "2"), "step-exists")
    assert [await pod.write("c", str(n), kind="checkpoint") for n in (1, 2)] == [[2], [3]]
    failed = RecordWrite("f", "step", "f", "{}", failed=True)
    assert await world.store.append([(pod.session, RecordsRequest(pod.fence, [failed]))]) == [[4]]
    kept = [(r.seq, r.key, r.value, r.failed, r.attempt) async for r in world.store.records(pod.fence, 0)]
    assert kept[0] == (1, "a", '{"x": 1.50}', False, 1)
    assert kept[3] == (4, "f", "{}", True, 1)
    assert [r.seq async for r in world.store.records(pod.fence, 3)] == [4]
    newest = await world.store.newest(pod.fence, "checkpoint", "c")
    assert newest
    assert (newest.seq, newest.value) == (3, "2")
    assert await world.store.newest(pod.fence, "step", "c") is None
    view = await world.store.get_run(NS, pod.start.run_name)
    assert (view.last_seq, view.last_key) == (4, "f")


async def test_a_record_may_have_its_value_in_object_storage(world: World) -> None:
    run = await world.run()
    pod = await world.pod(run)
    store, session, fence = world.store, pod.session, pod.fence
    big = RecordWrite("w1", "step", "big", types='"date"')
    upload = await store.begin_object(session, fence, 2_000_000, big)
    assert isinstance(upload, Upload)
    assert upload.size == 2_000_000
    assert await store.append_object(session, fence, big, upload, b"d" * 32) == 1
    assert await store.begin_object(session, fence, 2_000_000, big) == 1, "told again: nothing is written again"
    with pytest.raises(ConflictError) as refused:
        await store.begin_object(session, fence, 5, RecordWrite("w2", "step", "big"))
    assert refused.value.code == "step-exists"
    late = RecordWrite("w3", "checkpoint", "state")
    twice = [await store.begin_object(session, fence, 3_000_000, late) for _ in range(2)]
    seqs = [await store.append_object(session, fence, late, one, b"e" * 32) for one in twice]
    assert seqs == [2, 2], "the same write, twice on its way"
    assert await pod.write("small", "1") == [3]
    kept = [record async for record in store.records(fence, 0)]
    assert [(r.seq, r.key, r.value, r.object_bytes, r.types) for r in kept] == [
        (1, "big", "", 2_000_000, '"date"'), (2, "state", "", 3_000_000, None), (3, "small", "1", 0, None),
    ]  # fmt: skip
    newest = await store.newest(fence, "step", "big")
    assert newest == kept[0]
    assert await store.object_of_record(fence, 1) == StoredObject(upload.key, 2_000_000, b"d" * 32)
    assert await store.object_of_record(fence, 3) is None


async def test_a_result_may_be_in_object_storage(world: World) -> None:
    run = await world.run()
    pod = await world.pod(run)
    upload = await world.store.begin_object(pod.session, pod.fence, 2_000_000, None)
    assert isinstance(upload, Upload)
    by_object = SettleRequest(pod.fence, "succeeded", result_object=str(upload.object_id))
    with pytest.raises(ConflictError) as half:
        await settled(world.store, pod.session, by_object)
    assert half.value.code == "unknown-object", "it is not whole yet"
    await world.store.object_stored(upload.object_id, b"d" * 32)
    other = await world.run()
    stranger = await world.pod(other, 2)
    with pytest.raises(ConflictError) as strange:
        await settled(world.store, stranger.session, replace(by_object, fence=stranger.fence))
    assert strange.value.code == "unknown-object", "another run's is not this one's"
    for _ in range(2):
        assert await settled(world.store, pod.session, by_object) == RunState.SUCCEEDED
    assert await world.store.object_of_result(run.run_id) == StoredObject(upload.key, 2_000_000, b"d" * 32)
    assert await world.store.object_of_result(other.run_id) is None
    await stranger.succeed()


async def test_an_object_of_an_older_attempt_is_refused(world: World) -> None:
    run = await world.run()
    pod = await world.pod(run)
    write = RecordWrite("w1", "step", "big")
    upload = await world.store.begin_object(pod.session, pod.fence, 2_000_000, write)
    assert isinstance(upload, Upload)
    await world.lose(pod)
    newer = await world.pod(run, 2)
    for refused in (
        world.store.append_object(pod.session, pod.fence, write, upload, b"d" * 32),
        world.store.begin_object(pod.session, pod.fence, 5, write),
        world.store.begin_object(pod.session, pod.fence, 5, None),
    ):
        with pytest.raises(ConflictError) as fenced:
            await refused
        assert fenced.value.code == "fenced"
    assert [record async for record in world.store.records(newer.fence, 0)] == []


async def test_one_request_of_a_batch_does_not_spoil_the_others(world: World) -> None:
    pod = await world.pod(await world.run())
    good = RecordsRequest(pod.fence, [RecordWrite("w1", "step", "a", "1"), RecordWrite("w2", "step", "b", "1")])
    bad = RecordsRequest(replace(pod.fence, token=1 << 40), [RecordWrite("w3", "step", "c", "1")])
    first, second = await world.store.append([(pod.session, good), (pod.session, bad)])
    assert first == [1, 2]
    refused(second, "fenced")


async def test_an_older_attempt_is_refused_everything(world: World) -> None:
    run = await world.run()
    old = await world.pod(run)
    await old.write("a")
    await world.lose(old)
    new = await world.pod(run, 2)
    assert (new.start.attempt, new.start.records) == (2, 1)
    refused(await old.write("b"), "fenced")
    (beat,) = await world.store.beat([(old.session, HeartbeatRequest(old.fence))])
    refused(beat, "fenced")
    for deed in (old.succeed, lambda: world.store.check_fence(old.session, old.fence)):
        with pytest.raises(ConflictError) as error:
            await deed()
        refused(error.value, "fenced")
    with pytest.raises(GoneError):
        await started(world.store, old.session)
    forged = Pod(old.store, old.session, new.start)
    assert isinstance(await forged.write("c"), ForbiddenError)
    with pytest.raises(ForbiddenError):
        await world.store.check_fence(old.session, new.fence)
    assert await new.write("b") == [2]


async def test_a_settle_counts_once_and_closes_the_pod(world: World) -> None:
    run = await world.run()
    pod = await world.pod(run)
    assert await pod.succeed("[1]") == await pod.succeed("[1]") == "succeeded"
    view = await world.store.get_run(NS, run.name)
    assert (view.state, view.result, view.attempts_counted) == ("succeeded", "[1]", 0)
    refused(await pod.write("late"), "settled")
    with pytest.raises(GoneError):
        await started(world.store, pod.session)
    with pytest.raises(GoneError):
        await world.store.open_session(pod.session.pod_id, NS, pod.session.pod_uid, f"mp-{pod.session.pod_id}-abcde")
    assert [(a.state, a.reason) for a in await world.store.get_attempts(run.run_id)] == [("ended", "Succeeded")]


async def test_a_pod_that_can_be_used_again_waits_and_takes_the_next_attempt(world: World) -> None:
    first = await world.run()
    pod = await world.pod(first)
    session = pod.session
    name = f"mp-{session.pod_id}-abcde"
    await world.store.open_session(session.pod_id, NS, session.pod_uid, name, reusable=True)
    assert await pod.succeed() == "succeeded"
    with pytest.raises(GoneError):
        await started(world.store, session)
    assert await world.store.still_waiting([session.pod_id, "nobody"]) == [session.pod_id]
    asking = [(session, NextRequest())]
    assert await world.store.next_work(asking) == await world.store.next_work(asking) == [False]
    run = await world.run()
    await world.handed(run, session)
    assert await world.store.still_waiting([session.pod_id]) == []
    assert await world.store.next_work(asking) == [True]
    warm = Pod(pod.store, session, await started(world.store, session))
    assert warm.start.run_id == str(run.run_id)
    assert await world.store.next_work(asking) == [True], "a restarted sidecar"
    assert await warm.write("a") == [1]
    refused(await pod.write("late"), "settled")
    assert await pod.succeed() == "succeeded", "told again"
    assert await warm.fail() == "backoff"
    (gone,) = await world.store.next_work([(session, NextRequest("grew"))])
    assert isinstance(gone, GoneError)
    with pytest.raises(GoneError):
        await world.store.open_session(session.pod_id, NS, session.pod_uid, name)


@pytest.mark.parametrize(
    ("failure", "state", "reason", "counted"),
    [
        (Failure("user", "E", "no"), "backoff", "TaskFailed", 1),
        (Failure("fatal", "E", "no"), "failed", "FatalError", 1),
        (Failure("oom", "E", "no"), "backoff", "OOMKilled", 1),
        (Failure("config", "E", "no"), "failed", "ConfigError", 0),
    ],
)
async def test_a_failure_decides_what_follows(
    world: World, failure: Failure, state: str, reason: str, counted: int
) -> None:
    run = await world.run()
    pod = await world.pod(run)
    assert await settled(world.store, pod.session, SettleRequest(pod.fence, "failed", None, failure)) == state
    view = await world.store.get_run(NS, run.name)
    assert (view.state, view.reason, view.attempts_counted, view.result) == (state, reason, counted, None)


async def test_a_wait_gives_the_pod_back(world: World) -> None:
    run = await world.run()
    pod = await world.pod(run)
    assert await pod.suspend(Wait("w", "signal", name="go")) == "suspended"
    assert (await world.store.get_run(NS, run.name)).reason == "Suspended"
    refused(await pod.write("late"), "settled")
    await world.store.cancel_run(run.run_id, "test")
    assert await world.state(run) == "cancelled"


async def test_cancel_asks_who_works_and_ends_who_does_not(world: World) -> None:
    waiting = await world.run()
    await world.store.cancel_run(waiting.run_id, "test")
    reserved = await world.run()
    session = await world.admitted(reserved)
    await world.store.cancel_run(reserved.run_id, "test")
    assert [await world.state(r) for r in (waiting, reserved)] == ["cancelled", "cancelled"]
    with pytest.raises(GoneError):
        await started(world.store, session)
    working = await world.run()
    pod = await world.pod(working)
    (before,) = await world.store.beat([(pod.session, HeartbeatRequest(pod.fence))])
    await world.store.cancel_run(working.run_id, "test")
    (after,) = await world.store.beat([(pod.session, HeartbeatRequest(pod.fence))])
    assert [getattr(b, "directive", b) for b in (before, after)] == ["continue", "cancel"]
    assert await world.state(working) == "cancelling"
    assert await pod.write("in the grace") == [1]
    assert await pod.succeed() == "cancelled"
    await world.store.cancel_run(working.run_id, "test")
    assert (await world.store.get_run(NS, working.name)).result is None
    with pytest.raises(NotFoundError):
        await world.store.cancel_run(UUID(int=1), "test")


async def test_signals_are_numbered_and_end_with_the_run(world: World) -> None:
    run = await world.run()
    first = await world.store.signal_run(run.run_id, "go", "1", "id")
    second = await world.store.signal_run(run.run_id, "go", "2")
    assert second > first == await world.store.signal_run(run.run_id, "go", "1", "id")
    await world.store.cancel_run(run.run_id, "test")
    assert await world.store.signal_run(run.run_id, "go", "1", "id") == first, "the same signal, sent again"
    with pytest.raises(ConflictError) as ended:
        await world.store.signal_run(run.run_id, "go", "3")
    refused(ended.value, "run-ended")
    with pytest.raises(NotFoundError):
        await world.store.signal_run(UUID(int=1), "go", "1")
