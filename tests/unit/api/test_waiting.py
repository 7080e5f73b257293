import asyncio
from collections.abc import Sequence
from uuid import UUID, uuid4

import pytest

from milepost_operator.api import waiting
from milepost_operator.api.waiting import Come, Waiters
from milepost_operator.domain.errors import OverloadedError, UnavailableError


class Runs:
    """Counts the looks; runs in `over` have ended."""

    def __init__(self) -> None:
        self.looks: list[int] = []
        self.over: set[UUID] = set()
        self.down = False

    async def __call__(self, run_ids: Sequence[UUID]) -> Sequence[UUID]:
        self.looks.append(len(run_ids))
        if self.down:
            raise UnavailableError("no database")
        return [run_id for run_id in run_ids if run_id in self.over]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    monkeypatch.setattr(waiting, "GAP_SECONDS", 0.001)
    monkeypatch.setattr(waiting, "FAILED_SECONDS", 0.001)
    return Runs()


async def test_one_look_serves_all_who_wait(runs: Runs) -> None:
    waiters, ids = Waiters(runs), [uuid4() for _ in range(1500)]
    tasks = [asyncio.create_task(waiters.wait(run_id, 30)) for run_id in [*ids, *ids]]
    while not runs.looks:  # noqa: ASYNC110  the first look is what is waited for
        await asyncio.sleep(0)
    runs.over.update(ids)
    waiters.nudge()
    assert all(await asyncio.gather(*tasks))
    assert set(runs.looks) <= {1000, 500}
    looks = len(runs.looks)
    await asyncio.sleep(0.01)
    assert len(runs.looks) == looks


async def test_a_wait_ends_in_time_and_leaves_nothing(runs: Runs) -> None:
    waiters = Waiters(runs)
    assert await waiters.wait(uuid4(), 0.01) is None
    assert waiters._waiting == {}


async def test_an_outage_is_waited_out(runs: Runs) -> None:
    waiters, run_id = Waiters(runs), uuid4()
    runs.down = True
    task = asyncio.create_task(waiters.wait(run_id, 30))
    while len(runs.looks) < 3:
        waiters.nudge()
        await asyncio.sleep(0.001)
    runs.down, runs.over = False, {run_id}
    waiters.nudge()
    assert await task is Come.SEEN


async def test_too_many_are_refused(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "MAX_WAITING", 1)
    waiters, run_id = Waiters(runs), uuid4()
    task = asyncio.create_task(waiters.wait(run_id, 30))
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError):
        await waiters.wait(run_id, 1)
    runs.over.add(run_id)
    waiters.nudge()
    assert await task
