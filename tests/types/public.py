"""What type checkers are told of the public surface. Checked by mypy and pyright, never run.

A line that has to be refused ends in `type: ignore` with mypy's code: both report an ignore that nothing needs.
"""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import datetime
from typing import Any, assert_type
from uuid import UUID

from milepost import (
    MISSING,
    Context,
    FatalError,
    MilepostError,
    Missing,
    NotRecordableError,
    Recorded,
    RunInfo,
    Settled,
    SyncContext,
    TaskFunction,
    current,
    current_sync,
    step,
    task,
)
from milepost.testing import AsyncTaskRun, Attempt, TaskRun, after
from milepost.wire.values import JSON


@dataclass
class Order:
    item: str
    count: int = 1


@step
async def fetch(url: str, retries: int = 3) -> dict[str, int]:
    return {url: retries}


@step
def pack(order: Order) -> str:
    return order.item


@step(name="ship-it", key=lambda order: f"ship/{order}")
async def ship(order: Order) -> UUID:
    return UUID(order.item)


@step(name="weigh")
def weigh(order: Order) -> float:
    return float(order.count)


def plain(order: Order) -> int:
    return order.count


async def later(order: Order) -> list[Order]:
    return [order]


@task
async def main(ctx: Context, url: str, limit: int = 10) -> list[str]:
    assert_type(await fetch(url), dict[str, int])
    assert_type(await pack(Order("a")), str)
    assert_type(await ship(Order("a")), UUID)
    assert_type(await weigh(Order("a")), float)
    assert_type(await ctx.step("plain", plain, Order("a")), int)
    assert_type(await ctx.step("later", later, Order("a")), list[Order])
    assert_type(await ctx.step("later", later, Order("a"), key="k"), list[Order])
    assert_type(await ctx.now(), datetime)
    assert_type(await ctx.random(), float)
    assert_type(await ctx.uuid(), UUID)
    assert_type(await ctx.checkpoint("state", {"n": limit}), int)
    assert_type(await asyncio.gather(fetch(url), ship(Order("b"))), tuple[dict[str, int], UUID])
    assert_type(await ctx.map(fetch, [url], concurrency=3), list[dict[str, int]])
    assert_type(ctx.run, RunInfo)
    assert_type(ctx.run.tags, tuple[str, ...])
    assert_type(current(), Context)
    assert_type(await ctx.stream({"token": "a"}), int)
    ctx.progress(0.5, "half")
    ctx.log.info("half")
    return [url]


async def settled(ctx: Context) -> None:
    ends = await ctx.all_settled(fetch("a"), fetch("b"))
    assert_type(ends, list[Settled[dict[str, int]]])
    assert_type(ends[0].unwrap(), dict[str, int])
    assert_type(ends[0].error, Exception | None)


async def restored(ctx: Context) -> None:
    assert_type(await ctx.restore("state"), JSON | Missing)
    assert_type(await ctx.restore("state", None), JSON)
    assert_type(await ctx.restore("state", 0), int)
    assert_type(await ctx.restore("state", type=Order), Order | Missing)
    assert_type(await ctx.restore("state", Order("a"), type=Order), Order)
    found = await ctx.restore("state", type=Order)
    if found is not MISSING:
        assert_type(found, Order)


@task(id="plain-main")
def plain_main(ctx: SyncContext, numbers: list[int]) -> int:
    assert_type(ctx.step("plain", plain, Order("a")), int)
    assert_type(ctx.restore("state", type=Order), Order | Missing)
    assert_type(ctx.checkpoint("state", 1), int)
    assert_type(ctx.stream("token"), int)
    assert_type(ctx.now(), datetime)
    assert_type(ctx.random(), float)
    assert_type(ctx.uuid(), UUID)
    assert_type(current_sync(), SyncContext)
    return sum(numbers)


def migrate(recorded: Recorded, since: int) -> None:
    assert_type(recorded.steps["fetch"], JSON)
    recorded.steps["fetch"] = Order("a", since)


@task(id="migrated", layout=2, migrate=migrate)
async def migrated(ctx: Context) -> None: ...


assert_type(main.id, str)
assert_type(plain_main(SyncContext.__new__(SyncContext), [1]), int)
as_function: Callable[[Context, str, int], Coroutine[Any, Any, list[str]]] = main
as_task: TaskFunction[[SyncContext, list[int]], int] = plain_main


async def tested() -> None:
    run = AsyncTaskRun(main, {"url": "u"})
    assert_type(await run.attempt(crash=after("fetch")), Attempt)
    assert_type(await run.finish(), JSON)
    assert_type(run.steps, dict[str, object])
    assert_type(TaskRun(plain_main, [1]).finish(), JSON)


def errors(error: NotRecordableError) -> str:
    family: MilepostError = FatalError("no")
    return f"{error.path} {error.type} {error.code} {family.retryable}"


async def refused(ctx: Context, plainly: SyncContext) -> None:
    await fetch(1)  # type: ignore[arg-type]
    await fetch("a", again=True)  # type: ignore[call-arg]
    await pack("a")  # type: ignore[arg-type]
    await ctx.checkpoint("state")  # type: ignore[call-arg]
    await ctx.step(plain, Order("a"))  # type: ignore[call-overload]
    await ctx.map(plain, [Order("a")])  # type: ignore[arg-type]
    ctx.progress("half")  # type: ignore[arg-type]
    _wrong: str = plainly.step("plain", plain, Order("a"))  # type: ignore[assignment]
    run = AsyncTaskRun(main)
    run.attempt(crash="fetch")  # type: ignore[arg-type, unused-coroutine]
    AsyncTaskRun(later)  # type: ignore[arg-type]
