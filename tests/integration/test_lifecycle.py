import asyncio
from uuid import UUID

import pytest

from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.domain.errors import ConflictError, PrunedError
from milepost_operator.domain.lifecycle import RunFilter
from milepost_operator.domain.runs import Retry, Singleton
from milepost_operator.domain.states import RunState
from tests.integration.engine import NS, Pod, apply_task, next_pod, trigger

ALL = RunFilter()


async def failed(store: PostgresStore, *keys: str, **changes: object) -> Pod:
    """A run that failed for good after these steps: a dead letter."""
    await trigger(store, **changes)
    pod = await next_pod(store)
    for key in keys:
        await pod.write(key, f'"{key}"')
    assert await pod.fail() == "failed"
    return pod


@pytest.fixture
async def one_attempt(store: PostgresStore) -> None:
    await apply_task(store, retry=Retry(max_attempts=1))


async def letters(store: PostgresStore, asked: RunFilter = ALL) -> list[str]:
    return [str(item["id"]) for item in (await store.dead_letters(NS, asked, None, 100)).items]


async def test_a_retry_is_a_new_run_that_resumes_after_the_last_record(store: PostgresStore) -> None:
    await apply_task(store)
    made = await trigger(store, input='{"a": 1}', tags=("x",), idempotency_key="k")
    pod = await next_pod(store)
    await pod.write("first", "1")
    await pod.write("second", "2")
    await pod.succeed()
    copied = await store.retry_run(made.run_id, "me")
    assert (copied.state, copied.origin_run, copied.origin_seq, copied.records) == (RunState.QUEUED, made.run_id, 2, 2)
    again = await next_pod(store)
    assert (again.start.run_id, again.start.attempt, again.start.input) == (str(copied.run_id), 1, '{"a": 1}')
    assert (again.start.records, again.start.last_seq, again.start.last_key) == (2, 2, "second")
    assert await again.records() == [("first", "1"), ("second", "2")]
    assert await again.write("third", "3") == [3]
    await again.succeed()
    view = await store.get_run(NS, str(copied.run_id))
    assert (view.origin, view.origin_run, view.tags, view.idempotency_key) == ("retry", made.run_id, ["x"], None)
    assert (await store.get_run(NS, made.name)).state is RunState.SUCCEEDED


@pytest.mark.usefixtures("one_attempt")
async def test_only_ended_runs_with_their_records_are_retried(store: PostgresStore) -> None:
    made = await trigger(store)
    with pytest.raises(ConflictError, match="queued") as refused:
        await store.retry_run(made.run_id, "me")
    assert refused.value.code == "not-ended"
    pod = await next_pod(store)
    await pod.write("a")
    await pod.fail()
    with pytest.raises(ConflictError, match="redrive") as refused:
        await store.retry_run(made.run_id, "me")
    assert refused.value.code == "dead-letter"
    await store.discard(NS, [made.name], "me")
    await store._db.fetch("update runs set finished_at = finished_at - interval '31 days'")
    assert await store.prune(100)
    with pytest.raises(PrunedError, match="create a run"):
        await store.retry_run(made.run_id, "me")


async def test_racing_retries_of_a_run_make_one_run(store: PostgresStore) -> None:
    await apply_task(store)
    made = await trigger(store)
    await store.cancel_run(made.run_id, "me")
    answers = await asyncio.gather(*(store.retry_run(made.run_id, "me") for _ in range(8)), return_exceptions=True)
    (copied,) = [one for one in answers if not isinstance(one, BaseException)]
    refused = [one for one in answers if isinstance(one, ConflictError)]
    assert ({one.code for one in refused}, len(refused)) == ({"already-retried"}, 7)
    assert copied.name in str(refused[0])
    await store.cancel_run(copied.run_id, "me")
    assert (await store.retry_run(made.run_id, "me")).run_id != copied.run_id


@pytest.mark.usefixtures("one_attempt")
async def test_a_copy_of_a_singleton_is_one_too(store: PostgresStore) -> None:
    only = Singleton("s")
    first = await trigger(store, singleton=only)
    await store.cancel_run(first.run_id, "me")
    letter = (await failed(store, singleton=only)).start.run_id
    copied = await store.retry_run(first.run_id, "me")
    assert (await trigger(store, singleton=only)).run_id == copied.run_id
    (kept,) = await store.redrive(NS, [letter], "me")
    assert (kept.outcome, kept.made, await letters(store)) == ("singleton-exists", copied.run_id, [letter])
    await store.cancel_run(copied.run_id, "me")
    other = await trigger(store, singleton=only)
    with pytest.raises(ConflictError, match=other.name) as refused:
        await store.retry_run(first.run_id, "me")
    assert refused.value.code == "singleton-exists"
    await store.cancel_run(other.run_id, "me")
    (done,) = await store.redrive(NS, [letter], "me")
    assert done.outcome == "redriven"


