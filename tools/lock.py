"""Resolve the lock files in locks/, each pinned with hashes; `--check` fails when one would change.

They are plain requirement files because those, unlike uv.lock, hold no address of a package index: the machine's own
pip or uv configuration decides where packages come from.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ROOT / "locks"
UV = os.environ.get("UV", "uv")


def compile_lock(sources: list[str], out: Path, constraint: Path | None, group: str | None) -> None:
    command = [UV, "pip", "compile", "--quiet", "--universal", "--python-version", "3.11", "--generate-hashes"]
    command += ["--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links", "--no-strip-extras"]
    command += ["--no-emit-package", "milepost", "--no-emit-package", "milepost-operator", "--output-file", str(out)]
    if constraint:
        command += ["--constraint", str(constraint)]
    if group:
        command += ["--group", group]
    subprocess.run([*command, *sources], cwd=ROOT, check=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail when a committed lock would change")
    check = parser.parse_args().check
    operator, runner = "operator/pyproject.toml", "runner-image/pyproject.toml"
    stale = []
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch) if check else LOCKS
        LOCKS.mkdir(exist_ok=True)
        for name in ("dev", "operator", "runner"):  # committed pins stay until someone deletes the file
            if check:
                (work / f"{name}.txt").write_bytes((LOCKS / f"{name}.txt").read_bytes())
        dev = work / "dev.txt"
        compile_lock([operator, runner], dev, None, "pyproject.toml:dev")
        compile_lock([operator, runner], work / "operator.txt", dev, None)
        compile_lock([runner], work / "runner.txt", dev, None)
        if check:
            names = [f"{n}.txt" for n in ("dev", "operator", "runner")]
            stale = [n for n in names if (work / n).read_bytes() != (LOCKS / n).read_bytes()]
    if stale:
        print(f"stale: locks/{', locks/'.join(stale)}: run `make lock`", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
