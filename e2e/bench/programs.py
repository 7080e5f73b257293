"""Tasks that measure themselves. One machine, one clock: `time.time()` in a pod and in Postgres are the same."""

CLOCK = '''
import time

BEGAN = time.time()

from milepost import Context, task


@task(id="clock")
async def main(ctx: Context) -> float:
    """Tell when the first line of user code ran."""
    return BEGAN
'''

NOOP = '''
import asyncio
import time

from milepost import Context, task


@task(id="noop")
async def main(ctx: Context, seconds: float = 0.0) -> float:
    """Tell when the first line of the task ran: its module may have been imported long before."""
    began = time.time()
    if seconds:
        await asyncio.sleep(seconds)
    return began
'''

FRAGILE = '''
import asyncio

from milepost import Context, task


@task(id="fragile")
async def main(ctx: Context, fragile: bool = False) -> str:
    """Wait to be killed, unless somebody was already; without `fragile` only hold the pod for a moment."""
    await ctx.step("progress", int)
    if fragile and ctx.run.attempt == 1:
        await asyncio.sleep(600)
    if not fragile:
        await asyncio.sleep(2)
    return "done"
'''

STEPS = '''
import time

from milepost import Context, task


@task(id="durable-steps")
async def main(ctx: Context, steps: int, size: int) -> list[float]:
    """Tell how many milliseconds each of so many steps took, until it was acknowledged."""
    value = "x" * size
    took = []
    for number in range(steps):
        begun = time.perf_counter()
        await ctx.step(f"s{number}", str, value)
        took.append(round((time.perf_counter() - begun) * 1000, 4))
    return took
'''

CHECKPOINTS = '''
import time

from milepost import Context, task


@task(id="durable-checkpoints")
async def main(ctx: Context, steps: int, size: int) -> list[float]:
    """The same for checkpoints: no thread, no function, only the way to Postgres and back."""
    value = "x" * size
    took = []
    for number in range(steps):
        begun = time.perf_counter()
        await ctx.checkpoint("c", value)
        took.append(round((time.perf_counter() - begun) * 1000, 4))
    return took
'''

RESUME = '''
import asyncio
import time

BEGAN = time.time()

from milepost import Context, task


@task(id="resume")
async def main(ctx: Context) -> float:
    """Wait to be killed; the next attempt tells when it began."""
    await ctx.step("progress", int)
    if ctx.run.attempt == 1:
        await asyncio.sleep(600)
    return BEGAN
'''
