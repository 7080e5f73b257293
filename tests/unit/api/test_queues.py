"""The public API of queues and waits."""

from dataclasses import replace

import pytest

from milepost_operator.api import queueviews
from milepost_operator.domain.breaker import Phase, Policy
from milepost_operator.domain.queues import MAX_DEPTH_COUNTED, BreakerView, QueueView
from milepost_operator.domain.states import RunState
from milepost_operator.domain.why import Pause, RateUse
from tests.fakes.memory_rows import EPOCH
from tests.unit.api.conftest import Bench
from tests.unit.api.test_runs import trigger

AGENTS = QueueView("team", "agents", depth=41, running=10, limit=10, spec_limit=10, oldest_at=EPOCH)
WHOLE = replace(
    AGENTS,
    pause=Pause(EPOCH, "alice", "upgrade"),
    rate=RateUse(100, 60, EPOCH),
    rate_used=12,
    breaker=BreakerView(Policy(3), Phase.OPEN, 3, 0, EPOCH, EPOCH),
)


@pytest.fixture
def queues(bench: Bench) -> Bench:
    bench.store.queues = {("team", "agents"): AGENTS, ("other", "agents"): AGENTS}
    return bench


async def test_a_queue_with_all_that_is_known_of_it(queues: Bench, team: dict[str, str]) -> None:
    queues.store.queues["team", "agents"] = WHOLE
    answer = await queues.client.get("/v1/queues/agents", headers=team)
    queueviews.QueueOut.model_validate_json(answer.content)
    shown = answer.json()
    assert (shown["depth"], shown["depthCapped"], shown["running"], shown["limit"]) == (41, False, 10, 10)
    assert shown["pause"] == {"by": "alice", "since": "2026-01-01T00:00:00+00:00", "reason": "upgrade"}
    assert shown["rate"] == {"limit": 100, "periodSeconds": 60, "used": 12, "freeAt": "2026-01-01T00:00:00+00:00"}
    assert shown["breaker"]["state"] == "open"


async def test_a_depth_that_was_not_counted_to_its_end_says_so(queues: Bench, team: dict[str, str]) -> None:
    queues.store.queues["team", "agents"] = replace(AGENTS, depth=MAX_DEPTH_COUNTED)
    assert (await queues.client.get("/v1/queues/agents", headers=team)).json()["depthCapped"] is True


async def test_queues_are_listed_in_the_namespace_of_the_token(
    queues: Bench, team: dict[str, str], root: dict[str, str]
) -> None:
    mine = await queues.client.get("/v1/queues", headers=team)
    queueviews.QueuesOut.model_validate_json(mine.content)
    assert len(mine.json()["items"]) == 1
    assert len((await queues.client.get("/v1/queues?namespace=*", headers=root)).json()["items"]) == 2
    refused = await queues.client.get("/v1/queues?namespace=other", headers=team)
    assert refused.status_code == 403


async def test_pause_and_resume(queues: Bench, team: dict[str, str]) -> None:
    paused = await queues.client.post("/v1/queues/agents/pause", json={"reason": "upgrade"}, headers=team)
    assert paused.status_code == 200
    assert (paused.json()["paused"], paused.json()["pause"]["by"], paused.json()["pause"]["reason"]) == (
        True,
        "team-ci",
        "upgrade",
    )
    assert (await queues.client.post("/v1/queues/agents/pause", headers=team)).json()["pause"]["reason"] == ""
    resumed = await queues.client.post("/v1/queues/agents/resume", headers=team)
    assert (resumed.json()["paused"], resumed.json()["pause"], len(queues.pokes)) == (False, None, 1)


async def test_what_the_manifest_pauses_only_the_manifest_resumes(queues: Bench, team: dict[str, str]) -> None:
    queues.store.queues["team", "agents"] = replace(AGENTS, pause=Pause(EPOCH))
    answer = await queues.client.post("/v1/queues/agents/resume", headers=team)
    assert (answer.status_code, answer.json()["code"]) == (409, "paused-by-manifest")


