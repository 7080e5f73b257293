"""The input of a run fits the schema of its Task, whichever way it comes, or there is no run."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.domain.errors import InvalidInputError
from milepost_operator.domain.runs import Debounce, NewRun, QueueIntake, Throttle
from milepost_operator.domain.states import RunState
from milepost_operator.reconcile.intake import ObjectIntake
from milepost_operator.reconcile.network import TaskNetworks
from milepost_operator.settings import Settings
from tests.fakes.crd_samples import run, task
from tests.fakes.kube import FakeCluster
from tests.integration.engine import NS, apply_task, next_pod, trigger
from tests.integration.http_api import Api, serving
from tests.integration.test_schedules import late, schedule

ORDER = {
    "type": "object",
    "properties": {"sku": {"type": "string"}, "count": {"type": "integer"}},
    "required": ["sku"],
    "additionalProperties": False,
}
LOOSE = {"type": "object"}
GOOD = '{"sku": "a", "count": 2}'


async def apply(store: PostgresStore, schema: Any = ORDER, generation: int = 1, **changes: Any) -> int:
    text = None if schema is None else json.dumps(schema)
    return await apply_task(store, input_schema=text, generation=generation, **changes)


async def states(store: PostgresStore) -> list[tuple[str, str | None, str]]:
    rows = await store._db.fetch("select state, reason, input::text as input from runs order by run_id")
    return [(row["state"], row["reason"], row["input"]) for row in rows]


@pytest.fixture
async def api(store: PostgresStore, tmp_path: Path) -> AsyncIterator[Api]:
    await apply(store)
    async with serving(store, tmp_path) as opened:
        yield opened


async def test_one_by_http_is_refused_with_the_path_of_what_is_wrong(api: Api, store: PostgresStore) -> None:
    assert (await api.trigger(input={"sku": "a"})).status_code == 201
    for bad, path, says in (
        ({"sku": 1}, "$.input.sku", "$.sku is 1 and has to be a text"),
        ({}, "$.input", "$ has no 'sku', which it needs"),
        ({"sku": "a", "cuont": 1}, "$.input.cuont", "$.cuont is unknown; known: sku, count"),
        (None, "$.input", "$ is null and has to be an object"),
    ):
        answer = await api.trigger(input=bad)
        body = answer.json()
        assert (answer.status_code, body["code"], body["path"]) == (422, "input-mismatch", path)
        assert body["detail"] == f"the input does not fit Task index: {says}"
    assert (await api.trigger()).status_code == 422
    assert len(await states(store)) == 1


async def test_of_a_batch_each_on_its_own(api: Api, store: PostgresStore) -> None:
    inputs = [{"sku": "a"}, {"sku": 2}, {"sku": "b", "count": 1.5}, {"sku": "c"}]
    answer = await api.client.post("/v1/runs/batch", json={"items": [{"task": "index", "input": i} for i in inputs]})
    body = answer.json()
    assert [item["status"] for item in body["items"]] == [201, 422, 422, 201]
    assert body["items"][2]["error"]["path"] == "$.items[2].input.count"
    assert len(await states(store)) == 2


async def test_calls_that_debounce_neither_make_nor_change_a_run(store: PostgresStore) -> None:
    await apply(store)
    debounce = Debounce("k", 30, 60)
    with pytest.raises(InvalidInputError, match="sku"):
        await trigger(store, input="{}", debounce=debounce)
    made = await trigger(store, input=GOOD, debounce=debounce)
    with pytest.raises(InvalidInputError, match="sku"):
        await trigger(store, input='{"sku": 5}', debounce=debounce)
    assert (await trigger(store, input='{"sku": "b"}', debounce=debounce)).run_id == made.run_id
    assert await states(store) == [("delayed", None, '{"sku": "b"}')]


async def test_a_debounced_input_is_checked_by_the_schema_of_now(store: PostgresStore, settings: Settings) -> None:
    debounce = Debounce("k", 30, 60)
    async with PostgresStore.open(settings) as other:
        await apply(store, LOOSE)
        await trigger(other, input=GOOD, debounce=debounce)
        await apply(store, ORDER, 2)
        with pytest.raises(InvalidInputError, match="sku"):
            await trigger(other, input="{}", debounce=debounce)
    assert [one[2] for one in await states(store)] == [GOOD]


async def test_what_is_refused_counts_against_no_throttle_and_no_depth(store: PostgresStore) -> None:
    await store.apply_queue(QueueIntake(NS, "small", "q", 1, 1, max_depth=2))
    await apply(store, queue="small")
    throttle = Throttle("k", 1, 60)
    for _ in range(3):
        with pytest.raises(InvalidInputError):
            await trigger(store, input="[]", throttle=throttle)
    await trigger(store, input=GOOD, throttle=throttle)
    await trigger(store, input=GOOD)


async def test_another_schema_counts_at_once_for_every_process(store: PostgresStore, settings: Settings) -> None:
    """What another process remembers of the Task is old: nothing wrong gets in, and nothing right is refused."""
    await apply(store, LOOSE)
    async with PostgresStore.open(settings) as other:
        await trigger(other, input="{}")
        await apply(store, ORDER, 2)
        for changes in ({}, {"debounce": Debounce("k", 30, 60)}, {"idempotency_key": "k"}):
            with pytest.raises(InvalidInputError, match="has no 'sku'"):
                await trigger(other, input="{}", **changes)
        await apply(store, LOOSE, 3)
        await trigger(other, input="{}")
        await apply(store, None, 4)
        await trigger(other, input="[]")
        await apply(store, ORDER, 5)
        first, second = await other.create_runs(
            [NewRun(NS, "index", GOOD), NewRun(NS, "index", "{}", idempotency_key="q")], together=True
        )
    assert isinstance(second, InvalidInputError)
    assert not isinstance(first, Exception)
    assert (await store._db.fetchrow("select count(*) as n from idempotency_keys"))["n"] == 0  # type: ignore[index]


async def test_a_key_that_has_its_run_gets_it_whatever_the_schema_says_now(store: PostgresStore) -> None:
    await apply(store, LOOSE)
    made = await trigger(store, input="{}", idempotency_key="k")
    await apply(store, ORDER, 2)
    again = await trigger(store, input="{}", idempotency_key="k")
    assert (again.run_id, again.duplicate) == (made.run_id, True)


async def test_a_schema_that_changes_under_many_callers(store: PostgresStore, settings: Settings) -> None:
    """Every run that got in fits the schema that was its Task's when it was inserted."""
    schemas = [ORDER, {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}]
    await apply(store, schemas[0])
    stop = asyncio.Event()

    async def flip() -> None:
        for generation in range(2, 40):
            await apply(store, schemas[generation % 2], generation)
        stop.set()

    async def call(other: PostgresStore) -> tuple[int, int]:
        made = refused = 0
        while not stop.is_set():
            answers = await other.create_runs([NewRun(NS, "index", text) for text in (GOOD, '{"n": 1}', '{"n": "x"}')])
            made += sum(not isinstance(one, Exception) for one in answers)
            refused += sum(isinstance(one, InvalidInputError) for one in answers)
            assert isinstance(answers[2], InvalidInputError)
        return made, refused

    async with PostgresStore.open(settings) as one, PostgresStore.open(settings) as two:
        _, *counts = await asyncio.gather(flip(), call(one), call(two))
    assert sum(made for made, _ in counts) == len(await states(store)) > 0
    assert all(refused for _, refused in counts)


