"""What a task notices of others on its node that want all there is: a piece of work, timed in calm and in the storm."""

import time
from collections.abc import Sequence

from e2e.bench.bars import Bar, percentile
from e2e.harness.lab import Lab, Run, wait_all
from e2e.scenarios import bombs

CALM_SECONDS = 10.0
STORM_SECONDS = 20.0
TARGET = 2.0  # times as long
ONCE = {"maxAttempts": 1}
LIMITS = {"cpu": "1", "memory": "512Mi", "ephemeral-storage": "32Mi"}

WORK = '''
import hashlib
import time

from milepost import Context, task

BLOCK = bytes(2**20)


@task(id="neighbour")
async def main(ctx: Context, seconds: float) -> list[list[float]]:
    """A few milliseconds of work, again and again: when each began, and how long it took."""
    until, found = time.time() + seconds, []
    while (now := time.time()) < until:
        began = time.perf_counter()
        hashlib.sha256(BLOCK).digest()
        found.append([now, time.perf_counter() - began])
        time.sleep(0.02)
    return found
'''


def measure(lab: Lab) -> Sequence[Bar]:
    """Calm, then a fork bomb, a memory hog, a disk filler and two spinners at once, in pods with the usual limits."""
    seconds = CALM_SECONDS + STORM_SECONDS
    lab.task("neighbour", WORK)
    sources = {"forks": bombs.FORKS, "memory": bombs.MEMORY, "disk": bombs.DISK, "spin": bombs.SPIN}
    for name, source in sources.items():
        requests = {"cpu": "50m", "memory": "128Mi"}
        lab.task(name, source, resources={"requests": requests, "limits": LIMITS}, retry=ONCE)
    run = lab.run("neighbour", given={"seconds": seconds + 10})
    run.live()
    time.sleep(CALM_SECONDS)
    storm = time.time()
    others = [lab.run(name) for name in ("forks", "memory", "disk")]
    others += [lab.run("spin", given={"seconds": STORM_SECONDS}) for _ in range(2)]
    time.sleep(STORM_SECONDS)
    run.wait("Succeeded", timeout=90)
    wait_all(others, lambda state: state in {"succeeded", "failed"}, timeout=120)
    calm, stormy = timings(run, storm)
    return [
        Bar("work_p50_calm", percentile(calm, 50) * 1000, "ms"),
        Bar("work_p50_storm", percentile(stormy, 50) * 1000, "ms"),
        Bar("work_p99_calm", percentile(calm, 99) * 1000, "ms"),
        Bar("work_p99_storm", percentile(stormy, 99) * 1000, "ms"),
        Bar("neighbour_p50_ratio", percentile(stormy, 50) / percentile(calm, 50), "x", TARGET),
    ]


def timings(run: Run, storm: float) -> tuple[list[float], list[float]]:
    """Before the storm, and in it."""
    found = run.result()
    if not isinstance(found, list):
        raise TypeError(f"{run.name} has no list of timings")
    calm = [took for began, took in found if began < storm]
    return calm, [took for began, took in found if storm <= began < storm + STORM_SECONDS]
