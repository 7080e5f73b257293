"""A sample of the crash points for a cluster, where runs are made and read by others: a process of its own, by JSON.

`python -m tests.crashpoints.sample draw --seed 1 --runs 10` prints runs to be made: the name of the task, and its
shape and kills. `… judge < FILE` reads them back with what came of each, and prints what is wrong, a line each. The
undisturbed runs that they are compared with are made here, by milepost.testing: a cluster is held to what that says.
"""

import argparse
import json
import random
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

from milepost.testing import TaskRun
from tests.crashpoints import tasks
from tests.crashpoints.judge import faults
from tests.crashpoints.kill import Mode
from tests.crashpoints.rig import Case, once, several, undisturbed

MODES: tuple[Mode, ...] = ("before", "sent", "unread", "after")
"""Those in which the task's process dies alone: it can't reach its pod's other processes on a cluster."""
TWICE = 0.3


@dataclass
class Disturbed:
    """`task`: main or plain. What the cluster adds: `state`, `attempts`, `result`, records and notes."""

    task: str
    shape: str
    kills: list[tuple[int, int, Mode, float]]
    state: str = ""
    attempts: int = 0
    result: object = None
    steps: dict[str, tuple[object, bool]] = field(default_factory=dict)
    checkpoints: dict[str, object] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def model(shape: str, home: Path) -> Case:
    """The undisturbed run of a task."""
    task = tasks.main if shape in tasks.SHAPES else tasks.plain
    run = TaskRun(task, {"shape": shape, "notes": str(home / f"notes-{shape}"), "kills": []})
    result = run.finish()
    kept = run.records
    steps = {one.key: one for one in kept if one.write.kind == "step"}
    checkpoints = {one.key: canonical(json.loads(one.write.value)) for one in kept if one.write.kind == "checkpoint"}
    return Case(
        shape,
        state=run.state,
        result=canonical(result),
        attempts=1,
        steps={key: told(json.loads(one.write.value), one.write.failed) for key, one in steps.items()},
        checkpoints=checkpoints,
        versions=sum(one.write.kind == "checkpoint" for one in kept),
    )


def canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def told(value: object, failed: bool) -> tuple[str, bool]:
    """A step's record; the traces of failures name files, which lie elsewhere in an image."""
    if failed and isinstance(value, dict):
        value = {name: member for name, member in value.items() if name != "trace"}
    return canonical(value), failed


def draw(seed: int, runs: int) -> list[Disturbed]:
    """Every place at which a process can die has the same chance; some runs die twice."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as home:
        models = [model(case.shape, Path(home)) for case in undisturbed()]
    twice = round(runs * TWICE)
    single = [case for one in models for case in once(one, rng, MODES)]
    double = [case for one in models for case in several(one, rng, 2, 1, MODES)]
    chosen = [*rng.sample(single, runs - twice), *rng.sample(double, twice)]
    return [Disturbed("main" if c.shape in tasks.SHAPES else "plain", c.shape, list(c.kills)) for c in chosen]


def judge(runs: list[Disturbed]) -> list[str]:
    """Everything that is wrong."""
    found: list[str] = []
    for number, run in enumerate(runs):
        with tempfile.TemporaryDirectory() as place:
            home = Path(place)
            undisturbed_run = model(run.shape, home)
            (home / "notes").write_text("".join(f"{line}\n" for line in run.notes))
            case = Case(
                run.shape,
                tuple((a, w, m, d) for a, w, m, d in run.kills),
                home,
                state=run.state,
                result=None if run.result is None else canonical(run.result),
                attempts=run.attempts,
                steps={key: told(value, failed) for key, (value, failed) in run.steps.items()},
                checkpoints={key: canonical(value) for key, value in run.checkpoints.items()},
            )
            found += [f"run {number}, {fault}" for fault in faults(case, undisturbed_run)]
            if not any(line.startswith("kill") for line in run.notes):
                found.append(f"run {number}, {case.name}: nothing died")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crashpoints.sample", description=__doc__)
    parser.add_argument("what", choices=["draw", "judge"])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--runs", type=int, default=10)
    given = parser.parse_args()
    if given.what == "draw":
        sys.stdout.write(json.dumps([asdict(run) for run in draw(given.seed, given.runs)]) + "\n")
        return 0
    broken = judge([Disturbed(**run) for run in json.load(sys.stdin)])
    sys.stdout.write("".join(f"{fault}\n" for fault in broken))
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