async def test_a_run_that_came_before_its_task_is_held_while_it_does_not_fit(store: PostgresStore) -> None:
    await trigger(store, input="{}")
    await trigger(store, input=GOOD)
    assert [one[:2] for one in await states(store)] == [("held", "TaskNotFound")] * 2
    await apply(store)
    await store.promote(100)
    assert [one[:2] for one in await states(store)] == [("held", "InvalidInput"), ("queued", None)]
    row = await store._db.fetchrow("select message from runs where state = 'held'")
    assert row is not None
    assert row["message"] == (
        "the input does not fit Task index: $ has no 'sku', which it needs: delete the run, or change the Task"
    )
    await store.promote(100)
    await apply(store, LOOSE, 2)
    await store.promote(100)
    assert [one[:2] for one in await states(store)] == [("queued", None)] * 2


async def test_of_many_that_came_before_their_task_none_slips_through(store: PostgresStore) -> None:
    await store.create_runs([NewRun(NS, "index", "{}" if n else GOOD) for n in range(60)], together=True)
    await apply(store)
    for _ in range(2):  # they are looked at in parts, by ids of which chance is a part
        await store.promote(100)
        assert {one[2] for one in await states(store) if one[0] == "queued"} <= {GOOD}
    assert [one[2] for one in await states(store) if one[0] == "queued"] == [GOOD]
    assert {one[:2] for one in await states(store)} == {("queued", None), ("held", "InvalidInput")}


