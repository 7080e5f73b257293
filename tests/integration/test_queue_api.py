"""Queues and waits through the real app on a real store."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from milepost_operator.adapters.kube.tokenreview import PodIdentity
from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.api import queueviews, views
from milepost_operator.domain.breaker import Policy
from milepost_operator.domain.errors import UnauthenticatedError
from milepost_operator.domain.runs import QueueIntake, Rate
from tests.integration.engine import NS, apply_task, launch, trigger
from tests.integration.http_api import app_of

TOKEN = "team-token-0123456789"


@pytest.fixture
async def client(store: PostgresStore, tmp_path: Path) -> AsyncIterator[httpx2.AsyncClient]:
    (tmp_path / "tokens").write_text(f"alice:{NS}:{TOKEN}\n")

    async def identify(_: str) -> PodIdentity:
        raise UnauthenticatedError("no pods here")

    app = app_of(store, tmp_path / "tokens", identify)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://api", headers=headers) as made:
        yield made


async def test_a_queue_is_looked_at_paused_resized_and_resumed(
    client: httpx2.AsyncClient, store: PostgresStore
) -> None:
    queue = QueueIntake(NS, "agents", "uid", 1, 10, rate=Rate(100, 60), breaker=Policy(5))
    await store.apply_queue(queue)
    await apply_task(store, queue="agents")
    for _ in range(3):
        await trigger(store)
    await launch(store)
    paused = await client.post("/v1/queues/agents/pause", json={"reason": "upgrade"})
    queueviews.QueueOut.model_validate_json(paused.content)
    shown = paused.json()
    assert (shown["depth"], shown["running"], shown["pause"]["by"], shown["rate"]["used"]) == (3, 0, "alice", 3)
    assert shown["breaker"] == {"state": "closed", "failures": 0, "passed": 0, "since": None, "until": None}
    changed = (await client.patch("/v1/queues/agents", json={"concurrency": 2})).json()
    assert (changed["limit"], changed["specLimit"], changed["override"]["by"]) == (2, 10, "alice")
    resumed = (await client.post("/v1/queues/agents/resume")).json()
    assert (resumed["paused"], resumed["pause"]) == (False, None)
    listed = await client.get("/v1/queues")
    queueviews.QueuesOut.model_validate_json(listed.content)
    assert [one["name"] for one in listed.json()["items"]] == ["agents"]


async def test_a_run_tells_why_it_waits_and_is_bumped(client: httpx2.AsyncClient, store: PostgresStore) -> None:
    await store.apply_queue(QueueIntake(NS, "agents", "uid", 1, 1))
    await apply_task(store, queue="agents")
    names = [(await trigger(store)).name for _ in range(3)]
    await launch(store)
    answer = await client.get(f"/v1/runs/{names[2]}/why")
    queueviews.WhyOut.model_validate_json(answer.content)
    assert answer.json()["why"] == {
        "code": "QueueFull",
        "sentence": "behind 1 other in `agents` (limit 1, 1 running)",
        "nextAt": None,
    }
    bumped = (await client.post(f"/v1/runs/{names[2]}/bump")).json()
    assert bumped["why"]["sentence"] == "next in `agents` (limit 1, 1 running)"
    run = await client.get(f"/v1/runs/{names[0]}")
    views.RunOut.model_validate_json(run.content)
    assert run.json()["why"]["code"] == "PodPending"
    refused = await client.post(f"/v1/runs/{names[0]}/bump")
    assert (refused.status_code, refused.json()["code"]) == (409, "not-waiting")
