"""Ends whatever a run's processes left at work, daemons included."""

import ctypes
import os
import signal
import time
from contextlib import suppress
from typing import Final

PR_SET_CHILD_SUBREAPER: Final = 36
SECONDS: Final = 5.0
PAUSE_SECONDS: Final = 0.001


def adopt_orphans() -> None:
    """Become the parent of every process whose parent ends below us, as PID 1 of a container is anyway."""
    if os.getpid() != 1:
        with suppress(OSError, AttributeError):  # no Linux: there is no reuse there either
            ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_all() -> bool:
    """Kill all processes below us and reap them; False when some don't end within seconds."""
    until = time.monotonic() + SECONDS
    while True:
        kill_all()
        if _reap():
            return True
        if time.monotonic() > until:
            return False
        time.sleep(PAUSE_SECONDS)


def kill_all() -> None:
    """Kill all processes below us: as PID 1 with one call, that none escapes by forking."""
    with suppress(ProcessLookupError):
        if os.getpid() == 1:
            os.kill(-1, signal.SIGKILL)
            return
    for pid in below(os.getpid()):
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def _reap() -> bool:
    """Take the ended ones away; whether none is left."""
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return True
        if pid == 0:
            return False


def below(pid: int) -> list[int]:
    """Give the processes that a process began, and those that they did."""
    found, more = [], [pid]
    while more:
        parent = more.pop()
        with suppress(FileNotFoundError, ProcessLookupError):
            for thread in os.scandir(f"/proc/{parent}/task"):
                with suppress(FileNotFoundError, ProcessLookupError), open(f"{thread.path}/children") as children:  # noqa: PTH123
                    more += map(int, children.read().split())
        if parent != pid:
            found.append(parent)
    return found
