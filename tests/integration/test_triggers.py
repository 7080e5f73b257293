"""Triggers against a real Postgres: what two calls can't both get, however they meet."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from milepost_operator.adapters.postgres.items import create_arguments, items_of, owner_arguments
from milepost_operator.adapters.postgres.queries import Q
from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.domain.errors import ConflictError, MilepostError, QueueFullError, ThrottledError
from milepost_operator.domain.runs import Created, Debounce, NewRun, QueueIntake, Singleton, Throttle
from milepost_operator.domain.states import RunState
from milepost_operator.settings import Settings
from tests.integration.engine import NS, apply_task, eventually, next_pod, trigger
from tests.integration.test_plans_of_time import BACKLOG, nodes

_numbers = itertools.count()


@pytest.fixture
async def other(settings: Settings) -> AsyncIterator[PostgresStore]:
    """A second replica."""
    async with PostgresStore.open(settings) as opened:
        yield opened


def new(task: str = "index", **changes: object) -> NewRun:
    return NewRun(**({"namespace": NS, "task": task, "input": "{}"} | changes))  # type: ignore[arg-type]


async def row(store: PostgresStore, made: Created) -> Any:
    return await store._db.fetchrow("select *, ready_at - created_at as wait from runs where run_id = $1", made.run_id)


async def count(store: PostgresStore) -> int:
    found = await store._db.fetchrow("select count(*) as n from runs")
    assert found is not None
    return int(found["n"])


async def test_options_become_columns(store: PostgresStore) -> None:
    await apply_task(store)
    made = await trigger(
        store,
        delay_seconds=60.0,
        ttl_seconds=30.0,
        deadline_seconds=600.0,
        tags=("a", 'b"c', "ä,{}"),
        priority=10,
        concurrency_key="acme",
        cost=3,
    )
    found = await row(store, made)
    assert (made.state, found["state"], found["tags"]) == ("delayed", "delayed", ["a", 'b"c', "ä,{}"])
    assert (found["priority"], found["concurrency_key"], found["rate_cost"]) == (10, "acme", 3)
    assert found["wait"] == timedelta(seconds=60)
    assert found["order_at"] == found["ready_at"] - timedelta(minutes=10)
    assert found["expires_at"] == found["ready_at"] + timedelta(seconds=30)
    assert found["deadline_at"] == found["created_at"] + timedelta(seconds=600)
    head = await store._db.fetchrow("select * from run_heads where run_id = $1", made.run_id)
    assert head is not None
    await store._db.fetch("delete from runs")
    assert await store._db.fetchrow("select * from run_heads") is None


async def test_a_time_in_the_past_is_now(store: PostgresStore) -> None:
    await apply_task(store)
    past = await trigger(store, at=datetime(2001, 1, 1, tzinfo=UTC))
    assert past.state == RunState.QUEUED
    assert (await row(store, past))["wait"] == timedelta(0)
    future = await trigger(store, at=datetime.now(UTC) + timedelta(days=1))
    assert future.state == RunState.DELAYED


async def test_a_batch_takes_the_good_ones_and_says_why_not_the_others(store: PostgresStore) -> None:
    await apply_task(store)
    await trigger(store, name="taken", idempotency_key="old", input="1")
    answers = await store.create_runs(
        [
            new(),
            new(name="taken"),
            new(idempotency_key="old", input="2"),
            new(idempotency_key="old", input="1"),
            new(idempotency_key="fresh"),
            new(idempotency_key="fresh"),
            new(idempotency_key="fresh", input="3"),
            new(name="twice"),
            new(name="twice"),
            new(name="taken", idempotency_key="given-back"),
            new(task="missing"),
            new(singleton=Singleton("s")),
            new(singleton=Singleton("s", reject=True)),
            new(debounce=Debounce("d", 60, 600)),
            new(debounce=Debounce("d", 90, 600), input="4"),
        ],
        together=True,
    )
    told = [f"{a.state.value} {a.duplicate}" if isinstance(a, Created) else a.code for a in answers]
    assert told == [
        "queued False",
        "name-taken",
        "idempotency-mismatch",
        "queued True",
        "queued False",
        "queued True",
        "idempotency-mismatch",
        "queued False",
        "name-taken",
        "name-taken",
        "held False",
        "queued False",
        "singleton-exists",
        "delayed False",
        "delayed True",
    ]
    again = await trigger(store, idempotency_key="given-back", input='"other"')
    assert not again.duplicate
    (debounced,) = await store._db.fetch("select input from runs where state = 'delayed'")
    assert debounced["input"] == "4"


async def test_a_thousand_with_keys_twice_are_a_thousand_runs(store: PostgresStore, other: PostgresStore) -> None:
    await apply_task(store)
    runs = [new(idempotency_key=f"k{n}") for n in range(1000)]
    one, two = await asyncio.gather(
        store.create_runs(runs, together=True), other.create_runs(runs[::-1], together=True)
    )
    ids = [a.run_id for a in one if isinstance(a, Created)]
    assert ids == [a.run_id for a in reversed(two) if isinstance(a, Created)]
    assert await count(store) == 1000
    assert sum(not a.duplicate for a in (*one, *two) if isinstance(a, Created)) == 1000


async def test_another_input_loses_whoever_asks_at_once(store: PostgresStore, other: PostgresStore) -> None:
    """By kubectl and by HTTP, at the same moment."""
    await apply_task(store)
    for n in range(15):
        key = f"k{n}"
        answers = await asyncio.gather(
            trigger(store, name=f"cr{n}", intent_uid=f"u{n}", origin="kubectl", idempotency_key=key, input="1"),
            trigger(other, idempotency_key=key, input="2"),
            return_exceptions=True,
        )
        lost = [a for a in answers if isinstance(a, ConflictError)]
        assert [a.code for a in lost] == ["idempotency-mismatch"], answers
        assert await count(store) == n + 1


async def test_a_key_of_scope_active_lasts_as_long_as_its_run(store: PostgresStore) -> None:
    await apply_task(store)
    terms = {"idempotency_key": "k", "idempotency_scope": "active"}
    first = await trigger(store, **terms)
    assert (await trigger(store, **terms)).run_id == first.run_id
    with pytest.raises(ConflictError, match="another input"):
        await trigger(store, **terms, input="1")
    assert (await trigger(store, idempotency_key="k")).run_id == first.run_id
    await (await next_pod(store)).succeed()
    second = await trigger(store, **terms, input="1")
    assert not second.duplicate
    assert await store.forget_triggers(10) == 0
    await store.cancel_run(second.run_id, "me")
    assert await store.forget_triggers(10) == 1
    assert not (await trigger(store, **terms)).duplicate
    await store._db.fetch("delete from runs")  # its owner is gone without a trace
    assert not (await trigger(store, **terms)).duplicate


async def test_a_window_is_as_long_as_it_was_asked_for(store: PostgresStore) -> None:
    await apply_task(store)
    first = await trigger(store, idempotency_key="k", idempotency_seconds=1)
    assert (await trigger(store, idempotency_key="k")).run_id == first.run_id
    await store._db.fetch(
        "update idempotency_keys set since = since - interval '2 s', expires_at = expires_at - interval '2 s'"
    )
    second = await trigger(store, idempotency_key="k", idempotency_seconds=100, input="1")
    assert not second.duplicate
    found = await store._db.fetchrow("select expires_at - since as lasts from idempotency_keys")
    assert found is not None
    assert found["lasts"] == timedelta(seconds=100)
    await store._db.fetch("update idempotency_keys set expires_at = clock_timestamp()")
    assert await store.forget_triggers(10) == 1


async def test_one_singleton_at_a_time_from_two_replicas(store: PostgresStore, other: PostgresStore) -> None:
    await apply_task(store)
    for _ in range(5):
        asked = [trigger(s, singleton=Singleton("s"), input=str(n)) for n in range(4) for s in (store, other)]
        made = await asyncio.gather(*asked)
        assert len({m.run_id for m in made}) == 1
        assert sum(not m.duplicate for m in made) == 1
        with pytest.raises(ConflictError, match="singleton key 's'"):
            await trigger(store, singleton=Singleton("s", reject=True))
        await store.cancel_run(made[0].run_id, "me")


async def test_calls_of_one_debounce_key_are_one_delayed_run(store: PostgresStore, other: PostgresStore) -> None:
    await apply_task(store)
    asked = [
        trigger(s, debounce=Debounce("d", 60, 600), ttl_seconds=30, input=str(n))
        for n in range(10)
        for s in (store, other)
    ]
    made = await asyncio.gather(*asked)
    assert len({m.run_id for m in made}) == 1
    assert sum(not m.duplicate for m in made) == 1
    before = await row(store, made[0])
    later = await trigger(store, debounce=Debounce("d", 120, 600, latest=False), input='"not this"')
    after = await row(store, later)
    assert (later.duplicate, later.run_id, after["input"]) == (True, made[0].run_id, before["input"])
    assert after["ready_at"] == later.ready_at
    assert timedelta(seconds=50) < after["ready_at"] - before["ready_at"] < timedelta(seconds=70)
    assert after["expires_at"] - after["ready_at"] == timedelta(seconds=30)
    newest = await row(store, await trigger(store, debounce=Debounce("d", 60, 600), input='"this"'))
    assert newest["input"] == '"this"'


async def test_an_endless_debounce_ends(store: PostgresStore) -> None:
    await apply_task(store)
    terms = Debounce("d", 60, 100)
    first = await trigger(store, debounce=terms)
    pushed = await trigger(store, debounce=replace(terms, seconds=100))
    assert pushed.ready_at is not None
    found = await row(store, first)
    assert found["ready_at"] - found["created_at"] <= timedelta(seconds=100.5)
    # what the clock would do: the run is due
    await store._db.fetch("update runs set ready_at = clock_timestamp() - interval '1 s'")
    await store._db.fetch("update debounces set until = clock_timestamp() - interval '1 s'")
    second = await trigger(store, debounce=terms)
    assert (second.duplicate, second.run_id == first.run_id) == (False, False)
    assert (await trigger(store, debounce=terms)).run_id == second.run_id
    await store._db.fetch("update debounces set until = clock_timestamp() - interval '2 hours'")
    assert await store.forget_triggers(10) == 1


async def test_a_debounced_run_whose_task_is_missing_is_still_one(store: PostgresStore) -> None:
    made = [await trigger(store, debounce=Debounce("d", 60, 600)) for _ in range(3)]
    assert (len({m.run_id for m in made}), made[2].state) == (1, RunState.HELD)
    await apply_task(store)
    await store.promote(10)
    assert (await row(store, made[0]))["state"] == "delayed"
    assert (await trigger(store, debounce=Debounce("d", 60, 600))).run_id == made[0].run_id


async def test_a_throttle_lets_no_more_through_from_many(store: PostgresStore, other: PostgresStore) -> None:
    await apply_task(store)
    asked = [trigger(s, throttle=Throttle("t", 7, 60)) for _ in range(10) for s in (store, other)]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    refused = [a for a in answers if isinstance(a, ThrottledError)]
    assert (len(refused), await count(store)) == (13, 7)
    assert all(30 <= error.retry_after_seconds <= 62 for error in refused)
    batch = await store.create_runs([new(throttle=Throttle("u", 2, 60)) for _ in range(4)], together=True)
    assert [isinstance(a, Created) for a in batch] == [True, True, False, False]
    await store._db.fetch("update throttles set expires_at = clock_timestamp() - interval '2 minutes'")
    assert await store.forget_triggers(10) == 2


async def test_a_call_that_is_sent_again_takes_nothing_of_a_throttle(
    store: PostgresStore, other: PostgresStore
) -> None:
    await apply_task(store)
    terms = Throttle("t", 2, 60)
    calls = [trigger(s, throttle=terms, idempotency_key="k") for _ in range(4) for s in (store, other)]
    assert len({made.run_id for made in await asyncio.gather(*calls)}) == 1
    batch = await store.create_runs(
        [new(throttle=terms, idempotency_key=key) for key in ("k", "l", "l", "m")], together=True
    )
    assert [isinstance(answer, Created) for answer in batch] == [True, True, True, False]
    assert (await trigger(store, throttle=terms, idempotency_key="l")).duplicate
    with pytest.raises(ThrottledError):
        await trigger(store, throttle=terms, idempotency_key="m")
    with pytest.raises(ConflictError, match="another input"):
        await trigger(store, throttle=terms, idempotency_key="k", input='"other"')


async def full(store: PostgresStore, depth: int) -> None:
    await store.apply_queue(QueueIntake(NS, "q", "u", 1, 1))
    await store._db.fetch("update queues set max_depth = $1 where name = 'q'", depth)
    await apply_task(store, queue="q")


async def test_a_full_queue_refuses_new_roots_only(store: PostgresStore) -> None:
    await full(store, 5)
    answers = await asyncio.gather(*[trigger(store, idempotency_key=f"k{n}") for n in range(8)], return_exceptions=True)
    refused = [a for a in answers if isinstance(a, QueueFullError)]
    assert (len(refused), await count(store)) == (3, 5)
    assert "maxDepth" in str(refused[0])
    assert refused[0].retry_after_seconds > 0
    known = next(f"k{n}" for n, a in enumerate(answers) if isinstance(a, Created))
    assert (await trigger(store, idempotency_key=known)).duplicate
    assert (await trigger(store, origin="parent")).state == RunState.QUEUED
    await store.promote(10)
    await store.admit(10)
    queued = await store._db.fetchrow("select run_id from runs where state = 'queued' limit 1")
    assert queued is not None
    await store.cancel_run(queued["run_id"], "me")

    async def taken() -> bool:
        (answer,) = await store.create_runs([new()])
        return isinstance(answer, Created)

    await eventually(taken)  # a full queue is believed to be full for a moment


async def test_a_full_queue_still_puts_off_the_run_that_waits(store: PostgresStore, other: PostgresStore) -> None:
    await full(store, 1)
    terms = Debounce("d", 60, 600)
    first = await trigger(other, debounce=terms)
    await trigger(store)
    with pytest.raises(QueueFullError):
        await trigger(store)
    again = await trigger(store, debounce=replace(terms, seconds=120), input='"newest"')
    assert (again.run_id, again.duplicate, (await row(store, first))["input"]) == (first.run_id, True, '"newest"')
    assert again.ready_at is not None
    assert first.ready_at is not None
    assert again.ready_at - first.ready_at > timedelta(seconds=50)
    with pytest.raises(QueueFullError):
        await trigger(store, debounce=Debounce("another", 60, 600))
    assert len(await store._db.fetch("select from debounces")) == 1


async def test_a_batch_into_a_queue_with_little_room_is_taken_in_part(store: PostgresStore) -> None:
    await full(store, 3)
    answers = await store.create_runs([new() for _ in range(5)], together=True)
    assert [isinstance(a, Created) for a in answers] == [True, True, True, False, False]


async def test_a_generated_name_that_is_taken_is_chosen_anew(store: PostgresStore, monkeypatch: Any) -> None:
    await apply_task(store)
    first = await trigger(store)
    names = iter([first.name, first.name, "index-fresh"])
    monkeypatch.setattr("milepost_operator.adapters.postgres.items.run_name", lambda *_: next(names))
    second = await trigger(store, idempotency_key="k")
    assert (second.name, second.duplicate) == ("index-fresh", False)


async def test_ended_runs_are_told(store: PostgresStore) -> None:
    await apply_task(store)
    one, two = await trigger(store), await trigger(store)
    await store.cancel_run(one.run_id, "me")
    await store._db.fetch("delete from runs where run_id = $1", two.run_id)
    three = await trigger(store)
    assert set(await store.ended([one.run_id, two.run_id, three.run_id])) == {one.run_id, two.run_id}


calls = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", None]),
        st.sampled_from(["1", "2"]),
        st.sampled_from(["window", "active"]),
        st.sampled_from([None, "n1", "n2"]),
    ),
    min_size=2,
    max_size=8,
)


@hypothesis_settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], print_blob=True
)
@given(calls=calls, together=st.booleans())
async def test_a_key_has_one_run_and_one_input_whatever_meets(
    store: PostgresStore, calls: list[tuple[str | None, str, str, str | None]], together: bool
) -> None:
    where = f"team-{next(_numbers)}"
    await apply_task(store, namespace=where)
    runs = [
        new(namespace=where, idempotency_key=key, input=text, idempotency_scope=scope if key else "window", name=name)
        for key, text, scope, name in calls
    ]
    answers: list[Created | MilepostError]
    if together:
        answers = list(await store.create_runs(runs, together=True))
    else:
        answers = [one for (one,) in await asyncio.gather(*[store.create_runs([run]) for run in runs])]
    made = {a.run_id for a in answers if isinstance(a, Created)}
    found = await store._db.fetch("select from runs where namespace = $1", where)
    assert len(made) == sum(not a.duplicate for a in answers if isinstance(a, Created)) == len(found)
    for key in ("a", "b"):
        of_key = [(a, run) for a, run in zip(answers, runs, strict=True) if run.idempotency_key == key]
        owners = {(a.run_id, run.input) for a, run in of_key if isinstance(a, Created)}
        assert len(owners) <= 1
        for answer, run in of_key:
            if isinstance(answer, MilepostError):
                assert answer.code in {"idempotency-mismatch", "name-taken"}
                assert answer.code != "idempotency-mismatch" or run.input not in {text for _, text in owners}
    for answer, run in zip(answers, runs, strict=True):
        if run.idempotency_key is None and isinstance(answer, MilepostError):
            assert (answer.code, run.name is None) == ("name-taken", False)


async def test_no_statement_of_a_trigger_reads_a_whole_table(store: PostgresStore) -> None:
    await full(store, 100)
    await store._db.fetch(BACKLOG, NS)
    await store._db.fetch("insert into run_heads (run_id) select run_id from runs")
    await store._db.fetch(
        "insert into run_events (run_id, seq, reason, message, terminal)"
        " select run_id, 1, 'x', '', true from runs where finished_at is not null",
    )
    await store._db.fetch(
        "insert into idempotency_keys (cluster, namespace, task, key, run_id, run_name, input_hash, scope, expires_at)"
        " select cluster, namespace, task, name, run_id, name, '', case when random() < 0.5 then 'active' else 'window'"
        " end, now() + interval '1 day' from runs"
    )
    await store._db.fetch("analyze")
    items = items_of([new(idempotency_key=f"k{n}", singleton=Singleton("s")) for n in range(10)])
    ids = [item.run_id for item in items]
    statements: dict[str, tuple[object, ...]] = {
        "create_runs": ("default", *create_arguments(items, 60)),
        "trigger_owners": ("default", *owner_arguments(items)),
        "queue_depths": ("default", [NS], ["index"]),
        "ended_runs": (ids,),
        "expired_window_keys": ("default", 1000),
        "active_keys": ("default", ids[0], 1000),
    }
    for name, args in statements.items():
        (row,) = await store._db.fetch(f"explain (format json) {Q[name]}", *args)
        found = nodes(json.loads(row[0])[0]["Plan"])
        whole = {n["Relation Name"] for n in found if n["Node Type"] == "Seq Scan"}
        assert not whole & {"runs", "idempotency_keys"}, (name, whole)
