"""The peers' scripts, each phase in a process of its own, on the Postgres of the same run."""

import asyncio
import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from e2e.bench.bars import percentile
from tests.benchmarks.peers import environment, npm_package
from tests.benchmarks.rig import Rig
from tests.benchmarks.sdk import imports

HERE = Path(__file__).parent
SERVER = ("@restatedev/restate-server@1.7.12",)
PHASE_SECONDS = 300
NAMES = ("dbos", "absurd", "restate")
DATABASE_BYTES = "select sum(pg_total_relation_size(oid))::bigint from pg_class where relkind = 'r' and oid >= 16384"


@dataclass
class Score:
    """Milliseconds, microseconds and KB as the bars have them; None: not measured."""

    p50: float | None = None
    p99: float | None = None
    recorded_us: float | None = None
    run_kb: float | None = None
    import_ms: float | None = None


@dataclass(frozen=True)
class Work:
    """How much: `steps` in a row, `recorded` of them to resume behind, `runs` to weigh."""

    steps: int
    size: int
    recorded: int
    runs: int


async def measure(rig: Rig, work: Work, names: Sequence[str]) -> dict[str, Score]:
    """Every peer; one that can't run here says why, and is left out."""
    python = environment(HERE / "requirements.txt", "peers-sdk")
    scores: dict[str, Score] = {}
    for name in names:
        try:
            scores[name] = await _score(rig, python, name, work)
        except (RuntimeError, subprocess.SubprocessError) as error:
            print(f"{name}: left out: {error}")
    return scores


async def _score(rig: Rig, python: Path, name: str, work: Work) -> Score:
    async def phase(what: str, count: int, size: int, *, fresh: bool = True) -> dict[str, object]:
        address = await _address(rig, name, fresh=fresh)
        if fresh:
            await asyncio.to_thread(_call, python, name, "setup", address, 0, 0)
        return await asyncio.to_thread(_call, python, name, what, address, count, size)

    score = Score(import_ms=await asyncio.to_thread(imports.milliseconds, python, imports.THEIRS[name]))
    took = (await phase("steps", work.steps, work.size))["took"]
    if not isinstance(took, list):
        raise TypeError(took)
    score.p50, score.p99 = percentile(took, 50), percentile(took, 99)
    seconds = float(str((await phase("resume", work.recorded, work.size))["seconds"]))
    score.recorded_us = seconds / work.recorded * 1e6
    if name != "restate":  # its log is no relation
        await phase("size", 1, 200)
        before = await _bytes(rig, name)
        await phase("size", work.runs, 200, fresh=False)
        score.run_kb = (await _bytes(rig, name) - before) / work.runs / 1000
    return score


async def _address(rig: Rig, name: str, *, fresh: bool) -> str:
    """A database of its own; for Restate its server's program."""
    if name == "restate":
        programs = await asyncio.to_thread(npm_package, SERVER, "peers-npm")
        if programs is None:
            raise RuntimeError("its server comes from npm, which is not here")
        # the program itself: the script beside it would not pass signals on
        return str(next(programs.glob("@restatedev/restate-server-*/bin/restate-server")))
    if fresh:
        admin = await asyncpg.connect(rig.settings.dsn)
        await admin.execute(f"drop database if exists bench_{name} with (force)")
        await admin.execute(f"create database bench_{name}")
        await admin.close()
    return _url(rig, name)


def _url(rig: Rig, name: str) -> str:
    return rig.server.url.rpartition("/")[0] + f"/bench_{name}"


async def _bytes(rig: Rig, name: str) -> int:
    connection = await asyncpg.connect(_url(rig, name))
    try:
        return int(await connection.fetchval(DATABASE_BYTES))
    finally:
        await connection.close()


def _call(  # noqa: PLR0917
    python: Path, name: str, phase: str, address: str, count: int, size: int
) -> dict[str, object]:
    """One phase. RuntimeError with its words when it fails."""
    script = HERE / "peers" / f"peer_{name}.py"
    command = [python, script, phase, address, str(count), str(size)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PHASE_SECONDS, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode or not lines:
        raise RuntimeError(f"{phase}: exit code {done.returncode}\n{done.stdout[-1000:]}{done.stderr[-3000:]}")
    found: dict[str, object] = json.loads(lines[-1].removeprefix("RESULT "))
    return found
