"""What the records of a run take in Postgres, indexes and TOAST included: `python -m tests.benchmarks.sizes`.

Kilobytes for each run, mean of 100: 100 steps that return 200 bytes, and 100 checkpoints of a history that grows by
500 bytes; of text that does not compress, with keys and fingerprints as the SDK makes them.
"""

import argparse
import asyncio
import json
import platform
import sys
import tempfile
from binascii import b2a_base64
from collections.abc import Iterator
from pathlib import Path
from random import Random

from e2e.bench.bars import Bar, machine, show
from milepost.net.messages import unique_id
from milepost.sidecar.bases import Bases
from milepost.wire.pod import RecordsRequest, RecordWrite
from milepost_operator.adapters.postgres.migrate import migrate
from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.settings import Settings
from tests.benchmarks.rig import _until_up, postgres
from tests.integration.engine import Pod, apply_task, next_pod, told, trigger

RUNS = 100
RECORDS = 100
STEP_BYTES, TURN_BYTES = 200, 500
STEPS_KB, HISTORY_KB = 40.0, 100.0
_RANDOM = Random(7)


def words(size: int) -> str:
    """Text of so many letters that does not compress."""
    return b2a_base64(_RANDOM.randbytes(size), newline=False).decode()[:size]


def steps() -> Iterator[RecordWrite]:
    """Calls of one step in a loop."""
    for number in range(1, RECORDS + 1):
        key = "work" if number == 1 else f"work#{number}"
        yield RecordWrite(unique_id(), "step", key, json.dumps(words(STEP_BYTES - 2)), None, f"{number}(5c8f1a22)")


def history() -> Iterator[RecordWrite]:
    """Versions of one checkpoint."""
    turns: list[dict[str, str]] = []
    for _ in range(RECORDS):
        turns.append({"role": "user", "content": words(TURN_BYTES - len('{"role":"user","content":""},'))})
        yield RecordWrite(unique_id(), "checkpoint", "history", json.dumps(turns, separators=(",", ":")))


async def measured(settings: Settings, what: str, runs: int) -> float:
    """Kilobytes of a run. `settings`: of a database without runs."""
    async with PostgresStore.open(settings) as store:
        await apply_task(store)
        query = "select pg_total_relation_size('records')::float8 as size"
        ((before,),) = await store._db.fetch(query)
        for _ in range(runs):
            await trigger(store)
            await write(await next_pod(store), what)
        ((after,),) = await store._db.fetch(query)
        return float(after - before) / runs / 1000


async def write(pod: Pod, what: str) -> None:
    """All records of a run, one by one, as a sidecar sends them."""
    bases = Bases()
    for record in steps() if what == "steps" else history():
        sent = bases.shortened(record)
        (answer,) = await pod.store.append([(pod.session, RecordsRequest(pod.fence, [sent]))])
        bases.committed(record, sent, told(answer)[0], 0)
    await pod.succeed()


async def _main(runs: int) -> bool:
    print(f"machine: {machine()}, CPython {platform.python_version()}")
    bars = []
    for what, target in (("steps", STEPS_KB), ("history", HISTORY_KB)):
        with tempfile.TemporaryDirectory(prefix="milepost-bench-") as name, postgres(Path(name)) as server:
            settings = Settings(database_url=server.url, database_ca_file=server.ca)
            await _until_up(settings)
            await migrate(settings)
            bars.append(Bar(f"{what}_kb", await measured(settings, what, runs), "KB", target))
    return show(bars)


def main() -> int:
    """Print the figures; 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS)
    return 0 if asyncio.run(_main(parser.parse_args().runs)) else 1


if __name__ == "__main__":
    sys.exit(main())
