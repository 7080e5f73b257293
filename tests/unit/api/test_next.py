"""What a sidecar is told between two attempts."""

import asyncio

import httpx2
import pytest

from milepost_operator.api.waiting import Waiters
from milepost_operator.domain.runs import NewRun
from tests.unit.api.conftest import Bench, Sidecar


@pytest.fixture
async def settled(bench: Bench) -> Sidecar:
    """A pod that can be used again, and has settled its attempt."""
    sidecar = await bench.pod()
    await sidecar.open(reusable=True)
    body = {"fence": sidecar.fence, "outcome": "succeeded", "result": "1"}
    assert (await sidecar.post("settle", body)).status_code == 200
    return sidecar


async def waiting(bench: Bench, sidecar: Sidecar) -> asyncio.Task[httpx2.Response]:
    """Asks, and has come to wait."""
    asked = asyncio.create_task(sidecar.post("next", {}))
    async with asyncio.timeout(10):
        while sidecar.row.pod_id not in bench.offers._waiting:  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert sidecar.row.slot == "idle"
    return asked


async def test_a_pod_that_waits_is_told_of_work_at_once(bench: Bench, settled: Sidecar) -> None:
    asked = await waiting(bench, settled)
    run = await bench.store.create_run(NewRun("team", "index", "{}"))
    bench.store.offer(run.run_id, settled.row.pod_id)
    bench.offers.tell([settled.row.pod_id])
    answer = await asked
    assert (answer.status_code, answer.json()) == (200, {"work": True})
    assert (await settled.post("start")).json()["run_id"] == str(run.run_id)


async def test_what_came_while_it_was_not_heard_is_found_by_looking(bench: Bench, settled: Sidecar) -> None:
    asked = await waiting(bench, settled)
    settled.row.closed, settled.row.slot = True, None
    bench.offers.nudge()
    assert (await asked).status_code == 410


async def test_a_pod_asks_again_after_a_while(settled: Sidecar, monkeypatch: pytest.MonkeyPatch) -> None:
    async def over(*_: object) -> None:
        return None

    monkeypatch.setattr(Waiters, "wait", over)
    answer = await settled.post("next", {"retire": None, "parent_bytes": 1})
    assert (answer.status_code, answer.json()) == (200, {"work": False})
    assert (await settled.post("start")).status_code == 410


async def test_a_pod_that_can_not_go_on_ends(settled: Sidecar) -> None:
    assert (await settled.post("next", {"retire": "grew"})).status_code == 410
    assert settled.row.closed


async def test_one_that_never_said_it_could_be_used_again_ends(bench: Bench) -> None:
    sidecar = await bench.pod()
    await sidecar.post("settle", {"fence": sidecar.fence, "outcome": "succeeded", "result": "1"})
    assert (await sidecar.post("next", {})).status_code == 410
