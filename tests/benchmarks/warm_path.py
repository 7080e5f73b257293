"""From the commit of an HTTP trigger to the first line of the task in a pod that waits, without a cluster:
`python -m tests.benchmarks.warm_path`.

The true api process with TLS and its duties on a Postgres with fsync, and pods of a true sidecar and runner each; runs
come at random moments, whatever becomes of those before them (`--rate`, `--runs`). The hops are told apart by stamps
of Postgres.
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence

import uvloop

from e2e.bench.arrivals import moments
from e2e.bench.bars import Bar, machine, percentile, show
from e2e.bench.programs import NOOP
from milepost_operator.domain.runs import PodSession
from tests.benchmarks.dispatch import PATIENCE, WARM, Feeder, client, until_idle
from tests.benchmarks.rig import Rig, running
from tests.integration.engine import apply_task

BAR_P50, BAR_P99 = 25.0, 100.0  # milliseconds
HOPS = """
select r.run_id::text as id, extract(epoch from a.reserved_at - r.created_at)::float8 as admitted,
       extract(epoch from a.started_at - r.created_at)::float8 as dispatched,
       (r.result #>> '{}')::float8 - extract(epoch from r.created_at)::float8 as line
from runs r join attempts a on a.run_id = r.run_id where r.state = 'succeeded' and a.cold_reason is null
"""


async def bring_up(rig: Rig, session: PodSession) -> None:
    """A pod at its first attempt, which stays after it."""
    pod = await rig.pod(session)
    scratch = pod.home / "scratch"
    scratch.mkdir()
    pod.env |= {"MILEPOST_SCRATCH": str(scratch), "MILEPOST_REUSABLE": "true"}
    await pod.start_sidecar()
    await pod.start_runner()


async def measure(pods: int, rate: float, runs: int) -> Sequence[Bar]:
    async with running() as rig:
        await apply_task(rig.store, warm=WARM, shape={"source": {"inline": NOOP}})
        for session in await rig.sessions(pods):
            await bring_up(rig, session)
        await until_idle(rig, pods)
        feeder = Feeder(client(rig, keep=32))
        await feeder.feed(list(moments(rate, runs, seed=1)))
        await until_idle(rig, pods)
        async with asyncio.timeout(PATIENCE):
            while len(rows := await rig.store._db.fetch(HOPS)) < runs:  # noqa: ASYNC110  the rows have no event for it
                await asyncio.sleep(0.1)
    hops = {name: [row[name] * 1000 for row in rows] for name in ("admitted", "dispatched", "line")}
    print(f"{runs} runs at {rate:g}/s into {pods} pods, sent late by at most {max(feeder.late) * 1000:.1f} ms")
    bars = [
        Bar(f"{name}_{n}", percentile(hops[name], n), "ms") for name in ("admitted", "dispatched") for n in (50, 99)
    ]
    return [*bars, Bar("line_50", percentile(hops["line"], 50), "ms", BAR_P50),
            Bar("line_99", percentile(hops["line"], 99), "ms", BAR_P99)]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pods", type=int, default=4)
    parser.add_argument("--rate", type=float, default=1.0)
    parser.add_argument("--runs", type=int, default=60)
    given = parser.parse_args()
    print(machine())
    return 0 if show(uvloop.run(measure(given.pods, given.rate, given.runs))) else 1


if __name__ == "__main__":
    sys.exit(main())
