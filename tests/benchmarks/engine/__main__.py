"""Measure all of them, print the table and the bars."""

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from tests.benchmarks.engine.server import Cost, Meter, running
from tests.benchmarks.peers import TOOLS, environment
from tests.postgres import binaries

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
ALL_AT_ONCE = 5000
PHASE_SECONDS = 600


@dataclass(frozen=True)
class Contestant:
    """`concurrencies`: those that its drain is tried with, the best of which counts. `script`: how it is run."""

    name: str
    package: str | None
    concurrencies: Sequence[int]
    script: Sequence[str]


@dataclass
class Score:
    """Jobs a second; None: the peer has no such thing. `best`: the concurrency of the best drain."""

    enqueue: float | None = None
    bulk: float | None = None
    drain: float | None = None
    best: int = 0
    costs: dict[str, Cost] = field(default_factory=dict)


def contestants() -> list[Contestant]:
    module = (sys.executable, "-m")
    peer = str(TOOLS / "peers" / "bin" / "python")
    theirs = {
        "pgqueuer": (10, 100),
        "procrastinate": (10, 20),
        "awa-pg": (64, 200),
        "absurd-sdk": (10, 50),
        "dbos": (20,),
    }
    return [
        Contestant("plain SQL", None, (100,), (*module, "tests.benchmarks.engine.plain")),
        Contestant("milepost", None, (50, 100), (*module, "tests.benchmarks.engine.ours")),
        *[
            Contestant(name, name, tries, (peer, str(HERE / "peers" / f"peer_{name.partition('-')[0]}.py")))
            for name, tries in theirs.items()
        ],
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.engine", description=__doc__)
    parser.add_argument("--jobs", type=int, default=4000, help="single enqueues, and jobs of each drain")
    parser.add_argument("--only", nargs="*", help="names of contestants")
    parser.add_argument("--directory", type=Path, help="where the database lies (its disk is measured)")
    parser.add_argument("--strict", action="store_true", help="exit code 1 when a bar is missed")
    given = parser.parse_args()
    environment(HERE / "requirements.txt")
    chosen = [c for c in contestants() if not given.only or c.name in given.only]
    scores = asyncio.run(_measure(chosen, given.jobs, given.directory))
    _print_table(chosen, scores)
    met = _print_bars(scores)
    return int(given.strict and not met)


async def _measure(chosen: Sequence[Contestant], jobs: int, directory: Path | None) -> dict[str, Score]:
    scores: dict[str, Score] = {}
    async with running(directory) as server:
        _print_machine(server.home)
        meter = Meter(server)
        for one in chosen:
            scores[one.name] = await _score(one, jobs, meter)
            print(f"  {one.name}: done", flush=True)
    return scores


async def _score(one: Contestant, jobs: int, meter: Meter) -> Score:
    score = Score()
    for phase, count in (("enqueue", jobs), ("bulk", ALL_AT_ONCE)):
        database = await _database(one, meter)
        rate, cost = await _phase(one, meter, database, phase, jobs=count)
        setattr(score, phase, rate)
        if rate is not None and cost is not None:
            score.costs[phase] = cost
    for concurrency in one.concurrencies:
        database = await _database(one, meter)
        await _phase(one, meter, database, "enqueue", jobs=jobs)
        waiting = 2 * (jobs // 8 * 8) if one.name == "milepost" else jobs // 8 * 8
        rate, cost = await _phase(one, meter, database, "drain", jobs=waiting, concurrency=concurrency)
        if rate is not None and cost is not None and (score.drain is None or rate > score.drain):
            score.drain, score.best, score.costs["drain"] = rate, concurrency, cost
    return score


async def _database(one: Contestant, meter: Meter) -> str:
    name = "bench_" + one.name.lower().replace("-", "_").replace(" ", "_")
    url = await meter.fresh(name)
    await asyncio.to_thread(_call, one, "setup", url, 0, 0)
    return name


async def _phase(
    one: Contestant, meter: Meter, database: str, phase: str, *, jobs: int, concurrency: int = 1
) -> tuple[float | None, Cost | None]:
    await meter.settle(database)
    calls, wal = await meter.read(database)
    rate = await asyncio.to_thread(_call, one, phase, meter.url(database), jobs, concurrency)
    calls_after, wal_after = await meter.read(database)
    return rate, Cost((calls_after - calls) / jobs, (wal_after - wal) / jobs)


def _call(one: Contestant, phase: str, url: str, jobs: int, concurrency: int) -> float | None:
    """The phase in a process of its own. RuntimeError with its words when it fails."""
    command = [*one.script, phase, url, str(jobs), str(concurrency)]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=PHASE_SECONDS, check=False
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode or not lines:
        words = done.stdout[-1000:] + done.stderr[-3000:]
        raise RuntimeError(f"{one.name} {phase}: exit code {done.returncode}\n{words}")
    rate: float | None = json.loads(lines[-1].removeprefix("RESULT "))["rate"]
    return rate


def _print_machine(home: Path) -> None:
    postgres = subprocess.run([binaries() / "postgres", "--version"], capture_output=True, text=True, check=True)
    disk = subprocess.run(["df", "--output=fstype", home], capture_output=True, text=True, check=True)
    load, cores = os.getloadavg()[0], os.cpu_count()
    versions = f"Python {platform.python_version()}, asyncpg {version('asyncpg')}"
    print(f"{platform.platform()}, {cores} cores, load {load:.1f}, database on {disk.stdout.split()[-1]}")
    print(f"{postgres.stdout.strip()}, fsync on; {versions}")
    print("poll interval 50 ms for all that poll; pgqueuer: dequeue_timeout 50 ms, heartbeat_timeout 10 s")
    print("milepost's drain: admit (100 a claim) + start + settle of each run; launch and session of its pod apart")


def _print_table(chosen: Sequence[Contestant], scores: dict[str, Score]) -> None:
    pins = dict(line.split("==") for line in (HERE / "requirements.txt").read_text().splitlines() if "==" in line)
    ours = scores.get("milepost", Score())
    print(f"{'jobs/s (ours : theirs)':<26}{'enqueue x8':>20}{'bulk 5k':>20}{'claim+complete':>28}"
          f"{'statements/job':>16}{'WAL B/job':>12}")  # fmt: skip
    for one in chosen:
        score = scores[one.name]
        title = one.name + (f" {pins[one.package]}" if one.package else "")
        drain = _cell(score.drain, ours.drain) + f" @{score.best}"
        costs = [score.costs[phase] for phase in ("enqueue", "drain") if phase in score.costs]
        statements = "/".join(f"{cost.statements:.2f}" for cost in costs)
        wal = "/".join(f"{cost.wal:.0f}" for cost in costs)
        print(f"{title:<26}{_cell(score.enqueue, ours.enqueue):>20}{_cell(score.bulk, ours.bulk):>20}{drain:>28}"
              f"{statements:>16}{wal:>12}")  # fmt: skip
    print("statements and WAL: of a single enqueue / of claim+complete (all that the process sent)")


def _cell(rate: float | None, ours: float | None) -> str:
    if rate is None:
        return "-"
    return f"{rate:,.0f}" + (f" ({ours / rate:.2f})" if ours and rate else "")


def _print_bars(scores: dict[str, Score]) -> bool:
    ours, plain = scores.get("milepost"), scores.get("plain SQL")
    if ours is None:
        return True
    peers = {name: s for name, s in scores.items() if name not in {"milepost", "plain SQL"}}

    def best(phase: str) -> tuple[float, str]:
        found = [(getattr(s, phase), name) for name, s in peers.items() if getattr(s, phase)]
        return max(found) if found else (0.0, "no peer")

    met = True
    bars: list[tuple[str, float | None, float, str]] = []
    if plain and plain.drain and ours.drain:
        bars.append(("claim+complete, one process / plain two-row SQL", ours.drain / plain.drain, 0.4, ""))
    for phase, target in (("enqueue", 1.05), ("drain", 1.0), ("bulk", 1.05)):
        rate, name = best(phase)
        mine = getattr(ours, phase)
        if rate and mine:
            aim = " (aim)" if phase != "enqueue" else ""
            bars.append((f"{phase} / best peer, {name}{aim}", mine / rate, target, aim))
    bars.append(("bulk enqueue with idempotency keys, /s", ours.bulk, 40_000, ""))
    for name, value, target, aim in bars:
        good = value is not None and value >= target
        met = met and (good or bool(aim))
        shown = "not measured" if value is None else f"{value:,.2f}"
        print(f"bar {name}: {shown}, target {target:,.2f}: {'met' if good else 'missed'}")
    return met


if __name__ == "__main__":
    sys.exit(main())