async def test_a_retry_of_a_task_that_is_gone_is_held(store: PostgresStore) -> None:
    await apply_task(store)
    made = await trigger(store)
    await store.cancel_run(made.run_id, "me")
    await store.remove_task(NS, "index")
    copied = await store.retry_run(made.run_id, "me")
    assert copied.state is RunState.HELD
    assert (await store.get_run(NS, copied.name)).reason == "TaskNotFound"
    await store.cancel_run(copied.run_id, "me")


@pytest.mark.usefixtures("one_attempt")
async def test_racing_redrives_of_a_dead_letter_make_one_run(store: PostgresStore) -> None:
    pod = await failed(store, "a", "b")
    run = pod.start.run_id
    assert await letters(store) == [run]
    answers = await asyncio.gather(*(store.redrive(NS, [run], f"caller {n}") for n in range(8)))
    outcomes = [one.outcome for (one,) in answers]
    assert outcomes.count("redriven") == 1
    assert outcomes.count("not-a-dead-letter") == 7
    assert len({one.made for (one,) in answers}) == 1
    assert await letters(store) == []
    again = await next_pod(store)
    assert await again.records() == [("a", '"a"'), ("b", '"b"')]
    assert await again.fail() == "failed"
    assert await letters(store) == [again.start.run_id]


@pytest.mark.usefixtures("one_attempt")
async def test_dead_letters_are_conserved(store: PostgresStore) -> None:
    runs = [(await failed(store)).start.run_id for _ in range(6)]
    redriven = await store.redrive(NS, [runs[0], "nothing", runs[1]], "me")
    assert [one.outcome for one in redriven] == ["redriven", "not-found", "redriven"]
    discarded = await store.discard(NS, [runs[2], runs[0]], "me")
    assert [one.outcome for one in discarded] == ["discarded", "not-a-dead-letter"]
    assert discarded[1].made == redriven[0].made
    assert set(await letters(store)) == set(runs[3:])
    (row,) = await store._db.fetch(
        "select count(*) filter (where dead_lettered) as listed, count(redriven_by) as redriven,"
        " count(discarded_at) as discarded, count(dead_lettered_at) as all from runs",
    )
    assert (row["listed"], row["redriven"], row["discarded"], row["all"]) == (3, 2, 1, 6)
    await store.cancel_many(NS, [one.made for one in redriven if one.made], "me")


