"""A run with many recorded steps: how long an attempt takes from its fork to behind them, and a step's share."""

import asyncio
import json
from collections.abc import Sequence
from statistics import median

from e2e.bench.bars import Bar
from milepost_operator.domain.runs import Retry
from tests.benchmarks.rig import Rig
from tests.benchmarks.sdk.imports import with_byte_code
from tests.integration.engine import NS, apply_task, launch, trigger

STEPS = 1000
RESUMES = 5
RESUME_MS = 50.0
STEP_US = 30.0
BYTES = 100
SECONDS = 300

TASK = '''
import os
import time

from milepost import Context, task

FORKED = []
os.register_at_fork(after_in_child=lambda: FORKED.append(time.perf_counter()))


def value(size: int) -> str:
    return "x" * size


@task(id="resumes")
async def main(ctx: Context, steps: int, size: int, resumes: int):
    """Of each resume: seconds from the fork of its process to this line, from here to behind the steps, and of CPU."""
    entered, busy = time.perf_counter(), time.process_time()
    for number in range(steps):
        await ctx.step(f"s{number}", value, size)
    passed, done = time.perf_counter(), time.process_time()
    if ctx.run.attempt == 1:
        os._exit(9)
    found = await ctx.restore("found", [])
    found.append([entered - FORKED[-1], passed - entered, busy, done - busy])
    await ctx.checkpoint("found", found)
    if len(found) < resumes:
        os._exit(9)
    return found
'''


async def measure(rig: Rig, steps: int = STEPS, resumes: int = RESUMES) -> Sequence[Bar]:
    """The median of the resumes; the first attempt records the steps."""
    retry = Retry(max_attempts=100, min_seconds=0.0, max_seconds=0.0)
    await apply_task(rig.store, "resumes", shape={"source": {"inline": TASK}}, retry=retry)
    given = {"steps": steps, "size": BYTES, "resumes": resumes}
    run_id = str((await trigger(rig.store, "resumes", input=json.dumps(given))).run_id)
    log = ""
    async with asyncio.timeout(SECONDS):
        while (run := await rig.store.get_run(NS, run_id)).state not in {"succeeded", "failed"}:
            for session in await launch(rig.store):  # the api admits too: a pod may be wanted a moment later
                pod = await rig.pod(session)
                pod.env = with_byte_code(pod.env, rig.home / "compiled")
                await pod.run()
                log = pod.log.read_text()
    if run.state != "succeeded" or run.result is None:
        raise RuntimeError(f"the run is {run.state}\n{log}")
    found = json.loads(run.result)
    before, through, cpu_before, cpu_through = (median(one[part] for one in found) for part in range(4))
    print(f"resume: fork to the task's first line {before * 1000:.1f} ms, from there behind {steps} steps"
          f" {through * 1000:.1f} ms (medians of {len(found)})")  # fmt: skip
    total = median(one[0] + one[1] for one in found)
    return [
        Bar(f"resume_{steps}_steps", total * 1000, "ms", RESUME_MS),
        Bar("resume_cpu_of_task", (cpu_before + cpu_through) * 1000, "ms"),
        Bar("recorded_step", through / steps * 1e6, "us", STEP_US),
        Bar("recorded_step_cpu", cpu_through / steps * 1e6, "us"),
    ]
