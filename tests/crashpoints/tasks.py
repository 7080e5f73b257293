"""The tasks that die at every point. Each gives what it saw of its steps: two ways to its end can be compared."""

import asyncio

from milepost import Context, SyncContext, current, step, task
from tests.crashpoints.kill import arm, noted, started

SHAPES = {}
PLAIN_SHAPES = {}


class NoStockError(Exception):
    pass


@task
async def main(ctx: Context, shape: str, notes: str, kills: list) -> object:
    arm(notes, ctx.run, kills)
    return await SHAPES[shape](ctx)


@task
def plain(ctx: SyncContext, shape: str, notes: str, kills: list) -> object:
    arm(notes, ctx.run, kills)
    return PLAIN_SHAPES[shape](ctx)


def shape(fn):
    SHAPES[fn.__name__] = fn
    return fn


def plain_shape(fn):
    PLAIN_SHAPES[fn.__name__] = fn
    return fn


def made(value: object) -> object:
    """A step's body that gives a value."""
    started()
    return value


async def made_later(value: object) -> object:
    started()
    await asyncio.sleep(0)
    return value


def refused(reason: str) -> object:
    """A step's body that always fails."""
    started()
    raise NoStockError(reason, 7)


def first_time_refused() -> str:
    """A step's body that fails once in the run: who asks again gets another answer."""
    again = "start flaky" in noted()
    started()
    if not again:
        raise NoStockError("not yet")
    return "ready"


@step
async def fetch(name: str) -> list[str]:
    started()
    await asyncio.sleep(0)
    return [name]


@step(key=lambda item: f"order/{item}")
async def order(item: str) -> tuple[str, int]:
    started()
    await asyncio.sleep(0)
    return (item, len(item))


@shape
async def sequential(ctx: Context) -> object:
    pages = [await fetch("a"), await fetch("b")]
    count = await ctx.step("count", made, len(pages))
    seq = await ctx.checkpoint("state", {"pages": pages})
    return [pages, count, seq > 0, await ctx.step("é / last", made_later, None)]


@shape
async def chance(ctx: Context) -> object:
    values = [(await ctx.now()).isoformat(), await ctx.random(), str(await ctx.uuid())]
    return {"ctx.now": values[0], "ctx.random": values[1], "ctx.uuid": values[2], "end": await ctx.step("end", made, 1)}


@shape
async def loop(ctx: Context) -> object:
    done = await ctx.restore("done", {"n": 0, "sum": 0})
    for n in range(done["n"], 3):
        got = await ctx.step("part", made, n * 10, key=f"part/{n}")
        done = {"n": n + 1, "sum": done["sum"] + got}
        await ctx.checkpoint("done", done)
    return done


@shape
async def nested(ctx: Context) -> object:
    async def inner() -> list:
        started()
        return [await fetch("in"), await ctx.step("deep", made, 1), await fetch("in2")]

    async def outer() -> list:
        started()
        return [await fetch("out"), *await ctx.step("inner", inner)]

    return [await ctx.step("outer", outer), await fetch("after")]


@shape
async def parallel(ctx: Context) -> object:
    async def branch(name: str) -> list:
        first = await fetch(name)
        both = await asyncio.gather(fetch(name + "x"), ctx.step("y", made, name))
        return [first, both]

    values = await asyncio.gather(branch("a"), branch("b"))
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(order(item)) for item in ("pen", "ink")]
    return [values, [t.result() for t in tasks], await ctx.map(fetch, ["m", "n", "o"], concurrency=2)]


@shape
async def caught(ctx: Context) -> object:
    reasons = []
    for n in range(2):
        try:
            await ctx.step("reserve", refused, f"sold out {n}")
        except NoStockError as error:
            reasons.append(list(error.args))
    return [reasons, await ctx.step("backorder", made, "ordered"), await fetch("end")]


@shape
async def flaky(ctx: Context) -> object:
    return await _decided(ctx, ctx.step("flaky", first_time_refused))


@shape
async def flaky_branch(ctx: Context) -> object:
    """The error is caught by the parent of the branch that met it."""
    (end,) = await ctx.all_settled(ctx.step("flaky", first_time_refused))
    if end.ok:
        return {"~1/flaky": end.value, "end": await ctx.step("end", made, 1)}
    return {"backup": await ctx.step("backup", made, "backup"), "end": await ctx.step("end", made, 1)}


@shape
async def flaky_group(ctx: Context) -> object:
    async def deep() -> str:
        async with asyncio.TaskGroup() as group:
            got = group.create_task(ctx.step("flaky", first_time_refused))
        return got.result()

    try:
        async with asyncio.TaskGroup() as group:
            got = group.create_task(deep())
    except* NoStockError:
        pass
    else:
        return {"~1/~1/flaky": got.result(), "end": await ctx.step("end", made, 1)}
    return {"backup": await ctx.step("backup", made, "backup"), "end": await ctx.step("end", made, 1)}


@shape
async def flaky_inside(ctx: Context) -> object:
    """The error of a step inside a step, caught outside of both."""

    async def outer() -> str:
        started()
        return await ctx.step("flaky", first_time_refused)

    return await _decided(ctx, ctx.step("outer", outer), "outer")


@shape
async def flaky_then_nested(ctx: Context) -> object:
    """The first record after the failure is one below a step."""

    async def backup() -> str:
        started()
        return await ctx.step("in", made, "backup")

    try:
        return {"flaky": await ctx.step("flaky", first_time_refused)}
    except NoStockError:
        return {"backup": await ctx.step("backup", backup)}


@shape
async def flaky_then_parallel(ctx: Context) -> object:
    """The first records after the failure, of a branch, are those of branches."""
    (end,) = await ctx.all_settled(ctx.step("flaky", first_time_refused))
    if end.ok:
        return {"~1/flaky": end.value}
    both = await asyncio.gather(*(ctx.step("backup", made_later, n) for n in range(2)))
    return {f"~{n + 2}/backup": value for n, value in enumerate(both)}


async def _decided(ctx: Context, asked: object, key: str = "flaky") -> object:
    try:
        got = await asked
    except NoStockError:
        return {"backup": await ctx.step("backup", made, "backup"), "end": await ctx.step("end", made, 1)}
    return {key: got, "end": await ctx.step("end", made, 1)}


@shape
async def cleanup(ctx: Context) -> object:
    seen = []
    try:
        try:
            seen.append(await fetch("a"))
            await ctx.step("reserve", refused, "sold out")
        finally:
            seen.append(await ctx.step("release", made, "released"))
            await ctx.checkpoint("released", {"n": len(seen)})
    except NoStockError as error:
        seen.append(list(error.args))
    return [seen, await current().step("end", made, 1)]


@plain_shape
def steps(ctx: SyncContext) -> object:
    def outer() -> list:
        started()
        return [ctx.step("inner", made, 1), ctx.step("inner", made, 2)]

    values = [ctx.step("part", made, n) for n in range(2)]
    try:
        ctx.step("reserve", refused, "sold out")
    except NoStockError as error:
        values.append(list(error.args))
    ctx.checkpoint("state", {"values": values})
    return [values, ctx.step("outer", outer), ctx.restore("state")]


@plain_shape
def plain_flaky(ctx: SyncContext) -> object:
    try:
        got = ctx.step("flaky", first_time_refused)
    except NoStockError:
        return {"backup": ctx.step("backup", made, "backup"), "end": ctx.step("end", made, 1)}
    return {"flaky": got, "end": ctx.step("end", made, 1)}