async def test_a_task_that_loses_its_schema_takes_what_was_held(store: PostgresStore) -> None:
    await trigger(store, input="[]")
    await apply(store)
    await store.promote(100)
    await apply(store, None, 2)
    await store.promote(100)
    assert await states(store) == [("queued", None, "[]")]


@pytest.mark.parametrize("present", [True, False])
async def test_a_retry_keeps_its_input_whether_its_task_is_there_or_comes_back(
    store: PostgresStore, present: bool
) -> None:
    await apply(store, LOOSE)
    made = await trigger(store, input='{"sku": 1}')
    await (await next_pod(store)).fail(retryable=False)
    await apply(store, ORDER, 2)
    if not present:
        await store.remove_task(NS, "index")
    await store.retry_run(made.run_id, "me")
    await apply(store, ORDER, 3)
    await store.promote(100)
    assert sorted(one[:2] for one in await states(store)) == [("failed", "FatalError"), ("queued", None)]


async def test_a_slot_whose_input_does_not_fit_makes_no_run_and_is_told(store: PostgresStore) -> None:
    await apply(store, LOOSE)
    made = await schedule(store, input='{"sku": "$(slot.utc)"}', missed="catchup")
    timed = {"type": "object", "properties": {"sku": {"type": "string", "format": "date-time"}}}
    await apply(store, timed, 2)
    await late(store, 2)
    assert (await store.fire_schedules(100)).runs == 2
    await apply(store, {"type": "object", "properties": {"sku": {"type": "integer"}}}, 3)
    await late(store, 3)
    assert (await store.fire_schedules(100)).runs == 0
    view = await store.get_schedule(NS, made.schedule_id)
    assert view.note is not None
    assert "the input does not fit Task index: $.sku is '" in view.note
    assert len(await states(store)) == 2


async def test_schedules_of_the_api_and_backfills_fit_too(store: PostgresStore) -> None:
    await apply(store)
    with pytest.raises(InvalidInputError, match="sku") as told:
        await schedule(store, cron="@daily", input='{"sku": 1}')
    assert told.value.path == "$.input.sku"
    made = await schedule(store, cron="@daily", input=GOOD)
    with pytest.raises(InvalidInputError, match="sku"):
        await store.change_schedule(NS, made.schedule_id, lambda spec: replace(spec, input="{}"), "ann")
    await apply(store, {"type": "null"}, 2)
    row = await store._db.fetchrow("select clock_timestamp() as until, clock_timestamp() - interval '3 days' as since")
    assert row is not None
    with pytest.raises(InvalidInputError, match="has to be null"):
        await store.backfill(NS, made.schedule_id, row["since"], row["until"], dry_run=False)
    assert await states(store) == []


async def test_schemas_are_part_of_a_version(store: PostgresStore) -> None:
    first = await apply(store, None)
    second = await apply(store, ORDER, 2)
    third = await apply(store, ORDER, 3, output_schema='{"type":"string"}')
    assert [first, second, third] == [1, 2, 3]
    assert await apply(store, ORDER, 4) == second
    await trigger(store, input=GOOD)
    pod = await next_pod(store)
    assert (pod.start.version, await pod.succeed()) == (second, RunState.SUCCEEDED)


async def test_kubectl_shows_what_does_not_fit_in_a_condition(store: PostgresStore) -> None:
    cluster = FakeCluster()
    now = datetime(2026, 1, 1, tzinfo=UTC)
    intake = ObjectIntake(
        store, cluster, TaskNetworks(store, cluster, None, ()), clock=lambda: now, max_input_bytes=1000
    )
    made = cluster.put("tasks", task({"image": "a", "entrypoint": "a:b", "inputSchema": ORDER}))
    await intake.on_task(made, deleted=False)
    name = made["metadata"]["name"]
    for given in ({"sku": 1}, {"sku": "a"}):
        await intake.on_run(cluster.put("runs", run({"task": name, "input": given})), deleted=False)
    bad, good = cluster.of("runs")
    (said,) = bad["status"]["conditions"]
    assert (said["type"], said["status"], said["reason"]) == ("Accepted", "False", "InvalidInput")
    assert said["message"] == f"the input does not fit Task {name}: $.sku is 1 and has to be a text"
    assert not good.get("status", {}).get("conditions")
    assert [one[2] for one in await states(store)] == ['{"sku":"a"}']
