"""`milepost.testing` as users' tests use it."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from milepost import Context, FatalError, MilepostError, NotRecordableError, Retry, SyncContext, current, step, task
from milepost.testing import AsyncTaskRun, TaskRun, after, before, unacknowledged

SENT: list[str] = []


@pytest.fixture(autouse=True)
def nothing_sent():
    SENT.clear()


@step
async def charge(amount: int) -> tuple[str, int]:
    SENT.append(f"charge {amount}")
    return ("receipt", amount)


@step
def pack(item: str) -> str:
    SENT.append(f"pack {item}")
    return item.upper()


@task(id="order")
async def order(ctx: Context, amount: int, items: list[str]) -> dict:
    receipt = await charge(amount)
    packed = await asyncio.gather(*(pack(item) for item in items))
    await ctx.checkpoint("packed", {"count": len(packed)})
    return {"receipt": list(receipt), "packed": packed, "attempt": ctx.run.attempt, "same": current() is ctx}


@task
def plain_order(ctx: SyncContext, amount: int) -> dict:
    receipt = ctx.step("charge", lambda: f"charged {amount}")
    done = ctx.restore("done", 0)
    ctx.checkpoint("done", done + 1)
    return {"receipt": receipt, "at": ctx.now().isoformat(), "attempt": ctx.run.attempt}


INPUT = {"amount": 5, "items": ["pen", "ink"]}


async def test_an_undisturbed_run():
    run = AsyncTaskRun(order, INPUT)
    assert await run.finish() == {"receipt": ["receipt", 5], "packed": ["PEN", "INK"], "attempt": 1, "same": True}
    assert run.steps == {"charge": ("receipt", 5), "~1/pack": "PEN", "~2/pack": "INK"}
    assert run.checkpoints == {"packed": [{"count": 2}]}
    assert (run.state, run.attempts[0].end, run.failures) == ("succeeded", "succeeded", {})
    with pytest.raises(MilepostError, match="no further attempt"):
        await run.attempt()


@pytest.mark.parametrize("place", [before, unacknowledged, after])
@pytest.mark.parametrize("record", [1, 2, 3, "charge", "~2/pack", "packed", 4])
async def test_a_death_repeats_only_what_was_not_recorded(place, record):
    run = AsyncTaskRun(order, INPUT)
    first = await run.attempt(crash=place(record))
    assert (first.end, run.state) == ("crashed", "queued")
    kept = set(run.steps)
    second = await run.attempt()
    assert (second.end, second.result["attempt"], second.result["packed"]) == ("succeeded", 2, ["PEN", "INK"])
    assert not kept & set(second.executed)
    assert run.executions["charge"] == (2 if place is before and record in {1, "charge"} else 1)


def test_plain_tests_run_tasks_of_both_kinds():
    run = TaskRun(order, INPUT)
    assert run.attempt(crash=after("charge")).executed == ["charge"]
    assert run.finish()["attempt"] == 2
    plain = TaskRun(plain_order, {"amount": 3}, now=datetime(2026, 5, 1, tzinfo=UTC))
    assert plain.attempt(crash=unacknowledged("done")).end == "crashed"
    plain.advance(timedelta(days=1))
    assert plain.finish() == {"receipt": "charged 3", "at": "2026-05-02T00:00:00+00:00", "attempt": 2}
    assert plain.checkpoints == {"done": [1, 2]}
    assert plain.executions == {"charge": 1, "ctx.now": 1}


async def test_plain_tasks_in_coroutine_tests():
    run = AsyncTaskRun(plain_order, {"amount": 3})
    assert (await run.attempt(crash=before("charge"))).executed == ["charge"]
    assert (await run.finish())["receipt"] == "charged 3"
    assert run.executions["charge"] == 2


async def test_time_and_chance_are_those_of_the_test():
    @task
    async def dice(ctx: Context) -> list:
        return [(await ctx.now()).isoformat(), await ctx.random(), str(await ctx.uuid()), ctx.run.created_at]

    runs = [AsyncTaskRun(dice, now=datetime(2026, 1, 1, tzinfo=UTC)) for _ in range(2)]
    await runs[0].attempt(crash=after("ctx.now"))
    runs[0].advance(timedelta(hours=1))
    assert await runs[0].finish() == await runs[1].finish()
    assert runs[0].now - runs[1].now == timedelta(hours=1)


async def test_failures_retries_and_their_end():
    @task
    async def fails(ctx: Context) -> None:
        try:
            await ctx.step("reserve", _raise, KeyError("sold out"))
        except KeyError:
            await charge(1)
        await ctx.step("ship", _raise, ValueError(ctx.run.attempt))

    run = AsyncTaskRun(fails, max_attempts=2)
    assert (await run.attempt()).end == "failed"
    assert (run.state, list(run.failures), run.failures["reserve"].args) == ("backoff", ["reserve"], ("sold out",))
    with pytest.raises(ValueError, match="2"):
        await run.finish()
    assert (run.state, len(run.attempts), SENT) == ("failed", 2, ["charge 1"])
    assert run.executions == {"reserve": 1, "charge": 1, "ship": 2}


@pytest.mark.parametrize("error", [FatalError("never"), NotRecordableError("$", "set", "x", "no")])
async def test_what_no_other_attempt_would_change_fails_at_once(error):
    @task
    async def fatal() -> None:
        raise error

    run = AsyncTaskRun(fatal)
    with pytest.raises(type(error)):
        await run.finish()
    assert (run.state, len(run.attempts)) == ("failed", 1)


async def test_a_result_that_can_not_be_recorded_fails():
    @task
    async def odd() -> object:
        return object()

    with pytest.raises(NotRecordableError):
        await AsyncTaskRun(odd).finish()


async def test_cancelling_lets_the_task_clean_up():
    @task
    async def slow(ctx: Context) -> None:
        try:
            await charge(1)
            await asyncio.sleep(3600)
        finally:
            await ctx.checkpoint("released", {"ok": True})

    run = AsyncTaskRun(slow)
    assert (await run.attempt(cancel=after("charge"))).end == "cancelled"
    assert (run.state, run.checkpoints) == ("cancelled", {"released": [{"ok": True}]})
    with pytest.raises(asyncio.CancelledError):
        await run.finish()


def test_cancelling_a_plain_task():
    @task
    def slow(ctx: SyncContext) -> None:
        ctx.step("a", lambda: 1)
        ctx.step("b", lambda: 2)

    run = TaskRun(slow)
    assert run.attempt(cancel=after("a")).executed == ["a"]
    assert run.state == "cancelled"


async def test_a_dead_process_does_nothing_more():
    @task
    async def stubborn() -> str:
        background = asyncio.create_task(asyncio.sleep(3600))
        try:
            await charge(1)
        except BaseException:  # noqa: BLE001
            SENT.append("unwinds")
        try:
            await charge(2)
        finally:
            background.cancel()
        return "done"

    run = AsyncTaskRun(stubborn)
    assert (await run.attempt(crash=before(1))).end == "crashed"
    assert (run.records, SENT) == ([], ["charge 1", "unwinds"])
    assert await run.finish() == "done"
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_death_in_a_branch_ends_those_that_wait():
    @task
    async def waits() -> None:
        asyncio.get_running_loop().create_task(charge(1))
        await asyncio.Event().wait()

    assert (await AsyncTaskRun(waits).attempt(crash=unacknowledged(1))).end == "crashed"


@pytest.mark.parametrize("seconds", [2, 3600])
async def test_retries_take_no_time_but_the_runs_own(seconds: int):
    tries: list[int] = []

    def flaky() -> str:
        tries.append(1)
        if len(tries) < 3:
            raise ConnectionError
        return "there"

    policy = Retry(max_attempts=3, min_seconds=seconds, factor=1, max_seconds=seconds, randomize=False)
    started: list[str] = []

    @task
    async def asks(ctx: Context) -> str:
        return await ctx.step("ask", flaky, retry=policy)

    asks.on_start(lambda _: started.append("start"))
    run = AsyncTaskRun(asks)
    began = run.now
    assert await run.finish() == "there"
    assert (run.executions["ask"], run.now - began, started) == (3, timedelta(seconds=2 * seconds), ["start"])

    @task
    def asks_plainly(ctx: SyncContext) -> str:
        return ctx.step("ask", flaky, retry=policy)

    tries.clear()
    plain = AsyncTaskRun(asks_plainly)
    assert await plain.finish() == "there"
    assert plain.executions == {"ask": 3}


async def test_code_that_changes_between_two_attempts():
    @task(id="order")
    async def newer(ctx: Context, amount: int, **_: object) -> list:
        return [list(await charge(amount)), await ctx.step("gift", lambda: "card")]

    run = AsyncTaskRun(order, INPUT)
    await run.attempt(crash=after("charge"))
    run.task = newer
    assert await run.finish() == [["receipt", 5], "card"]
    assert SENT == ["charge 5"]


async def test_a_place_that_is_not_reached_is_an_error():
    with pytest.raises(MilepostError, match=r"without reaching after\('paid'\): its records are \['charge', "):
        await AsyncTaskRun(order, INPUT).attempt(crash=after("paid"))
    with pytest.raises(ValueError, match="counted from 1"):
        after(0)


async def test_limits_and_inputs_are_checked():
    with pytest.raises(NotRecordableError):
        AsyncTaskRun(order, {1, object()})
    with pytest.raises(FatalError, match="does not fit"):
        await AsyncTaskRun(order, {"no": 1}).finish()

    @task
    async def big(ctx: Context) -> None:
        await ctx.step("big", lambda: "x" * 100)

    with pytest.raises(MilepostError, match="100 is the most"):
        await AsyncTaskRun(big, max_bytes=100).finish()


def _raise(error: Exception) -> None:
    raise error
