import asyncio
from collections.abc import Sequence

import pytest

from milepost_operator.api.batcher import MAX_BATCH_BYTES, Batcher
from milepost_operator.domain.errors import BusyError, ConflictError, MilepostError, UnavailableError


class Commits:
    """A commit that waits for the test's word."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.go = asyncio.Semaphore(0)
        self.began = asyncio.Semaphore(0)

    async def __call__(self, requests: Sequence[str]) -> Sequence[str | MilepostError]:
        self.batches.append(list(requests))
        self.began.release()
        await self.go.acquire()
        if "poison" in requests:
            raise RuntimeError("a bug")
        if "down" in requests:
            raise UnavailableError("no database")
        return [ConflictError("fenced", r) if r == "fenced" else r.upper() for r in requests]


def start(batcher: Batcher[str, str], *requests: str, size: int = 0) -> list[asyncio.Task[str]]:
    return [asyncio.create_task(batcher.submit(r, size=size)) for r in requests]


@pytest.fixture
def commits() -> Commits:
    return Commits()


@pytest.fixture
def batcher(commits: Commits) -> Batcher[str, str]:
    return Batcher(commits, lambda *_: None)


async def test_a_lone_request_starts_at_once_and_the_next_ones_gather(batcher, commits) -> None:
    first = start(batcher, "a")
    await commits.began.acquire()
    rest = start(batcher, "b", "c", "d")
    await asyncio.sleep(0)
    assert commits.batches == [["a"]]
    commits.go.release()
    assert await first[0] == "A"
    await commits.began.acquire()
    assert commits.batches == [["a"], ["b", "c", "d"]]
    assert not any(task.done() for task in rest)
    commits.go.release()
    assert await asyncio.gather(*rest) == ["B", "C", "D"]


async def test_nothing_is_acknowledged_before_the_commit(batcher, commits) -> None:
    (task,) = start(batcher, "a")
    await commits.began.acquire()
    for _ in range(10):
        await asyncio.sleep(0)
    assert not task.done()
    commits.go.release()
    assert await task == "A"


async def test_each_request_gets_its_own_answer_or_error(batcher, commits) -> None:
    blocker = start(batcher, "x")
    await commits.began.acquire()
    tasks = start(batcher, "a", "fenced", "b")
    await asyncio.sleep(0)
    commits.go.release()
    commits.go.release()
    await blocker[0]
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert (answers[0], answers[2]) == ("A", "B")
    assert isinstance(answers[1], ConflictError)


async def test_one_bad_request_does_not_take_the_others_with_it(batcher, commits) -> None:
    blocker = start(batcher, "x")
    await commits.began.acquire()
    tasks = start(batcher, "a", "poison", "b")
    await asyncio.sleep(0)
    for _ in range(5):
        commits.go.release()
    await blocker[0]
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert (answers[0], answers[2]) == ("A", "B")
    assert isinstance(answers[1], RuntimeError)
    assert await_free(batcher)


async def test_an_outage_is_told_to_all_and_the_next_batch_goes_on(batcher, commits) -> None:
    commits.go = asyncio.Semaphore(10)
    answers = await asyncio.gather(*start(batcher, "down", "a"), return_exceptions=True)
    assert all(isinstance(answer, UnavailableError) for answer in answers)
    assert await batcher.submit("later") == "LATER"


async def test_what_waits_is_bounded_by_number_and_by_size(commits) -> None:
    batcher: Batcher[str, str] = Batcher(commits, lambda *_: None, max_waiting=2, max_waiting_bytes=100)
    running = start(batcher, "a")
    await commits.began.acquire()
    waiting = start(batcher, "b", "c", size=50)
    await asyncio.sleep(0)
    with pytest.raises(UnavailableError):
        await batcher.submit("d")
    commits.go.release()
    await commits.began.acquire()
    with pytest.raises(UnavailableError):
        await batcher.submit("e", size=101)
    commits.go.release()
    assert await asyncio.gather(*running, *waiting) == ["A", "B", "C"]


async def test_batches_are_bounded_by_records_and_bytes_and_keep_order(commits) -> None:
    batcher: Batcher[str, str] = Batcher(commits, lambda *_: None)
    commits.go = asyncio.Semaphore(100)
    tasks = [asyncio.create_task(batcher.submit(f"r{i}", records=100)) for i in range(5)]
    await asyncio.gather(*tasks)
    assert commits.batches == [["r0", "r1"], ["r2", "r3"], ["r4"]]
    commits.batches.clear()
    await asyncio.gather(*start(batcher, "a", "b", "c", size=MAX_BATCH_BYTES // 2))
    assert commits.batches == [["a", "b"], ["c"]]
    commits.batches.clear()
    assert await batcher.submit("huge", size=MAX_BATCH_BYTES * 2) == "HUGE"


async def test_a_client_that_went_away_before_its_commit_is_left_out(batcher, commits) -> None:
    blocker = start(batcher, "x")
    await commits.began.acquire()
    gone, stays = start(batcher, "gone", "stays")
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.sleep(0)
    commits.go.release()
    commits.go.release()
    assert await stays == "STAYS"
    await blocker[0]
    assert commits.batches == [["x"], ["stays"]]


def await_free(batcher: Batcher[str, str]) -> bool:
    return not batcher._queue and batcher._bytes == 0


def locking(tries: int) -> tuple[list[list[str]], Batcher[str, str]]:
    """A batcher whose commit finds `locked` locked so many times; and the batches it committed."""
    batches: list[list[str]] = []

    async def commit(requests: Sequence[str]) -> Sequence[str | MilepostError]:
        batches.append(list(requests))
        return [BusyError("it is locked") if r == "locked" and len(batches) <= tries else r.upper() for r in requests]

    return batches, Batcher(commit, lambda *_: None, busy_seconds=(0.01, 0.01))


async def test_what_is_locked_comes_with_a_later_batch_and_holds_nobody_up() -> None:
    batches, batcher = locking(2)
    answered: list[str] = []
    tasks = start(batcher, "locked", "a")
    for task in tasks:
        task.add_done_callback(lambda done: answered.append(done.result()))
    assert await asyncio.gather(*tasks) == ["LOCKED", "A"]
    assert answered == ["A", "LOCKED"]
    assert batches == [["locked", "a"], ["locked"], ["locked"]]


async def test_what_stays_locked_is_told_so_at_last_and_counts_as_waiting_until_then() -> None:
    batches, batcher = locking(9)
    task = asyncio.create_task(batcher.submit("locked", size=70))
    for _ in range(4):  # it has its turn, is found locked, and waits for the next
        await asyncio.sleep(0)
    assert (len(batches), batcher._busy, batcher._bytes) == (1, 1, 70)
    with pytest.raises(UnavailableError, match="it is locked, and did not give it back"):
        await task
    assert (len(batches), batcher._busy, batcher._bytes) == (3, 0, 0)
