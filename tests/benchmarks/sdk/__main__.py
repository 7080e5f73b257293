"""Measure the SDK's bars, then its peers on the same machine, and print what scripts read: `bar …` lines."""

import argparse
import asyncio
import os
import platform
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from e2e.bench.bars import Bar, machine, show
from tests.benchmarks import steps, writers
from tests.benchmarks.rig import Rig, running
from tests.benchmarks.sdk import imports, resume, sizes, theirs

WRITERS = 64
PEER_RUNS = 20
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
PARTS = ("import", "steps", "resume", "sizes", "writers", "peers")


def parts(given: argparse.Namespace) -> dict[str, Callable[[Rig], Awaitable[Sequence[Bar]]]]:
    return {
        "steps": lambda rig: steps.latency(rig, given.steps),
        "resume": resume.measure,
        "sizes": lambda rig: sizes.measure(rig, given.runs),
        "writers": lambda rig: writers.throughput(rig, WRITERS),
    }


async def measured(given: argparse.Namespace) -> bool:
    """Each part on a database and an api of its own, its bars told at once. Whether all of them hold."""
    chosen, bars, told = given.only or PARTS, list[Bar](), False
    if "import" in chosen:
        bars += imports.measure()
        show(bars)
    for name, part in parts(given).items():
        if name in chosen:
            async with running() as rig:
                told = told or await _print_versions(rig)
                found = await part(rig)
            show(found)
            bars += found
    scores = {}
    if "peers" in chosen:
        async with running() as rig:
            work = theirs.Work(given.steps, steps.BYTES, resume.STEPS, min(given.runs, PEER_RUNS))
            scores = await theirs.measure(rig, work, given.peers)
    _print_table(bars, scores)
    ours = {bar.name: bar for bar in bars}
    for name, score in scores.items():
        if score.p50 and "step_p50" in ours:
            aim = 1.0 if name == "restate" else None
            ratio = Bar(f"step_to_{name}", ours["step_p50"].value / score.p50, "ratio", aim)
            show([ratio])
            bars.append(ratio)
    return all(bar.ok for bar in bars)


async def _print_versions(rig: Rig) -> bool:
    (row,) = await rig.store._db.fetch("select version() as v, current_setting('ssl') as tls")
    print(f"versions: {row['v'].split(' (')[0]} (TLS {row['tls']}), CPython {platform.python_version()}")
    return True


def _print_table(bars: Sequence[Bar], scores: dict[str, theirs.Score]) -> None:
    """Side by side: the parts that they do too."""
    values = {bar.name: bar.value for bar in bars}
    names = ("step_p50", "step_p99", "recorded_step", "steps_200b_per_run", "import")
    ours = theirs.Score(*(values.get(name) for name in names))
    pins = dict(line.split("==") for line in REQUIREMENTS.read_text().splitlines() if "==" in line)
    titles = {"dbos": f"dbos {pins['dbos']}", "absurd": f"absurd {pins['absurd-sdk']}",
              "restate": f"restate {theirs.SERVER[0].rpartition('@')[2]}"}  # fmt: skip
    print(f"{'':<18}{'step p50 ms':>14}{'p99 ms':>10}{'recorded us':>14}{'KB/100 steps':>14}{'import ms':>12}")
    for name, score in {"milepost": ours, **scores}.items():
        cells = (score.p50, score.p99, score.recorded_us, score.run_kb, score.import_ms)
        shown = ["-" if cell is None else f"{cell:.2f}" for cell in cells]
        print(f"{titles.get(name, name):<18}{shown[0]:>14}{shown[1]:>10}{shown[2]:>14}{shown[3]:>14}{shown[4]:>12}")
    print("steps in a row: ours task to sidecar to api to commit over TLS, dbos and absurd in their process straight to"
          " Postgres, restate through its server with its defaults")  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.sdk", description=__doc__)
    parser.add_argument("--only", nargs="*", choices=PARTS, help="parts; all if none")
    parser.add_argument("--peers", nargs="*", choices=theirs.NAMES, default=theirs.NAMES)
    parser.add_argument("--steps", type=int, default=steps.STEPS, help="in a row")
    parser.add_argument("--runs", type=int, default=sizes.RUNS, help="whose rows are weighed")
    parser.add_argument("--strict", action="store_true", help="exit code 1 when a bar is missed")
    given = parser.parse_args()
    print(f"machine: {machine()}, load {os.getloadavg()[0]:.1f}", flush=True)
    met = asyncio.run(measured(given))
    return int(given.strict and not met)


if __name__ == "__main__":
    sys.exit(main())
