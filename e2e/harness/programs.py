"""Tasks that the scenarios run, as inline source. Each reports to the counting Service what it executes."""

REPORT = """
import json
import os
import time
import urllib.error
import urllib.request

from milepost import Context, task


def tell(ctx: Context, phase: str, step: str = "") -> None:
    event = {"run": ctx.run.id, "attempt": ctx.run.attempt, "phase": phase, "step": step, "pod": os.uname().nodename}
    request = urllib.request.Request(os.environ["COUNTING_URL"], json.dumps(event).encode())
    for patience in (0.2, 0.5, 1.0, 2.0, None):
        try:
            urllib.request.urlopen(request, timeout=5).close()
        except urllib.error.URLError:
            if patience is None:
                raise
            time.sleep(patience)
        else:
            return
"""

STEPS = (
    REPORT
    + '''

def work(ctx: Context, number: int, key: str, seconds: float, hog_at: int) -> int:
    tell(ctx, "start", key)
    if number == hog_at and ctx.run.attempt == 1:
        return len([bytearray(b"x") * 2**20 for _ in range(4096)])
    time.sleep(seconds)
    return number


@task(id="steps")
async def main(ctx: Context, steps: int = 20, seconds: float = 0.3, hog_at: int = -1) -> dict[str, int]:
    """Short steps one after the other; with `hog_at` the first attempt goes over its memory there."""
    tell(ctx, "begin")
    total = 0
    for number in range(steps):
        key = f"step-{number:03}"
        total += await ctx.step(key, work, ctx, number, key, seconds, hog_at)
        tell(ctx, "acked", key)
    tell(ctx, "end")
    return {"total": total}
'''
)

QUICK = """
from milepost import Context, task


@task(id="quick")
async def main(ctx: Context) -> str:
    return "done"
"""

ONE_SPAN = (
    REPORT
    + '''

@task(id="span")
async def main(ctx: Context, seconds: float = 0.2) -> str:
    """Say when user code begins and ends, and nothing else."""
    tell(ctx, "begin")
    time.sleep(seconds)
    tell(ctx, "end")
    return "done"
'''
)

PLACE = '''
import os
import time

from milepost import Context, task

IMPORTED = time.time()


@task(id="place")
async def main(ctx: Context, seconds: float = 0.0) -> dict[str, str | int | float]:
    """Tell where this ran: the pod, the process, and when its module was imported."""
    time.sleep(seconds)
    return {"pod": os.uname().nodename, "process": os.getpid(), "imported": IMPORTED}
'''

BAD_VALUES = '''
"""Hand the SDK what no JSON can hold, and tell what it says of it; the good checkpoint before must stay."""
import math

from milepost import MISSING, Context, task


class Connection:
    pass


LOOP: list[object] = []
LOOP.append(LOOP)
CASES = {
    "instance": {"db": Connection()},
    "function": {"call": print},
    "loop": LOOP,
    "nan": {"x": [1.0, math.nan]},
    "nul": {"text": "a\\x00b"},
    "surrogate": {"text": "\\ud800"},
    "big-int": {"n": 2**70},
    "too-large": {"small": 1, "big": "x" * 1_100_000},
    "bytes-key": {b"k": 1},
}


@task(id="bad-values")
async def main(ctx: Context) -> dict[str, str]:
    await ctx.checkpoint("good", {"n": 1})
    said = {}
    for name, value in CASES.items():
        try:
            await ctx.checkpoint("good", value)
        except Exception as error:
            said[name] = f"{type(error).__name__}: {error}"
        else:
            said[name] = "taken"
    said["restored"] = str((await ctx.restore("good")) == {"n": 1})
    return said
'''

TOO_LARGE_RESULT = """
from milepost import Context, task


@task(id="too-large")
async def main(ctx: Context) -> str:
    return "x" * 1_200_000
"""

NOT_A_TASK = """
def main() -> str:
    return "an ordinary function"
"""

NO_IMPORT = """
import a_module_that_is_nowhere
"""
