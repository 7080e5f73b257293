"""PID 1 of the task container: waits for the sidecar, loads the task, forks the attempt, and tells how it ended."""

import asyncio  # noqa: F401  # imported while the sidecar starts, so that the forked child need not
import os
import signal
import time
from functools import partial
from pathlib import Path
from typing import Final

from milepost.errors import FencedError, MilepostError, SettledError
from milepost.runner import cgroup, failure
from milepost.runner.afresh import afresh, attempt_of, load_or_settle
from milepost.runner.child import run_and_exit
from milepost.runner.harden import set_dumpable
from milepost.runner.load import threads_of_import
from milepost.runner.log import say
from milepost.runner.watch import Child, Ending, Watch
from milepost.sdk.client import BlockingSidecar
from milepost.sdk.local import write_headers
from milepost.sdk.run import AttemptInfo
from milepost.sdk.task import TaskFunction
from milepost.wire.local import EXIT_CONFIG, EXIT_FAILED, EXIT_FENCED, EXIT_SIDECAR, SOCKET, SOCKET_ENV
from milepost.wire.pod import Evidence, FailureKind

POLL_SECONDS: Final = 0.005
SIDECAR_SECONDS: Final = 120.0
EXIT_TERMINATED: Final = 143
TOLD_THREADS: Final = 5


def main() -> int:
    """Run one attempt; the container's exit code."""
    set_dumpable(allowed=False)
    signal.signal(signal.SIGTERM, _leave)
    path = os.environ.get(SOCKET_ENV) or SOCKET
    if not _wait_for(path):
        say(f"no sidecar at {path} within {SIDECAR_SECONDS:.0f} s")
        return EXIT_SIDECAR
    sidecar = BlockingSidecar(path)
    try:
        return _run(path, sidecar)
    except FencedError as error:
        say(f"fenced: {error}")
        return EXIT_FENCED
    except MilepostError as error:
        say(str(error))
        return EXIT_SIDECAR
    finally:
        _kill_the_rest()


def _leave(_number: int, _frame: object) -> None:
    # before there is a child; PID 1 would ignore the signal otherwise
    os._exit(EXIT_TERMINATED)


def _wait_for(path: str) -> bool:
    until = time.monotonic() + SIDECAR_SECONDS
    while not Path(path).exists():
        if time.monotonic() > until:
            return False
        time.sleep(POLL_SECONDS)
    return True


def _run(path: str, sidecar: BlockingSidecar) -> int:
    attempt = attempt_of(sidecar)
    task = load_or_settle(attempt, sidecar)
    if task is None:
        return EXIT_CONFIG
    sidecar.close()
    before = cgroup.read()
    ending = Watch(path, attempt, _child(task, attempt, path)).run()
    return _conclude(sidecar, ending, before)


def _child(task: TaskFunction[..., object], attempt: AttemptInfo, path: str) -> Child:
    """What the forked process does. Threads of the import would be missing there: then it imports the task anew."""
    if threads := threads_of_import():
        names = ", ".join(threads[:TOLD_THREADS])
        say(
            f"the import of the task started threads ({names}), which a fork would not have: the attempt imports it "
            "once more, in a process of its own; start threads in the task to save that time"
        )
        return afresh
    return partial(run_and_exit, task, attempt, path)


def _conclude(sidecar: BlockingSidecar, ending: Ending, before: cgroup.Memory) -> int:
    signal.signal(signal.SIGTERM, _leave)
    if ending.cause == "settled":
        return 0 if ending.exit_code == 0 else EXIT_FAILED
    if ending.cause == "terminated":
        return EXIT_TERMINATED
    if ending.cause == "stopped" or ending.exit_code == EXIT_FENCED:
        return EXIT_FENCED
    if ending.cause == "sidecar-lost":
        return EXIT_SIDECAR
    after = cgroup.read()
    kills = after.oom_kills - before.oom_kills
    evidence = Evidence(kills, after.peak_bytes, ending.exit_code, ending.signal)
    kind, message = _explain(ending, kills)
    say(message)
    try:
        body = failure.body(kind, kind, message, evidence=evidence)
        sidecar.call("PUT", "/v1/failure", write_headers(), body)
    except SettledError as error:
        # it died between the commit of its result and its own end
        say(str(error))
        return 0 if error.state == "succeeded" else EXIT_FAILED
    return EXIT_FAILED


def _explain(ending: Ending, oom_kills: int) -> tuple[FailureKind, str]:
    how = f"exit code {ending.exit_code}"
    if ending.signal is not None:
        how = f"signal {signal.Signals(ending.signal).name}"
    if ending.cause == "grace-over":
        return "cancelled", "the task did not end within its grace after the run was cancelled: killed"
    if oom_kills > 0:
        return "oom", f"the container hit its memory limit and the kernel killed a process ({how})"
    if ending.exit_code == 0:
        return "lost-result", "the task's process ended with exit code 0 without a result"
    return "crash", f"the task's process died without a result: {how}"


def _kill_the_rest() -> None:
    # what the task left behind; only where we are PID 1 of a container of our own
    if os.getpid() == 1:
        try:
            os.kill(-1, signal.SIGKILL)
        except ProcessLookupError:
            return
