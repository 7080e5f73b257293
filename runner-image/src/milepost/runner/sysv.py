"""Removes System V memory, semaphores and queues: they outlive their processes, and are of the pod alone."""

import ctypes
from pathlib import Path
from typing import Final

IPC_RMID: Final = 0
PROC: Final = Path("/proc/sysvipc")


def remove_all(proc: Path = PROC) -> None:
    """Remove those of this IPC namespace: for a container only. Best effort, where the kernel has none."""
    libc = ctypes.CDLL(None, use_errno=True)
    for identity in _listed(proc / "shm"):
        libc.shmctl(identity, IPC_RMID, None)
    for identity in _listed(proc / "sem"):
        libc.semctl(identity, 0, IPC_RMID)
    for identity in _listed(proc / "msg"):
        libc.msgctl(identity, IPC_RMID, None)


def _listed(table: Path) -> list[int]:
    try:
        rows = table.read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        return []
    return [int(row.split()[1]) for row in rows]
