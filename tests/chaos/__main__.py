"""Run chaos: bring everything up, let the faults loose, let it come to rest, judge."""

import argparse
import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

from tests.chaos.conductor import Conductor
from tests.chaos.config import Options

INSIDE = "MILEPOST_CHAOS_INSIDE"
"""Set in a mount namespace of our own: what is mounted there goes with its last process."""


def main() -> int:
    """Exit code 0 only when every promise held and every fault hit often enough."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=1.2, help="time under faults; 15 and more: the full run")
    parser.add_argument("--keep", action="store_true", help="leave logs and journals behind")
    given = parser.parse_args()
    if os.geteuid() == 0 and INSIDE not in os.environ and _can_unshare():
        command = ["unshare", "--mount", "--propagation", "private", sys.executable, "-m", "tests.chaos", *sys.argv[1:]]
        os.execvpe(command[0], command, os.environ | {INSIDE: "1"})
    return asyncio.run(_run(Options(given.seed, given.minutes, keep=given.keep)))


def _can_unshare() -> bool:
    if shutil.which("unshare") is None:
        return False
    probe = ["unshare", "--mount", "--propagation", "private", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


async def _run(options: Options) -> int:
    home = Path(tempfile.mkdtemp(prefix="milepost-chaos-"))
    home.chmod(0o755)  # noqa: ASYNC240  Postgres' user passes through
    began = time.monotonic()
    failed = True
    try:
        async with AsyncExitStack() as stack:
            conductor = Conductor(options, home, stack, mounted=INSIDE in os.environ)
            failed = not await conductor.play()
    finally:
        if failed or options.keep:
            print(f"logs and journals: {home}", flush=True)
        else:
            shutil.rmtree(home, ignore_errors=True)
    print(f"took {time.monotonic() - began:.0f} s")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
