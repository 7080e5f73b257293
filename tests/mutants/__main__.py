"""Plant each bug in a copy of the tree and see who notices."""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.mutants.plan import CHAOS, MUTANTS, DriftError, Edit, Mutant

ROOT = Path(__file__).resolve().parents[2]
TREES = ("operator", "runner-image", "tests", "e2e", "crds", "charts", "docs", "examples", "tools", "pyproject.toml")
TEST_SECONDS = 300
CHAOS_SECONDS = 420
CHAOS_ARGUMENTS = ("--seed", "5", "--minutes", "0.7")


@dataclass(frozen=True)
class Outcome:
    """`killed`: a test ran and failed, and it is one that passes without the bug. `said`: its own words."""

    killer: str
    killed: bool
    seconds: float
    said: str


def main() -> int:
    """Exit code 0 only when every mutant was killed by each of its killers."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("names", nargs="*", help="mutants; all unless given")
    parser.add_argument("--no-chaos", action="store_true", help="only named tests: quick")
    given = parser.parse_args()
    mutants = [m for m in MUTANTS if not given.names or m.name in given.names]
    if unknown := set(given.names) - {m.name for m in mutants}:
        parser.error(f"no mutant {', '.join(sorted(unknown))}; there are {', '.join(m.name for m in MUTANTS)}")
    with tempfile.TemporaryDirectory(prefix="milepost-mutants-") as home:
        Path(home).chmod(0o755)
        return _run(mutants, Path(home), chaos=not given.no_chaos)


def _run(mutants: Sequence[Mutant], home: Path, *, chaos: bool) -> int:
    tree = home / "tree"
    _copy(tree)
    tests = sorted({k for m in mutants for k in m.killers if k != CHAOS})
    sound = _pytest(tree, tests)
    if sound.returncode:
        print(f"the tests fail without any bug:\n{sound.stdout[-3000:]}")
        return 2
    print(f"{len(tests)} tests pass without a bug; now {len(mutants)} bugs")
    survivors = []
    print(f"{'bug':<34}{'killed by':<88}{'s':>5}")
    for mutant in mutants:
        try:
            outcomes = _try(mutant, tree, chaos=chaos)
        except DriftError as error:
            print(f"{mutant.name:<34}NOT PLANTED: {error}")
            survivors.append(mutant.name)
            continue
        for outcome in outcomes:
            said = outcome.killer if outcome.killed else f"SURVIVES {outcome.killer}: {outcome.said}"
            print(f"{mutant.name:<34}{said:<88}{outcome.seconds:>5.0f}", flush=True)
        if not outcomes or not all(outcome.killed for outcome in outcomes):
            survivors.append(mutant.name)
    print(f"mutants: {len(mutants) - len(survivors)} of {len(mutants)} killed" + _list(survivors))
    return int(bool(survivors))


def _list(survivors: Sequence[str]) -> str:
    return f"; left: {', '.join(survivors)}" if survivors else ""


def _copy(tree: Path) -> None:
    tree.mkdir()
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc", ".hypothesis")
    for name in TREES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=ignore)
        elif source.exists():
            shutil.copy2(source, tree / name)


def _try(mutant: Mutant, tree: Path, *, chaos: bool) -> list[Outcome]:
    originals: dict[Path, str] = {}
    try:
        for edit in mutant.edits:
            _plant(tree, edit, originals)
        killers = [k for k in mutant.killers if chaos or k != CHAOS]
        return [_chaos(tree) if killer == CHAOS else _test(tree, killer) for killer in killers]
    finally:
        for path, text in originals.items():
            path.write_text(text)


def _plant(tree: Path, edit: Edit, originals: dict[Path, str]) -> None:
    for path, text in edit.files(tree).items():
        if edit.old in text:
            originals.setdefault(path, text)
            path.write_text(text.replace(edit.old, edit.new))


def _test(tree: Path, test: str) -> Outcome:
    began = time.monotonic()
    done = _pytest(tree, [test])
    failed = done.returncode == 1 and re.search(rf"^(FAILED|ERROR) {re.escape(test)}", done.stdout, re.MULTILINE)
    return Outcome(test, bool(failed), time.monotonic() - began, f"exit code {done.returncode}")


def _pytest(tree: Path, tests: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    return _call(tree, command, TEST_SECONDS)


def _chaos(tree: Path) -> Outcome:
    began = time.monotonic()
    done = _call(tree, [sys.executable, "-m", "tests.chaos", *CHAOS_ARGUMENTS], CHAOS_SECONDS)
    lines = [line for line in done.stdout.splitlines() if "FAILED: " in line]
    # Too few hits, or a machine too slow to come to rest, kills nothing: some promise has to be broken.
    broken = bool(lines) and "see above" not in lines[-1]
    said = lines[-1].partition("FAILED: ")[2][:60] if broken else "no promise was broken"
    return Outcome(f"chaos: {said}", broken, time.monotonic() - began, said)


def _call(tree: Path, command: Sequence[str], seconds: float) -> "subprocess.CompletedProcess[str]":
    sources = os.pathsep.join(str(tree / part) for part in ("operator/src", "runner-image/src", "."))
    env = os.environ | {"PYTHONPATH": sources, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        list(command), cwd=tree, env=env, capture_output=True, text=True, timeout=seconds, check=False
    )


if __name__ == "__main__":
    sys.exit(main())
