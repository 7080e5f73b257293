"""PID 1 of the task container: waits for the sidecar, loads the task, and forks a process for each attempt."""

import asyncio  # noqa: F401  # imported while the sidecar starts, so that the forked child need not
import os
import signal
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from milepost.errors import FencedError, MilepostError
from milepost.runner import cgroup
from milepost.runner.afresh import afresh, load_or_settle
from milepost.runner.ahead import code_of, load_ahead
from milepost.runner.child import run_and_exit
from milepost.runner.conclude import EXIT_TERMINATED, conclude
from milepost.runner.handover import first_attempt, next_attempt, require_same_task
from milepost.runner.harden import set_dumpable
from milepost.runner.hygiene import Hygiene, resident_bytes, restore_standard
from milepost.runner.load import threads_of_import
from milepost.runner.log import say
from milepost.runner.processes import adopt_orphans, kill_all
from milepost.runner.watch import Child, Watch
from milepost.sdk.client import BlockingSidecar
from milepost.sdk.run import AttemptInfo
from milepost.sdk.task import TaskFunction
from milepost.wire.local import AHEAD_ENV, EXIT_CONFIG, EXIT_FENCED, EXIT_SIDECAR, SOCKET, SOCKET_ENV

POLL_SECONDS: Final = 0.005
SIDECAR_SECONDS: Final = 120.0
TOLD_THREADS: Final = 5


def main() -> int:
    """Run attempts; the container's exit code."""
    set_dumpable(allowed=False)
    adopt_orphans()
    signal.signal(signal.SIGTERM, _leave)
    path = os.environ.get(SOCKET_ENV) or SOCKET
    if not _wait_for(path):
        say(f"no sidecar at {path} within {SIDECAR_SECONDS:.0f} s")
        return EXIT_SIDECAR
    ahead = os.environ.pop(AHEAD_ENV, "")
    try:
        return _run_ahead(path) if ahead else _run(path)
    except FencedError as error:
        say(f"fenced: {error}")
        return EXIT_FENCED
    except MilepostError as error:
        say(str(error))
        return EXIT_SIDECAR
    finally:
        kill_all()  # what the task left behind


def _leave(_number: int, _frame: object) -> None:
    # while no attempt is at work; PID 1 would ignore the signal otherwise
    os._exit(EXIT_TERMINATED)


def _wait_for(path: str) -> bool:
    until = time.monotonic() + SIDECAR_SECONDS
    while not Path(path).exists():
        if time.monotonic() > until:
            return False
        time.sleep(POLL_SECONDS)
    return True


def _run(path: str) -> int:
    attempt = first_attempt(path)
    if attempt is None:
        return 0
    sidecar = BlockingSidecar(path)
    hygiene = Hygiene.of(os.environ, path)
    task = load_or_settle(attempt, sidecar)
    if task is None:
        return EXIT_CONFIG
    sidecar.close()
    if hygiene is not None:
        hygiene.imported()
        hygiene.tell_sidecar()
    return _attempts(path, task, attempt, hygiene)


def _run_ahead(path: str) -> int:
    code = code_of(path)
    hygiene = Hygiene.of(os.environ, path)
    task = load_ahead(code)
    if task is None:
        return EXIT_CONFIG
    if hygiene is not None:
        hygiene.imported()
        hygiene.tell_sidecar()
    attempt = next_attempt(path, None, None, resident_bytes())
    if attempt is None:
        return 0
    require_same_task(attempt, code)
    return _attempts(path, task, attempt, hygiene)


def _attempts(path: str, task: TaskFunction[..., object], attempt: AttemptInfo, hygiene: Hygiene | None) -> int:
    """Run this attempt and those that follow it in this pod; the exit code."""
    sidecar, loaded = BlockingSidecar(path), attempt
    before = replace(cgroup.read(), peak_bytes=0)  # what the import took is of the first attempt
    child = _child(task, attempt, path, before)
    while True:
        watch = Watch(path, attempt, child)
        ending = watch.run()
        signal.signal(signal.SIGTERM, _leave)
        restore_standard()
        end = conclude(sidecar, ending, before)
        sidecar.close()
        if hygiene is None or not end.settled or watch.leaving:
            return end.code
        retire = hygiene.tidied() if end.retire is None else end.retire
        following = next_attempt(path, attempt.run, retire, resident_bytes())
        if following is None or retire is not None:
            return 0 if retire is None else end.code
        require_same_task(following, loaded)
        before = cgroup.read()
        attempt, child = following, _child_of_reuse(task, following, path, before, hygiene)


def _child(task: TaskFunction[..., object], attempt: AttemptInfo, path: str, before: cgroup.Counters) -> Child:
    """What the forked process does. Threads of the import would be missing there: then it imports the task anew."""
    if threads := threads_of_import():
        names = ", ".join(threads[:TOLD_THREADS])
        say(
            f"the import of the task started threads ({names}), which a fork would not have: the attempt imports it "
            "once more, in a process of its own; start threads in the task to save that time"
        )
        return partial(afresh, before)
    return partial(run_and_exit, task, attempt, path, before)


def _child_of_reuse(
    task: TaskFunction[..., object], attempt: AttemptInfo, path: str, before: cgroup.Counters, hygiene: Hygiene
) -> Child:
    """What the process of a further attempt does: it shares nothing with that of the one before."""
    hygiene.tell_unforkable()
    # on stdout: a last line of the run before that has no end ends here, and not in a line of this run
    sys.stdout.write(f"milepost: run {attempt.run.name}, attempt {attempt.run.attempt}, in the same pod\n")
    sys.stdout.flush()
    return partial(afresh, before) if hygiene.unforkable else partial(run_and_exit, task, attempt, path, before)
