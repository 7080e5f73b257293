"""The price of a durable step, task to sidecar to api to commit: `python -m tests.benchmarks.steps`.

CPU time of each process tells more than the clock on a machine that others use too.
"""

import argparse
import asyncio
import json
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from e2e.bench.bars import Bar, machine, percentile, show
from tests.benchmarks.rig import Rig, running
from tests.benchmarks.writers import throughput
from tests.integration.engine import apply_task

STEPS = 500
BYTES = 100
WARM = 20  # the first ones open connections and fill caches
P50_MS, P99_MS = 1.5, 6.0
SIDECAR_MIB = 30.0

TASK = '''
import json
import os
import time
from pathlib import Path

from milepost import Context, task


def busy(pid):
    """Nanoseconds of CPU that all threads of a process have had."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(each.read_text().split()[0]) for each in threads)


def family(pid):
    return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


@task(id="steps")
async def main(ctx: Context, steps: int, size: int, warm: int):
    """How many milliseconds each of so many steps took, and the microseconds of CPU that processes spent on one."""
    value = "x" * size
    pids = json.loads(Path("pids").read_text())
    groups = {name: [pid] for name, pid in pids.items()} | {"task": [os.getpid()]}
    groups["postgres"] = family(pids["postgres"])
    found = {}
    for kind in ("step", "checkpoint"):
        took = []
        for number in range(steps + warm):
            if number == warm:
                before = {name: sum(map(busy, group)) for name, group in groups.items()}
            begun = time.perf_counter()
            if kind == "step":
                await ctx.step(f"s{number}", str, value)
            else:
                await ctx.checkpoint("c", value)
            took.append(round((time.perf_counter() - begun) * 1000, 4))
        after = {name: sum(map(busy, group)) for name, group in groups.items()}
        cpu = {name: (after[name] - before[name]) / steps / 1000 for name in groups}
        found[kind] = {"took": took[warm:], "cpu": cpu}
    return found
'''


async def latency(rig: Rig, steps: int) -> Sequence[Bar]:
    """Steps, then checkpoints, one after the other, as one task writes them."""
    await apply_task(rig.store, shape={"source": {"inline": TASK}})
    given = {"steps": steps, "size": BYTES, "warm": WARM}
    (session,) = await rig.sessions(1, input=json.dumps(given))
    pod = await rig.pod(session)
    sidecar = await pod.start_sidecar()
    pids = {"api": rig.api.pid, "sidecar": sidecar.pid, "postgres": rig.server.pid}
    (pod.home / "pids").write_text(json.dumps(pids))
    before = await rig.samples()
    runner = await pod.start_runner()
    memory = 0.0
    while runner.returncode is None:
        memory = max(memory, _pss(sidecar.pid))
        await asyncio.sleep(0.25)
    if runner.returncode:
        raise RuntimeError(pod.log.read_text())
    after = await rig.samples()
    run = await rig.store._db.fetchrow("select result from runs")
    if run is None:
        raise RuntimeError("no run")
    _tell_api(before, after)
    return [*_bars(json.loads(run["result"])), Bar("sidecar_pss", memory, "MiB", SIDECAR_MIB)]


def _bars(result: Mapping[str, Mapping[str, object]]) -> list[Bar]:
    bars: list[Bar] = []
    for kind, targets in (("step", (P50_MS, P99_MS)), ("checkpoint", (None, None))):
        took, cpu = result[kind]["took"], result[kind]["cpu"]
        if not isinstance(took, list) or not isinstance(cpu, dict):
            raise TypeError(result)
        bars.append(Bar(f"{kind}_p50", percentile(took, 50), "ms", targets[0]))
        bars.append(Bar(f"{kind}_p99", percentile(took, 99), "ms", targets[1]))
        spent = " ".join(f"{name} {us:.0f}" for name, us in sorted(cpu.items()))
        print(f"CPU us per {kind}: {spent}, together {sum(cpu.values()):.0f}")
    return bars


def _tell_api(before: Mapping[str, float], after: Mapping[str, float]) -> None:
    """Where the api's own clock says that the time goes."""
    request = 'milepost_http_request_duration_seconds_{}{{method="POST",route="/pod/v1/records",status="200"}}'
    commit = 'milepost_batch_commit_duration_seconds_{}{{batch="records"}}'
    for what, name in (("request", request), ("of it commit", commit)):
        total, count = (after.get(name.format(p), 0) - before.get(name.format(p), 0) for p in ("sum", "count"))
        print(f"api: {what} {total / max(count, 1) * 1000:.2f} ms on average of {count:.0f}")


def _pss(pid: int) -> float:
    found = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0


async def _main(steps: int, writers: int) -> bool:
    print(f"machine: {machine()}")
    async with running() as rig:
        (row,) = await rig.store._db.fetch("select version() as v, current_setting('ssl') as tls")
        print(f"versions: {row['v'].split(' (')[0]} (TLS {row['tls']}), CPython {platform.python_version()}")
        return show(await throughput(rig, writers) if writers else await latency(rig, steps))


def main() -> int:
    """Print the figures; 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--writers", type=int, default=0, metavar="N", help="N sidecars at once instead (aim: 64)")
    given = parser.parse_args()
    return 0 if asyncio.run(_main(given.steps, given.writers)) else 1


if __name__ == "__main__":
    sys.exit(main())
