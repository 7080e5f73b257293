"""What a run leaves in Postgres: the growth of all relations, indexes and TOAST included, by the mean of many runs.

The runs go the whole way of a step, in true runners and sidecars, forked of one process that has imported them.
"""

import asyncio
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from signal import SIGTERM

from e2e.bench.bars import Bar
from milepost_operator.domain.runs import PodSession
from tests.benchmarks.rig import HOST, Rig
from tests.crashpoints.rig import Zygote, zygote
from tests.integration.engine import apply_task, launch, trigger

RUNS = 100
AT_ONCE = 2
POD_SECONDS = 120
STEPS_KB = 40.0
HISTORY_KB = 100.0

TASK = '''
import random

from milepost import Context, task


def text(number: int, size: int) -> str:
    """What does not repeat itself: no compression makes it look small."""
    return random.Random(number).randbytes(size // 2).hex()


@task(id="sized")
async def main(ctx: Context, steps: int, checkpoints: int) -> int:
    """Steps of 200 bytes, or checkpoints of a history that grows by 500 bytes each time."""
    for number in range(steps):
        await ctx.step(f"s{number}", text, number, 198)
    history = []
    for number in range(checkpoints):
        history.append({"role": "assistant", "content": text(number, 462)})
        await ctx.checkpoint("history", history)
    return len(history)
'''
SHAPES = (
    ("steps_200b", {"steps": 100, "checkpoints": 0}, STEPS_KB),
    ("growing_history", {"steps": 0, "checkpoints": 100}, HISTORY_KB),
)


async def measure(rig: Rig, runs: int = RUNS) -> Sequence[Bar]:
    """KB (1,000 bytes) a run."""
    await apply_task(rig.store, "sized", shape={"source": {"inline": TASK}})
    bars = []
    async with zygote() as forks:
        for name, given, target in SHAPES:
            await _runs(rig, forks, given, 1)  # tables and indexes have their first pages
            before = await relations(rig)
            await _runs(rig, forks, given, runs)
            after = await relations(rig)
            grown = {table: (size - before.get(table, 0)) / runs / 1000 for table, size in after.items()}
            told = sorted(((kb, table) for table, kb in grown.items() if kb >= 0.5), reverse=True)
            print(f"{name}: " + ", ".join(f"{table} {kb:.1f} KB" for kb, table in told) + f" a run, of {runs}")
            bars.append(Bar(f"{name}_per_run", sum(grown.values()), "KB", target))
    return bars


async def relations(rig: Rig) -> dict[str, int]:
    """Bytes of each table with its indexes and its TOAST."""
    rows = await rig.store._db.fetch(
        "select c.relname as name, pg_total_relation_size(c.oid) as bytes from pg_class c"
        " join pg_namespace n on n.oid = c.relnamespace"
        " where c.relkind = 'r' and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast')"
    )
    return {row["name"]: row["bytes"] for row in rows}


async def _runs(rig: Rig, forks: Zygote, given: dict[str, int], count: int) -> None:
    for first in range(0, count, AT_ONCE):  # as many as have a pod at once: a pod that waits loses its attempt
        for _ in range(min(AT_ONCE, count - first)):
            await trigger(rig.store, "sized", input=json.dumps(given))
        while await _live(rig):  # the api admits too: pods may be wanted a moment later
            await asyncio.gather(*(_pod(rig, forks, session) for session in await launch(rig.store)))


async def _live(rig: Rig) -> int:
    """How many have not ended. RuntimeError when one ended badly."""
    rows = await rig.store._db.fetch("select state, count(*) as n from runs where state <> 'succeeded' group by state")
    left = {row["state"]: row["n"] for row in rows}
    if "failed" in left:
        raise RuntimeError(f"runs failed: {left}")
    return sum(left.values())


async def _pod(rig: Rig, forks: Zygote, session: PodSession) -> None:
    home = Path(tempfile.mkdtemp(prefix="mp-"))  # a socket's path has to be short
    (home / "token").write_text(f"token-of-{session.pod_id}")
    env = {
        "PATH": os.environ["PATH"],
        "MILEPOST_API_URL": f"https://{HOST}:{rig.port}",
        "MILEPOST_CA": rig.ca.read_text(),
        "MILEPOST_POD_ID": session.pod_id,
        "MILEPOST_SOCKET": str(home / "s.sock"),
        "MILEPOST_TOKEN_FILE": str(home / "token"),
    }
    sidecar, ended = await forks.start("milepost.sidecar", env, home)
    _, code = await forks.start("milepost.runner", env, home)
    async with asyncio.timeout(POD_SECONDS):
        if await code:
            raise RuntimeError((home / "log").read_text())
    with suppress(ProcessLookupError):
        os.kill(sidecar, SIGTERM)
    await ended
    shutil.rmtree(home)