@pytest.mark.usefixtures("one_attempt")
async def test_a_redrive_that_fails_half_way_leaves_the_dead_letter(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = await failed(store, "a")

    async def broken(*_: object) -> None:
        raise RuntimeError("half way")

    monkeypatch.setattr("milepost_operator.adapters.postgres.lifecycle.add_event", broken)
    with pytest.raises(RuntimeError):
        await store.redrive(NS, [pod.start.run_id], "me")
    assert await letters(store) == [pod.start.run_id]
    assert len((await store.page(NS, ALL, None, 10)).items) == 1


@pytest.mark.usefixtures("one_attempt")
async def test_dead_letters_are_filtered_and_paged(store: PostgresStore) -> None:
    runs = [(await failed(store, tags=(f"t{n % 2}",))).start.run_id for n in range(5)]
    assert len(await letters(store, RunFilter(tag="t1"))) == 2
    assert len(await letters(store, RunFilter(error="valueerror"))) == 5
    assert await letters(store, RunFilter(error="OSError")) == []
    first = await store.dead_letters(NS, ALL, None, 3)
    rest = await store.dead_letters(NS, ALL, first.following, 3)
    assert [str(i["id"]) for i in (*first.items, *rest.items)] == runs[::-1]
    assert rest.following is None


async def test_many_are_cancelled_by_filter(store: PostgresStore) -> None:
    await apply_task(store)
    await apply_task(store, "other")
    pods = [await trigger(store), await trigger(store)]
    await store.admit(1)
    ended = await trigger(store)
    await store.cancel_run(ended.run_id, "me")
    kept = await trigger(store, "other")
    many = [await trigger(store, tags=("t",)) for _ in range(45)]
    found = await store.find_live(NS, RunFilter(task="index"), None, 40)
    assert len(found.run_ids) == 40
    rest = await store.find_live(NS, RunFilter(task="index"), found.following, 40)
    assert set(found.run_ids) | set(rest.run_ids) == {run.run_id for run in (*pods, *many)}
    assert rest.following is None
    assert (await store.find_live(NS, RunFilter(states=(RunState.FAILED,)), None, 40)).run_ids == []
    assert await store.cancel_many("elsewhere", found.run_ids, "me") == 0
    done = await asyncio.gather(*(store.cancel_many(NS, [*rest.run_ids, *found.run_ids], "me") for _ in range(3)))
    assert sum(done) == 47
    states = {str(item["id"]): item["state"] for item in (await store.page(NS, ALL, None, 100)).items}
    assert states.pop(str(kept.run_id)) == "queued"
    assert set(states.values()) == {"cancelled"}


async def test_records_then_rows_are_pruned_when_their_time_is_over(store: PostgresStore) -> None:
    await apply_task(store, retention={"success_seconds": 1000, "records_success_seconds": 100})
    runs: list[UUID] = []
    for _ in range(3):
        runs.append((await trigger(store, tags=("t",))).run_id)
        pod = await next_pod(store)
        await pod.write("a")
        await pod.succeed()
    live = await trigger(store)
    await store._db.fetch("update pods set state = 'closed', closed_at = clock_timestamp()")
    assert not await store.prune(500)
    await _age(store, runs[:2], 101)
    assert await store.prune(500)
    assert not await store.prune(500)
    assert await _count(store, "records") == 1
    assert (await store.get_run(NS, str(runs[0]))).last_seq == 1
    await _age(store, runs[:1], 1001)
    await _age(store, runs[2:], 1001)  # its records are due with its row
    while await store.prune(500):
        pass
    left = {item["id"] for item in (await store.page(NS, ALL, None, 10)).items}
    assert left == {str(runs[1]), str(live.run_id)}
    assert [await _count(store, t) for t in ("records", "attempts", "pods", "run_tags", "run_heads")] == [0, 1, 1, 1, 2]
    assert await store._db.fetch("select run_id from run_events except select run_id from runs") == []
    await store.cancel_run(live.run_id, "me")


@pytest.mark.usefixtures("one_attempt")
async def test_dead_letters_and_runs_shown_in_an_object_are_not_pruned(store: PostgresStore) -> None:
    pod = await failed(store, "a")
    shown = await trigger(store)
    await store.cancel_run(shown.run_id, "me")
    await store._db.fetch("update runs set cr_uid = 'u' where run_id = $1", shown.run_id)
    await _age(store, [UUID(pod.start.run_id), shown.run_id], 400 * 86_400)
    while await store.prune(500):
        pass
    assert len((await store.page(NS, ALL, None, 10)).items) == 2
    assert await _count(store, "records") == 1
    await store.redrive(NS, [pod.start.run_id], "me")
    assert await store.lost_crs(["another"], (await store.get_run(NS, str(shown.run_id))).created_at) == 0
    while await store.prune(500):
        pass
    (item,) = (await store.page(NS, ALL, None, 10)).items
    assert item["origin"] == "redrive"
    await store.cancel_many(NS, [UUID(str(item["id"]))], "me")


async def test_pruning_is_done_in_batches_by_several_at_once(store: PostgresStore) -> None:
    await apply_task(store)
    await store._db.fetch(
        "insert into runs (run_id, cluster, namespace, name, task, queue, state, input, input_hash, origin,"
        " finished_at)"
        " select gen_random_uuid(), 'default', $1, 'r' || n, 'task' || n % 30, 'default', 'succeeded', '{}', '', 'api',"
        " now() - interval '60 days' + n * interval '1 second' from generate_series(1, 1000) n",
        NS,
    )
    await store._db.fetch("insert into run_heads (run_id) select run_id from runs")

    async def one() -> None:
        while await store.prune(20):
            pass

    await asyncio.gather(*(one() for _ in range(3)))
    assert await _count(store, "runs") == 0


async def test_objects_beyond_the_history_limits_are_surplus(store: PostgresStore) -> None:
    await apply_task(store, retention={"successful_runs": 2})
    names = []
    for n in range(4):
        names.append((await trigger(store)).name)
        await (await next_pod(store)).succeed()
        await store._db.fetch(
            "update runs set cr_uid = $1, projected_rev = rev + 5, projected_at = clock_timestamp() where name = $2",
            f"u{n}",
            names[-1],
        )
    mine = await trigger(store, intent_uid="cr", name="mine", origin="kubectl")
    await (await next_pod(store)).succeed()
    surplus = await store.surplus_crs(10)
    assert [(name, uid) for _, _, name, uid in surplus] == [(names[1], "u1"), (names[0], "u0")]
    await store.cr_deleted([surplus[0][0], mine.run_id])
    assert [name for _, _, name, _ in await store.surplus_crs(10)] == [names[0]]
    (row,) = await store._db.fetch("select cr_uid from runs where run_id = $1", mine.run_id)
    assert row["cr_uid"] == "cr"
    assert all(one.view.name not in names[:2] for one in await store.due(10, 1.0))


async def _age(store: PostgresStore, runs: list[UUID], seconds: int) -> None:
    query = "update runs set finished_at = clock_timestamp() - make_interval(secs => $2) where run_id = any($1)"
    await store._db.fetch(query, runs, float(seconds))
    await store._db.fetch("update runs set dead_lettered_at = finished_at where dead_lettered_at is not null")
    await store._db.fetch(
        "update runs set projected_at = clock_timestamp() - interval '500 days' where projected_at is null"
    )


async def _count(store: PostgresStore, table: str) -> int:
    (row,) = await store._db.fetch(f"select count(*)::int as n from {table}")
    return int(row["n"])
