"""Triggers through the true server: bad input, batches, waiting, and calls that meet."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.api import views
from milepost_operator.domain.runs import QueueIntake
from tests.integration.engine import NS, apply_task, next_pod, trigger
from tests.integration.http_api import Api, serving

NASTY = ["'; drop table runs; --", '"', "\\", "%s {} $1", "a\nb", "\u202e", "ＳＱＬ", "e\u0301", "💥" * 20]


@pytest.fixture
async def api(store: PostgresStore, tmp_path: Path) -> AsyncIterator[Api]:
    await apply_task(store)
    async with serving(store, tmp_path) as opened:
        yield opened


def problem(answer: httpx2.Response) -> tuple[int, str, str | None]:
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    body = answer.json()
    assert body["detail"]
    return answer.status_code, body["code"], body.get("path")


async def runs(store: PostgresStore) -> int:
    row = await store._db.fetchrow("select count(*) as n from runs")
    assert row is not None
    return int(row["n"])


async def test_many_at_once_are_each_their_own(api: Api, store: PostgresStore) -> None:
    answers = await asyncio.gather(*[api.trigger(input={"n": n}, idempotencyKey=f"k{n % 40}") for n in range(80)])
    statuses = sorted({a.status_code for a in answers})
    assert statuses in ([200, 201, 409], [201, 409])
    made = [a.json() for a in answers if a.status_code == 201]
    assert (len(made), await runs(store)) == (40, 40)
    for one in made[:5]:
        found = (await api.client.get(f"/v1/runs/{one['name']}")).json()
        assert found["input"]["n"] % 40 == int(found["idempotencyKey"][1:])


async def test_text_is_text_whatever_it_says(api: Api, store: PostgresStore) -> None:
    for nasty in NASTY:
        options: dict[str, Any] = {
            "input": {nasty: [nasty]},
            "tags": [nasty],
            "concurrencyKey": nasty,
            "throttle": {"key": nasty, "limit": 5, "periodSeconds": 60},
        }
        keyed = await api.trigger(**options, idempotencyKey=nasty)
        single = await api.trigger(**options, singleton={"key": nasty})
        debounced = await api.trigger(**options, debounce={"key": nasty, "seconds": 60})
        for answer in (keyed, single, debounced):
            assert answer.status_code == 201, answer.text
            found = (await api.client.get(f"/v1/runs/{answer.json()['id']}")).json()
            assert (found["input"], found["tags"]) == ({nasty: [nasty]}, [nasty])
    assert await runs(store) == 3 * len(NASTY)


BAD: list[tuple[bytes, int, str, str | None]] = [
    (b'{"task": "index", "task": "other"}', 422, "duplicate-key", "$.task"),
    (b'{"task": "index", "input": {"a": [{"b": 1, "c": "x\\":", "b": 2}]}}', 422, "duplicate-key", "$.input.a[0].b"),
    (b'{"task": "index", "input": "\\u0000"}', 422, "nul-character", "$.input"),
    (b'{"task": "index", "input": NaN}', 422, "not-finite", "$"),
    (b'{"task": "index", "input": 1e999}', 422, "not-finite", "$.input"),
    (b'{"task": "index", "input": "\\ud800"}', 422, "lone-surrogate", "$.input"),
    (b'{"task": "index", "input": ' + b"[" * 101 + b"]" * 101 + b"}", 422, "too-deep", None),
    (b'{"task": "index", "input": ' + b"[" * 90_000, 422, "too-deep", None),
    (b'{"task": "index", "input": 9223372036854775808}', 422, "int-too-large", "$.input"),
    (b'{"task": "index", "prioritty": 1}', 422, "unknown-field", "$.prioritty"),
    (b'{"task": "index", "debounce": {"key": "d", "secs": 1}}', 422, "unknown-field", "$.debounce.secs"),
    (b'{"task": "index", "priority": "high"}', 422, "invalid-field", "$.priority"),
    (b'{"task": "index", "priority": 101}', 422, "invalid-field", "$.priority"),
    (b'{"task": "index", "priority": 1.5}', 422, "invalid-field", "$.priority"),
    (b'{"task": "index", "delaySeconds": -1}', 422, "invalid-field", "$.delaySeconds"),
    (b'{"task": "index", "delaySeconds": 1e12}', 422, "invalid-field", "$.delaySeconds"),
    (b'{"task": "index", "at": "tomorrow"}', 422, "invalid-field", "$.at"),
    (b'{"task": "index", "at": "2027-01-01T00:00:00"}', 422, "invalid-field", "$.at"),
    (b'{"task": "index", "at": "2027-02-31T00:00:00Z"}', 422, "invalid-field", "$.at"),
    (b'{"task": "index", "at": "9999-01-01T00:00:00Z"}', 422, "invalid-field", "$.at"),
    (b'{"task": "index", "at": "2027-01-01T00:00:00Z", "delaySeconds": 1}', 422, "contradictory", "$.at"),
    (b'{"task": "index", "idempotencyScope": "active"}', 422, "contradictory", "$.idempotencyKey"),
    (b'{"task": "index", "debounce": {"key": "d", "seconds": 9, "maxSeconds": 5}}', 422, "contradictory", None),
    (b'{"task": "index", "deadlineSeconds": 5, "delaySeconds": 5}', 422, "contradictory", "$.deadlineSeconds"),
    (b'{"task": "index", "singleton": {"key": "s"}, "idempotencyKey": "k"}', 422, "contradictory", "$.debounce"),
    (b'{"task": "index", "cost": 0}', 422, "invalid-field", "$.cost"),
    (b'{"task": "index", "throttle": {"key": "t", "limit": 0, "periodSeconds": 1}}', 422, "invalid-field", None),
    ('{"task": "\u0456ndex"}'.encode(), 422, "invalid-field", "$.task"),
    (b'{"task": "index", "input": "\xff"}', 422, "not-json", "$"),
    (b"", 422, "not-json", "$"),
]


async def test_bad_input_is_refused_with_its_place(api: Api, store: PostgresStore) -> None:
    for body, status, code, path in BAD:
        answer = await api.client.post("/v1/runs", content=body)
        found = problem(answer)
        assert found[:2] == (status, code), (body[:80], answer.text)
        assert path is None or found[2] == path, (body[:80], answer.text)
    assert await runs(store) == 0


async def test_bodies_that_are_too_large_are_not_read(api: Api) -> None:
    big = b'{"task": "index", "input": "' + b"x" * 10_000_000 + b'"}'
    assert problem(await api.client.post("/v1/runs", content=big))[:2] == (413, "body-too-large")
    batch = b'{"items": [' + big + b"]}"
    assert problem(await api.client.post("/v1/runs/batch", content=batch))[:2] == (413, "body-too-large")


async def test_hints_name_what_was_meant(api: Api) -> None:
    for wrong, right in (("prioritty", "priority"), ("idempotency_key", "idempotencyKey"), ("inptu", "input")):
        assert f"did you mean {right!r}" in (await api.trigger(**{wrong: 1})).json()["detail"]
    looks = await api.trigger(task="\u0456ndex")
    assert "U+0456 CYRILLIC SMALL LETTER" in looks.json()["detail"]


async def test_a_batch_takes_the_good_items_and_tells_of_each_bad_one(api: Api, store: PostgresStore) -> None:
    items: list[Any] = [
        {"task": "index", "idempotencyKey": "k", "delaySeconds": 60},
        {"task": "index", "priority": "x"},
        {"task": "index", "nmae": "x"},
        {"task": "index", "namespace": "other"},
        {"task": "index", "idempotencyKey": "k", "input": 1},
        {"task": "index", "idempotencyKey": "k"},
        "nothing",
        {"task": "index", "throttle": {"key": "t", "limit": 1, "periodSeconds": 60}},
        {"task": "index", "throttle": {"key": "t", "limit": 1, "periodSeconds": 60}},
    ]
    answer = await api.client.post("/v1/runs/batch", json={"items": items})
    assert answer.status_code == 200, answer.text
    views.BatchOut.model_validate_json(answer.content)
    told = answer.json()
    assert (told["created"], told["duplicates"], told["refused"]) == (2, 1, 6)
    assert [item["status"] for item in told["items"]] == [201, 422, 422, 403, 409, 200, 422, 201, 429]
    assert [item["error"].get("path") for item in told["items"] if item["status"] == 422] == [
        "$.items[1].priority",
        "$.items[2].nmae",
        "$.items[6]",
    ]
    assert told["items"][8]["retryAfterSeconds"] >= 30
    assert told["items"][0]["run"]["state"] == "delayed"
    assert await runs(store) == 2


async def test_a_batch_has_its_limits(api: Api) -> None:
    path = "/v1/runs/batch"
    items = [{"task": "index"}] * 1001
    assert problem(await api.client.post(path, json={"items": items})) == (422, "batch-size", "$.items")
    assert problem(await api.client.post(path, json={"items": []})) == (422, "batch-size", "$.items")
    assert problem(await api.client.post(path, json={"runs": []})) == (422, "unknown-field", "$.runs")
    assert problem(await api.client.post(path, json=[])) == (422, "not-an-object", "$")
    assert problem(await api.client.post(path, json={"items": 1})) == (422, "missing-field", "$.items")
    whole = await api.client.post(path, json={"items": items[:1000]})
    assert (whole.json()["created"], len(whole.json()["items"])) == (1000, 1000)


async def test_the_same_key_by_kubectl_and_http_at_once_is_one_run(api: Api, store: PostgresStore) -> None:
    for n in range(10):
        by_kubectl, by_http = await asyncio.gather(
            trigger(store, name=f"cr{n}", intent_uid=f"u{n}", origin="kubectl", idempotency_key=f"k{n}", input="1"),
            api.trigger(idempotencyKey=f"k{n}", input=2),
            return_exceptions=True,
        )
        assert not isinstance(by_http, BaseException)
        assert (by_http.status_code == 409) == (not isinstance(by_kubectl, Exception))
        assert await runs(store) == n + 1


async def test_a_full_queue_answers_429_with_a_time(api: Api, store: PostgresStore) -> None:
    await store.apply_queue(QueueIntake(NS, "q", "u", 1, 1))
    await store._db.fetch("update queues set max_depth = 1 where name = 'q'")
    await apply_task(store, "other", queue="q")
    assert (await api.trigger(task="other")).status_code == 201
    refused = await api.trigger(task="other")
    assert problem(refused)[:2] == (429, "queue-full")
    assert int(refused.headers["retry-after"]) >= 1


async def test_waiting_ends_with_the_run(api: Api, store: PostgresStore) -> None:
    made = (await api.trigger()).json()
    waiting = [asyncio.ensure_future(api.client.get(f"/v1/runs/{made['id']}?wait=30")) for _ in range(20)]
    pod = await next_pod(store)
    await asyncio.sleep(0.2)
    assert not any(one.done() for one in waiting)
    await pod.succeed('{"answer": 42}')
    async with asyncio.timeout(5):
        answers = await asyncio.gather(*waiting)
    assert {json.dumps(a.json()["result"]) for a in answers} == {'{"answer": 42}'}
    ended = await api.client.get(f"/v1/runs/{made['id']}?wait=30")
    assert ended.json()["state"] == "succeeded"


async def test_waiting_is_bounded(api: Api) -> None:
    made = (await api.trigger()).json()
    answer = await api.client.get(f"/v1/runs/{made['name']}?wait=0.3")
    assert (answer.status_code, answer.json()["state"]) == (200, "queued")
    for wrong in ("61", "-1", "nan", "x"):
        assert problem(await api.client.get(f"/v1/runs/{made['name']}?wait={wrong}"))[0] == 422
    assert problem(await api.client.get("/v1/runs/no-such?wait=10"))[0] == 404
