"""A task that tells what its process is like as it begins, and then, asked to, leaks in every way it can.

Two runs of one pod have to tell the same: `main(leak=True)` first, then `main()`.
"""

import asyncio
import builtins
import contextvars
import decimal
import functools
import gc
import json
import locale
import logging
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

from milepost import Context, task

LEFT: list[Any] = []
CONTEXT: contextvars.ContextVar[str] = contextvars.ContextVar("leaks", default="clean")
DUMPS = json.dumps
KINDS = {stat.S_IFSOCK: "socket", stat.S_IFIFO: "pipe", stat.S_IFREG: "file", stat.S_IFCHR: "device"}
MARK = "milepost-leaked-process"
DAEMON = "import os, sys, time\nif os.fork(): os._exit(0)\nos.setsid()\nif os.fork(): os._exit(0)\ntime.sleep(600)"


def scratch() -> list[str]:
    return [place for place in os.environ.get("MILEPOST_SCRATCH", "").split(":") if place and Path(place).is_dir()]


def told(mark: str) -> dict[str, Any]:
    """What must be the same in each run."""
    umask = os.umask(0)
    os.umask(umask)
    return {
        "memory": [[*LEFT], CONTEXT.get(), json.dumps is DUMPS, sorted(n for n in vars(builtins) if "leak" in n)],
        "modules": [name for name in sys.modules if "leaked" in name],
        "interpreter": [
            [*sys.path], sys.getrecursionlimit(), gc.isenabled(), decimal.getcontext().prec,
            locale.setlocale(locale.LC_ALL), socket.getdefaulttimeout(), len(warnings.filters), time.tzname[0],
        ],
        "environment": dict(os.environ),
        "directory": [str(Path.cwd()), umask],
        "descriptors": [f"{number}: {kind}" for number, kind in descriptors()],
        "blocking": [os.get_blocking(number) for number in (1, 2)],
        "threads": sorted(one.name for one in threading.enumerate()),
        "processes": [place.name for place in Path("/proc").iterdir() if mark in command(place)],
        "signals": [handler(number) for number in sorted(signal.valid_signals())],
        "masked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        "alarm": signal.getitimer(signal.ITIMER_REAL)[0] > 0,
        "limits": [[*resource.getrlimit(which)] for which in (resource.RLIMIT_NOFILE, resource.RLIMIT_CORE)],
        "nice": os.nice(0),
        "logging": [logging.getLogger().level, [type(one).__name__ for one in logging.getLogger().handlers]],
        "files": sorted(path for place in scratch() for path in below(place)),
        "ipc": sysv() if os.getppid() == 1 else "",
    }  # fmt: skip


def descriptors() -> list[tuple[int, str]]:
    found = []
    for name in sorted(int(place.name) for place in Path("/proc/self/fd").iterdir()):
        try:
            mode = os.fstat(name).st_mode
        except OSError:
            continue
        found.append((name, KINDS.get(stat.S_IFMT(mode), "other")))
    return found


def command(place: Path) -> str:
    try:
        return (place / "cmdline").read_text(errors="replace") if place.name.isdecimal() else ""
    except OSError:
        return ""


def handler(number: int) -> str:
    found = signal.getsignal(number)
    return getattr(found, "__qualname__", type(found).__name__) if callable(found) else str(found)


def below(place: str) -> list[str]:
    return [str(path) for path in Path(place).rglob("*") if not path.is_socket()]


def sysv() -> str:
    return "".join(Path(f"/proc/sysvipc/{kind}").read_text() for kind in ("shm", "sem", "msg"))


def leak(mark: str) -> None:
    """Every way that comes to mind; what survives the process's end is what matters."""
    LEFT.append("of the first run")
    CONTEXT.set("of the first run")
    json.dumps = functools.partial(DUMPS)
    builtins.leak = 1  # type: ignore[attr-defined]
    sys.modules["leaked"] = sys
    sys.path.append("/leaked")
    sys.setrecursionlimit(5000)
    gc.disable()
    decimal.getcontext().prec = 3
    socket.setdefaulttimeout(3)
    warnings.simplefilter("error")
    os.environ |= {"LEAKED": "1", "TZ": "Asia/Tokyo"}
    time.tzset()
    leak_files()
    os.chdir("/")
    os.umask(0o70)
    LEFT.extend([os.open("/dev/zero", os.O_RDONLY), *os.pipe(), socket.socketpair()])
    for number in (1, 2):
        os.set_blocking(number, False)
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
    for program, apart in ((DAEMON, False), ("import time; time.sleep(600)", True)):
        LEFT.append(subprocess.Popen([sys.executable, "-c", program, mark], start_new_session=apart))
    for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    signal.setitimer(signal.ITIMER_REAL, 600)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(1)
    logging.basicConfig(level=logging.DEBUG, force=True, format="leaked %(message)s")
    if os.getppid() == 1:
        leak_ipc()
    sys.stdout.write("half a line of the first run")


def leak_files() -> None:
    for place in scratch():
        if place == "/dev/mqueue":  # holds queues only
            continue
        root = Path(place, "leaked")
        (root / ".hidden" / "deep").mkdir(parents=True)
        (root / ".hidden" / "deep" / "data").write_text("of the first run")
        (root / "link").symlink_to("/etc/passwd")
        (Path(place) / "link-to-a-directory").symlink_to("/etc")
        os.mkfifo(root / "pipe")
        left = socket.socket(socket.AF_UNIX)
        left.bind(str(root / "left.sock"))
        LEFT.append(left)
        (root / ".hidden").chmod(0)
        root.chmod(0o500)


def leak_ipc() -> None:
    import ctypes  # noqa: PLC0415

    libc = ctypes.CDLL(None)
    libc.shmget(4711, 4096, 0o1600)
    libc.semget(4711, 1, 0o1600)
    libc.msgget(4711, 0o1600)


@task
async def main(ctx: Context, leak_all: bool = False, mark: str = MARK) -> dict[str, Any]:
    found = told(mark)
    found["trace"] = ctx.run.traceparent
    if leak_all:
        leak(mark)
        LEFT.append(asyncio.ensure_future(asyncio.sleep(600)))
    return found
