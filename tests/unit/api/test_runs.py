import gc
import weakref
from dataclasses import replace
from uuid import uuid4

import pytest

from milepost_operator.api import views
from milepost_operator.api.waiting import Waiters
from milepost_operator.domain.runs import NewRun, RunView
from tests.unit.api.conftest import LIMIT, Bench


async def trigger(bench: Bench, headers: dict[str, str], **body: object):
    return await bench.client.post("/v1/runs", json={"task": "index"} | body, headers=headers)


async def test_a_run_is_created_and_found_by_name_and_id(bench: Bench, team: dict[str, str]) -> None:
    answer = await trigger(bench, team, input={"b": 1, "a": [1.5, "ä"]}, tags=["x"], idempotencyKey="k")
    assert answer.status_code == 201
    views.CreatedOut.model_validate_json(answer.content)
    created = answer.json()
    assert (created["namespace"], created["state"], created["duplicate"]) == ("team", "queued", False)
    assert len(bench.pokes) == 1
    for key in (created["name"], created["id"]):
        run = await bench.client.get(f"/v1/runs/{key}", headers=team)
        views.RunOut.model_validate_json(run.content)
        assert run.json()["input"] == {"b": 1, "a": [1.5, "ä"]}
    assert (await bench.client.get(answer.headers["location"], headers=team)).status_code == 200


async def test_the_same_key_is_the_same_run_and_another_input_an_error(bench: Bench, team: dict[str, str]) -> None:
    first = await trigger(bench, team, input={"a": 1, "b": 2}, idempotencyKey="k")
    again = await trigger(bench, team, input={"b": 2, "a": 1}, idempotencyKey="k")
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json()["id"] == first.json()["id"]
    assert again.json()["duplicate"] is True
    other = await trigger(bench, team, input={"a": 2}, idempotencyKey="k")
    assert (other.status_code, other.json()["code"]) == (409, "idempotency-mismatch")
    assert len(bench.pokes) == 1


async def test_an_unknown_field_is_named_with_the_ones_that_are_allowed(bench: Bench, team: dict[str, str]) -> None:
    answer = await trigger(bench, team, inptu=1)
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["path"]) == (422, "unknown-field", "$.inptu")
    assert "'inptu'" in problem["detail"]
    assert "task, input, namespace, name, idempotencyKey, tags" in problem["detail"]
    query = await bench.client.get("/v1/runs?stat=queued", headers=team)
    assert (query.status_code, query.json()["code"]) == (422, "unknown-field")
    assert "state" in query.json()["detail"]
    snake = await trigger(bench, team, idempotency_key="k")
    assert snake.json()["code"] == "unknown-field"


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"task": None}, "$.task"),
        ({"task": 1}, "$.task"),
        ({"task": "Up_Per"}, "$.task"),
        ({"task": "a" * 254}, "$.task"),
        ({"name": "-x"}, "$.name"),
        ({"name": "x" * 64}, "$.name"),
        ({"tags": "x"}, "$.tags"),
        ({"tags": ["ok", ""]}, "$.tags[1]"),
        ({"tags": [1]}, "$.tags[0]"),
        ({"tags": ["x"] * 33}, "$.tags"),
        ({"idempotencyKey": ""}, "$.idempotencyKey"),
        ({"idempotencyKey": "a\x00"}, "$.idempotencyKey"),
        ({"input": {"items": ["\x00"]}}, "$.input.items[0]"),
        ({"input": 2**64}, "$.input"),
    ],
)
async def test_a_wrong_field_is_refused_with_its_path(bench: Bench, team: dict[str, str], body, path) -> None:
    answer = await trigger(bench, team, **body)
    assert (answer.status_code, answer.json()["path"]) == (422, path)
    assert bench.store.runs == {}


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"1", b'{"task": NaN}', b"\xff", b'{"input": 1}', b"[" * 5000])
async def test_a_broken_body_is_refused(bench: Bench, team: dict[str, str], body: bytes) -> None:
    answer = await bench.client.post("/v1/runs", content=body, headers=team)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"


async def test_a_large_input_is_refused_with_its_biggest_part(bench: Bench, team: dict[str, str]) -> None:
    answer = await trigger(bench, team, input={"small": 1, "text": "x" * LIMIT})
    assert (answer.status_code, answer.json()["code"], answer.json()["path"]) == (
        413,
        "input-too-large",
        "$.input.text",
    )
    huge = await trigger(bench, team, input="x" * 200_000)
    assert (huge.status_code, huge.json()["code"]) == (413, "body-too-large")


async def test_the_namespace_comes_from_the_credential(
    bench: Bench, team: dict[str, str], root: dict[str, str]
) -> None:
    assert (await trigger(bench, team, namespace="team")).status_code == 201
    for answer in (
        await trigger(bench, team, namespace="other"),
        await bench.client.get("/v1/runs?namespace=other", headers=team),
        await bench.client.get("/v1/runs?namespace=*", headers=team),
        await bench.client.get("/v1/runs/x?namespace=other", headers=team),
        await bench.client.post("/v1/runs/x/cancel?namespace=other", headers=team),
    ):
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert (await trigger(bench, root)).json()["namespace"] == "default"
    assert (await trigger(bench, root, namespace="other")).json()["namespace"] == "other"
    other = (await bench.client.get("/v1/runs?namespace=other", headers=root)).json()["items"][0]
    assert (await bench.client.get(f"/v1/runs/{other['id']}", headers=team)).status_code == 404
    everything = await bench.client.get("/v1/runs?namespace=*", headers=root)
    assert {item["namespace"] for item in everything.json()["items"]} == {"team", "default", "other"}


