"""`/v1/schedules` over a real store: what is taken, what is refused and how, and whose it is."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from milepost_operator.adapters.kube.tokenreview import PodIdentity
from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.domain.schedules import ScheduleSpec
from tests.integration.engine import NS, apply_task
from tests.integration.http_api import app_of

DAILY = {"task": "index", "name": "daily", "cron": "30 1 * * *", "timeZone": "America/New_York"}
RANGE = {"from": "2025-11-01T00:00:00Z", "to": "2025-11-04T00:00:00Z"}


@pytest.fixture
async def client(store: PostgresStore, tmp_path: Path) -> AsyncIterator[httpx2.AsyncClient]:
    async def identify(token: str) -> PodIdentity:
        raise AssertionError(token)

    tokens = tmp_path / "tokens"
    tokens.write_text(f"ann:{NS}:{'a' * 20}\nroot:*:{'r' * 20}\nother:other:{'o' * 20}\n")
    app = app_of(store, tokens, identify)
    await apply_task(store)
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
    headers = {"Authorization": f"Bearer {'a' * 20}"}
    async with httpx2.AsyncClient(transport=transport, base_url="http://api", headers=headers) as made:
        yield made


async def made(client: httpx2.AsyncClient, **fields: Any) -> dict[str, Any]:
    answer = await client.post("/v1/schedules", json=DAILY | fields)
    assert answer.status_code == 201, answer.text
    body: dict[str, Any] = answer.json()
    assert answer.headers["location"] == f"/v1/schedules/{body['id']}?namespace={NS}"
    return body


async def test_a_schedule_is_made_looked_at_changed_and_deleted(client: httpx2.AsyncClient) -> None:
    body = await made(client, input={"b": 1, "a": [None]}, tags=["x"], startAt="2026-01-01T00:00:00+01:00")
    path = f"/v1/schedules/{body['id']}"
    assert (body["overlap"], body["missed"], body["catchupLimit"], body["managed"]) == ("allow", "skip", 10_000, False)
    assert body["nextSlot"].endswith("T01:30:00[America/New_York]")
    assert (await client.get(path)).json() == body
    changed = await client.patch(path, json={"cron": "@hourly", "overlap": "forbid", "timeZone": None, "tags": None})
    assert changed.status_code == 200, changed.text
    after = changed.json()
    assert (after["cron"], after["overlap"], after["timeZone"], after["tags"]) == ("@hourly", "forbid", "UTC", [])
    assert (after["input"], after["startAt"]) == ({"b": 1, "a": [None]}, body["startAt"])
    assert (await client.patch(path, json={})).json() == after
    assert (await client.delete(path)).status_code == 204
    for gone in (await client.get(path), await client.delete(path), await client.patch(path, json={})):
        assert (gone.status_code, gone.json()["code"]) == (404, "not-found")
    assert (await made(client))["id"] == body["id"]


async def test_pause_and_resume(client: httpx2.AsyncClient) -> None:
    path = f"/v1/schedules/{(await made(client))['id']}"
    for _ in range(2):
        paused = (await client.post(f"{path}/pause")).json()
        assert (paused["paused"], paused["pausedBy"], paused["nextRun"]) == (True, "ann", None)
    resumed = (await client.post(f"{path}/resume")).json()
    assert (resumed["paused"], resumed["pausedBy"]) == (False, None)
    assert resumed["nextRun"]
    born = await made(client, name="born-paused", paused=True)
    assert (born["paused"], born["nextRun"]) == (True, None)
    woken = await client.patch(f"/v1/schedules/{born['id']}", json={"paused": False})
    assert (woken.json()["paused"], bool(woken.json()["nextRun"])) == (False, True)


async def test_a_backfill_counts_first_and_runs_once(client: httpx2.AsyncClient, store: PostgresStore) -> None:
    path = f"/v1/schedules/{(await made(client))['id']}/backfill"
    dry = await client.post(path, json=RANGE | {"dryRun": True})
    assert dry.json() == {
        "slots": 3,
        "created": 0,
        "existing": 0,
        "first": "2025-11-01T01:30:00[America/New_York]",
        "last": "2025-11-03T01:30:00[America/New_York]",
        "dryRun": True,
    }
    assert (await client.post(path, json=RANGE)).json()["created"] == 3
    assert (await client.post(path, json=RANGE)).json()["existing"] == 3
    assert len(await store._db.fetch("select from runs where origin = 'schedule'")) == 3


@pytest.mark.parametrize(
    ("body", "code", "path"),
    [
        (RANGE | {"to": "2100-01-01T00:00:00Z"}, "invalid-field", "$.to"),
        (RANGE | {"to": "2025-11-01T00:00:00Z"}, "invalid-field", "$.to"),
        (RANGE | {"from": "2025-11-01T00:00:00"}, "invalid-field", "$.from"),
        (RANGE | {"from": "yesterday"}, "invalid-field", "$.from"),
        (RANGE | {"from": "0001-01-01T00:00:00+23:59"}, "invalid-field", "$.from"),
        ({"to": RANGE["to"]}, "missing-field", "$.from"),
        (RANGE | {"dryRun": "yes"}, "invalid-field", "$.dryRun"),
        (RANGE | {"all": True}, "unknown-field", "$.all"),
        ([], "not-an-object", "$"),
    ],
)
async def test_a_bad_range_is_refused(client: httpx2.AsyncClient, body: object, code: str, path: str) -> None:
    answer = await client.post(f"/v1/schedules/{(await made(client))['id']}/backfill", json=body)
    assert (answer.status_code, answer.json()["code"], answer.json()["path"]) == (422, code, path)


async def test_a_range_of_too_many_slots_says_where_to_end(client: httpx2.AsyncClient) -> None:
    every = await made(client, cron="* * * * *", timeZone="UTC")
    asked = {"from": "2025-01-01T00:00:00Z", "to": "2025-02-01T00:00:00Z"}
    answer = await client.post(f"/v1/schedules/{every['id']}/backfill", json=asked)
    assert (answer.status_code, answer.json()["code"]) == (422, "range-too-large")
    assert "end it after 2025-01-07T22:39:00[UTC]" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("fields", "code", "path", "said"),
    [
        ({"cron": "61 * * * *"}, "invalid-cron", "$.cron", "minute: 61 is not from 0 to 59"),
        ({"cron": "0 0 31 2 *"}, "invalid-cron", "$.cron", "no day 31 ever comes in Feb"),
        ({"cron": "\x00 * * * *"}, None, None, ""),
        ({"cron": 5}, "invalid-field", "$.cron", ""),
        ({"cron": "* " * 5000}, "invalid-field", "$.cron", ""),
        ({"timeZone": "Europe/Berlln"}, "unknown-time-zone", "$.timeZone", "did you mean 'Europe/Berlin'?"),
        ({"timeZone": "../../etc/passwd"}, "unknown-time-zone", "$.timeZone", ""),
        ({"overlap": "sometimes"}, "invalid-field", "$.overlap", ""),
        ({"overlap": "replace", "missed": "catchup"}, "invalid-schedule", "$.missed", "use latest"),
        ({"jitterSeconds": -1}, "invalid-field", "$.jitterSeconds", ""),
        ({"jitterSeconds": 1e9}, "invalid-field", "$.jitterSeconds", ""),
        ({"catchupLimit": 10_001}, "invalid-field", "$.catchupLimit", ""),
        ({"priority": 101}, "invalid-field", "$.priority", ""),
        ({"startAt": "2026-01-01T00:00:00"}, "invalid-field", "$.startAt", "needs an offset"),
        ({"startAt": "9999-12-31T23:59:59-23:00"}, "invalid-field", "$.startAt", "must lie in the years 1973 to 2199"),
        ({"startAt": "2026-01-02T00:00:00Z", "endAt": "2026-01-01T00:00:00Z"}, "invalid-schedule", "$.endAt", ""),
        ({"name": "Not a name"}, "invalid-field", "$.name", ""),
        ({"name": "ein'; drop table runs; --"}, "invalid-field", "$.name", ""),
        ({"input": "x" * 70_000}, "input-too-large", "$.input", "65536"),
        ({"crom": "x"}, "unknown-field", "$.crom", "allowed: "),
    ],
)
async def test_what_can_not_be_is_refused_at_its_field(
    client: httpx2.AsyncClient, fields: dict[str, Any], code: str | None, path: str | None, said: str
) -> None:
    answer = await client.post("/v1/schedules", json=DAILY | fields)
    if code is None:
        assert answer.status_code in {201, 422}
        return
    assert answer.status_code in {413, 422}, answer.text
    assert (answer.json()["code"], answer.json()["path"]) == (code, path)
    assert said in answer.json()["detail"]


async def test_a_bad_change_changes_nothing(client: httpx2.AsyncClient) -> None:
    body = await made(client)
    path = f"/v1/schedules/{body['id']}"
    for change, code in (
        ({"cron": "61 * * * *"}, "invalid-cron"),
        ({"cron": None}, "missing-field"),
        ({"task": "other"}, "unknown-field"),
        ({"timeZone": "Mars"}, "unknown-time-zone"),
    ):
        answer = await client.patch(path, json=change)
        assert (answer.status_code, answer.json()["code"]) == (422, code), answer.text
    assert (await client.get(path)).json() == body


async def test_the_same_name_twice_is_a_conflict(client: httpx2.AsyncClient) -> None:
    await made(client)
    again = await client.post("/v1/schedules", json=DAILY)
    assert (again.status_code, again.json()["code"]) == (409, "schedule-exists")


async def test_a_schedule_of_a_manifest_can_be_paused_only(client: httpx2.AsyncClient, store: PostgresStore) -> None:
    await store.apply_schedules(NS, "index", [("m", ScheduleSpec("@daily"))], uid="uid-index", generation=1)
    (body,) = (await client.get("/v1/schedules", params={"task": "index"})).json()["items"]
    path = f"/v1/schedules/{body['id']}"
    for answer in (await client.patch(path, json={"cron": "@hourly"}), await client.delete(path)):
        assert (answer.status_code, answer.json()["code"]) == (409, "managed-schedule")
        assert "spec.schedules" in answer.json()["detail"]
    assert (await client.post(f"{path}/pause")).json()["paused"]
    assert (await client.post(f"{path}/backfill", json=RANGE)).json()["created"] == 3


async def test_another_namespaces_schedules_are_not_there(client: httpx2.AsyncClient) -> None:
    path = f"/v1/schedules/{(await made(client))['id']}"
    other = {"Authorization": f"Bearer {'o' * 20}"}
    assert (await client.get(path, headers=other)).status_code == 404
    assert (await client.get(path, headers=other, params={"namespace": NS})).status_code == 403
    assert (await client.get("/v1/schedules", headers=other)).json()["items"] == []
    root = {"Authorization": f"Bearer {'r' * 20}"}
    assert len((await client.get("/v1/schedules", headers=root, params={"namespace": "*"})).json()["items"]) == 1


async def test_lists_go_page_by_page(client: httpx2.AsyncClient) -> None:
    for name in "cab":
        await made(client, name=name)
    seen, cursor = [], None
    for _ in range(2):
        answer = (
            await client.get("/v1/schedules", params={"limit": 2} | ({"cursor": cursor} if cursor else {}))
        ).json()
        seen += [one["name"] for one in answer["items"]]
        cursor = answer["nextCursor"]
    assert (seen, cursor) == (["a", "b", "c"], None)
    for bad in ("x", "eHh4", "//8="):
        assert (await client.get("/v1/schedules", params={"cursor": bad})).json()["code"] == "invalid-cursor"
    assert (await client.get("/v1/schedules/not-an-id")).status_code == 404
