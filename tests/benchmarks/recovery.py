"""How soon a run whose worker was killed is claimed again: `python -m tests.benchmarks.recovery [--runs 20]`.

The true api process with its duties and the chart's lease. A worker that goes silent right after a heartbeat is noticed
by its lease; one whose pod's death the leader reports (`pod_ended`, as its informer has it call) at once.
"""

import argparse
import asyncio
import random
import sys

import uvloop

from e2e.bench.bars import Bar, machine, percentile, show
from milepost.wire.pod import Fence, HeartbeatRequest, Start
from milepost_operator.domain.runs import Ending, PodSession
from milepost_operator.domain.states import Reason
from tests.benchmarks.rig import Rig, running
from tests.integration.engine import apply_task, lose, told

AGAIN = "select extract(epoch from reserved_at) from attempts where run_id = $1 and attempt = $2"
SEEN_BAR = 2.0
SWEEP_BAR = 1.0
LOST = Ending(Reason.POD_LOST, "killed", counted=False, infra=True)


async def now(rig: Rig) -> float:
    (row,) = await rig.store._db.fetch("select extract(epoch from clock_timestamp())")
    return float(row[0])


async def again(rig: Rig, start: Start, patience: float) -> float:
    """When its next attempt was reserved (epoch seconds)."""
    async with asyncio.timeout(patience):
        while True:
            rows = await rig.store._db.fetch(AGAIN, start.run_id, start.attempt + 1)
            if rows:
                return float(rows[0][0])
            await asyncio.sleep(0.1)


async def silent(rig: Rig, session: PodSession, after: float) -> float:
    """Seconds from its last heartbeat until the run is claimed again."""
    start = told((await rig.store.start([session]))[0])
    fence = Fence(start.run_id, start.attempt, start.token)
    await asyncio.sleep(after)
    told((await rig.store.beat([(session, HeartbeatRequest(fence))]))[0])
    killed = await now(rig)
    return await again(rig, start, 3 * rig.settings.lease_seconds) - killed


async def seen(rig: Rig, session: PodSession) -> float:
    """Seconds from the leader's word until the run is claimed again."""
    start = told((await rig.store.start([session]))[0])
    killed = await now(rig)
    await lose(rig.store, session.pod_id, LOST)
    return await again(rig, start, 20.0) - killed


async def measure(count: int) -> list[Bar]:
    async with running() as rig:
        await apply_task(rig.store)
        by_word = [await seen(rig, session) for session in await rig.sessions(count)]
        sessions = await rig.sessions(count)
        spread = random.Random(1)
        waits = [spread.uniform(0.0, 2.0) for _ in sessions]
        by_lease = await asyncio.gather(*[silent(rig, s, w) for s, w in zip(sessions, waits, strict=True)])
        lease = rig.settings.lease_seconds
    print(f"{count} workers each; lease {lease:g} s")
    return [
        Bar("claimed_again_seen_p50", percentile(by_word, 50), "s"),
        Bar("claimed_again_seen_worst", max(by_word), "s", SEEN_BAR),
        Bar("claimed_again_silent_p50", percentile(by_lease, 50), "s"),
        Bar("claimed_again_silent_worst", max(by_lease), "s", lease + SWEEP_BAR),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    print(machine())
    return 0 if show(uvloop.run(measure(parser.parse_args().runs))) else 1


if __name__ == "__main__":
    sys.exit(main())