async def test_pages_go_on_where_the_last_one_ended_whatever_comes_in_between(
    bench: Bench, team: dict[str, str]
) -> None:
    for _ in range(7):
        await trigger(bench, team, tags=["t"])
    seen: list[str] = []
    cursor = None
    while True:
        params = {"limit": "3", "tag": "t"} | ({"cursor": cursor} if cursor else {})
        answer = await bench.client.get("/v1/runs", params=params, headers=team)
        views.RunsOut.model_validate_json(answer.content)
        seen += [item["id"] for item in answer.json()["items"]]
        await trigger(bench, team, tags=["t"])
        cursor = answer.json()["nextCursor"]
        if cursor is None:
            break
    assert len(seen) == len(set(seen)) == 7
    assert seen == sorted(seen, reverse=True)


@pytest.mark.parametrize(
    "cursor", ["x", "", "bm90LWEtY3Vyc29y", "MjAyNi0wMS0wMXx4", "ä", "MjAyNi0wMS0wMVQwMDowMDowMHw"]
)
async def test_a_foreign_cursor_is_refused(bench: Bench, team: dict[str, str], cursor: str) -> None:
    answer = await bench.client.get("/v1/runs", params={"cursor": cursor}, headers=team)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid-cursor")


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=501", "limit=x", "state=Nope", "limit=1&limit=2", "task=%00", "tag=a%00b"]
)
async def test_a_wrong_query_is_refused(bench: Bench, team: dict[str, str], query: str) -> None:
    answer = await bench.client.get(f"/v1/runs?{query}", headers=team)
    assert answer.status_code == 422


async def test_lists_filter(bench: Bench, team: dict[str, str]) -> None:
    await trigger(bench, team, tags=["a"])
    await trigger(bench, team, task="other")
    for query, count in (
        ("task=other", 1),
        ("tag=a", 1),
        ("state=queued", 2),
        ("state=failed", 0),
        ("queue=default", 2),
    ):
        answer = await bench.client.get(f"/v1/runs?{query}", headers=team)
        assert len(answer.json()["items"]) == count, query


async def test_cancel_tells_the_state_and_is_repeatable(bench: Bench, team: dict[str, str]) -> None:
    created = (await trigger(bench, team)).json()
    bench.pokes.clear()
    for _ in range(2):
        answer = await bench.client.post(f"/v1/runs/{created['name']}/cancel", headers=team)
        assert (answer.status_code, answer.json()["state"]) == (202, "cancelled")
        assert "team-ci" in answer.json()["message"]
    assert bench.pokes
    assert (await bench.client.post("/v1/runs/none/cancel", headers=team)).status_code == 404


async def test_attempts_and_absent_runs(bench: Bench, team: dict[str, str]) -> None:
    run = await bench.store.create_run(NewRun("team", "index", "{}"))
    bench.store.launch(run.run_id, "aaaa")
    answer = await bench.client.get(f"/v1/runs/{run.name}/attempts", headers=team)
    views.AttemptsOut.model_validate_json(answer.content)
    assert answer.json()["items"][0]["job"] == "mp-aaaa"
    for name in ("none", str(uuid4()), "%00", "x" * 5000):
        for path in (f"/v1/runs/{name}", f"/v1/runs/{name}/attempts"):
            assert (await bench.client.get(path, headers=team)).status_code in {404, 422}


async def test_unknown_paths_and_methods_are_problems_too(bench: Bench, team: dict[str, str]) -> None:
    absent = await bench.client.get("/v1/nothing", headers=team)
    assert (absent.status_code, absent.json()["code"]) == (404, "not-found")
    method = await bench.client.delete("/v1/runs", headers=team)
    assert (method.status_code, method.json()["code"]) == (405, "method-not-allowed")
    assert "allow" in method.headers


async def test_health(bench: Bench) -> None:
    assert (await bench.client.get("/healthz")).json() == {"stale": [], "loops": {"pulse": 0.5}}
    bench.store.down = True
    answer = await bench.client.get("/readyz")
    assert (answer.status_code, answer.json()["ready"]) == (503, False)


class Text(str):
    """A text that can be watched."""

    __slots__ = ("__weakref__",)


async def test_a_request_that_waits_keeps_no_input_meanwhile(
    bench: Bench, team: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = (await trigger(bench, team, input="long")).json()
    get_run, shown, kept = bench.store.get_run, [], []

    async def watched(namespace: str, run: str) -> RunView:
        monkeypatch.setattr(bench.store, "get_run", get_run)
        view = replace(await get_run(namespace, run), input=Text('"long"'))
        shown.append(weakref.ref(view.input))
        return view

    async def wait(*_: object) -> bool:
        gc.collect()
        kept.extend(ref for ref in shown if ref() is not None)
        return False

    monkeypatch.setattr(bench.store, "get_run", watched)
    monkeypatch.setattr(Waiters, "wait", wait)
    answer = await bench.client.get(f"/v1/runs/{made['id']}?wait=30", headers=team)
    assert (answer.json()["input"], len(shown), kept) == ("long", 1, [])