async def test_a_limit_is_changed_and_cleared(queues: Bench, team: dict[str, str]) -> None:
    changed = (await queues.client.patch("/v1/queues/agents", json={"concurrency": 3}, headers=team)).json()
    assert (changed["limit"], changed["specLimit"], changed["override"]["by"]) == (3, 10, "team-ci")
    cleared = (await queues.client.patch("/v1/queues/agents", json={"concurrency": None}, headers=team)).json()
    assert (cleared["limit"], cleared["override"]) == (10, None)


@pytest.mark.parametrize(
    ("body", "code", "path"),
    [
        (b"{}", "missing-field", "$.concurrency"),
        (b'{"concurrency": 0}', "invalid-field", "$.concurrency"),
        (b'{"concurrency": -1}', "invalid-field", "$.concurrency"),
        (b'{"concurrency": 100001}', "invalid-field", "$.concurrency"),
        (b'{"concurrency": "3"}', "invalid-field", "$.concurrency"),
        (b'{"concurrency": true}', "invalid-field", "$.concurrency"),
        (b'{"concurrency": 3, "limit": 4}', "unknown-field", "$.limit"),
        (b"[]", "not-an-object", "$"),
        (b"", "not-json", "$"),
        (b"\xff", "not-json", "$"),
    ],
)
async def test_a_wrong_change_says_what_and_where(
    queues: Bench, team: dict[str, str], body: bytes, code: str, path: str
) -> None:
    answer = await queues.client.patch("/v1/queues/agents", content=body, headers=team)
    assert (answer.status_code, answer.json()["code"], answer.json()["path"]) == (422, code, path)
    assert queues.store.queues["team", "agents"] == AGENTS


async def test_a_reason_has_bounds(queues: Bench, team: dict[str, str]) -> None:
    long = await queues.client.post("/v1/queues/agents/pause", json={"reason": "x" * 501}, headers=team)
    assert (long.status_code, long.json()["path"]) == (422, "$.reason")
    nul = await queues.client.post("/v1/queues/agents/pause", content=b'{"reason": "\\u0000"}', headers=team)
    assert nul.status_code == 422
    big = await queues.client.post("/v1/queues/agents/pause", content=b" " * 70_000, headers=team)
    assert big.status_code == 413


@pytest.mark.parametrize("name", ["nope", "%00", "..%2f", "a" * 300, "%27%20or%201%3D1"])
async def test_queues_that_are_not_there(queues: Bench, team: dict[str, str], name: str) -> None:
    for method, path in (("GET", ""), ("POST", "/pause"), ("POST", "/resume"), ("PATCH", "")):
        body = {"concurrency": 1} if method == "PATCH" else None
        answer = await queues.client.request(method, f"/v1/queues/{name}{path}", json=body, headers=team)
        assert answer.status_code in {404, 422}
        assert answer.headers["content-type"] == "application/problem+json"


async def test_why_a_run_waits_is_in_its_view_and_alone(queues: Bench, team: dict[str, str]) -> None:
    run = (await trigger(queues, team)).json()["name"]
    alone = await queues.client.get(f"/v1/runs/{run}/why", headers=team)
    queueviews.WhyOut.model_validate_json(alone.content)
    why = alone.json()["why"]
    assert why == {"code": "Delayed", "sentence": "waits as queued", "nextAt": "2026-01-01T00:00:00+00:00"}
    assert (await queues.client.get(f"/v1/runs/{run}", headers=team)).json()["why"] == why
    cancelled = (await queues.client.post(f"/v1/runs/{run}/cancel", headers=team)).json()
    assert (cancelled["state"], cancelled["why"]) == ("cancelled", None)
    assert (await queues.client.get(f"/v1/runs/{run}/why", headers=team)).json()["why"] is None


async def test_a_run_is_bumped_while_it_waits(queues: Bench, team: dict[str, str]) -> None:
    run = (await trigger(queues, team)).json()
    before = len(queues.pokes)
    answer = await queues.client.post(f"/v1/runs/{run['id']}/bump", headers=team)
    assert (answer.status_code, answer.json()["id"]) == (200, run["id"])
    assert [str(one) for one in queues.store.bumped] == [run["id"]]
    assert len(queues.pokes) == before + 1
    (row,) = queues.store.runs.values()
    row.view = replace(row.view, state=RunState.RUNNING)
    refused = await queues.client.post(f"/v1/runs/{run['id']}/bump", headers=team)
    assert (refused.status_code, refused.json()["code"]) == (409, "not-waiting")
