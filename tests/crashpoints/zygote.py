"""`python -m tests.crashpoints.zygote`: forks runners and sidecars, so that hundreds of them cost no imports.

A line of JSON on stdin asks for a process: {"id", "module", "env", "cwd", "log"}. Lines on stdout tell of it:
{"id", "pid"} once it began, {"id", "code"} once it ended (a signal's number, negative, when one killed it).
"""

import asyncio  # noqa: F401  # imported for the processes to be forked
import json
import os
import select
import signal
import sys
from typing import NoReturn

import milepost.runner.child
import milepost.runner.parent
import milepost.sidecar.app
import tests.crashpoints.tasks  # noqa: F401

MAINS = {"milepost.runner": milepost.runner.parent.main, "milepost.sidecar": milepost.sidecar.app.main}


def main() -> None:
    told, tell = os.pipe()
    os.set_blocking(tell, False)
    os.set_blocking(told, False)
    signal.set_wakeup_fd(tell)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    running: dict[int, str] = {}
    rest = b""
    while True:
        ready, _, _ = select.select([0, told], [], [])
        if told in ready:
            os.read(told, 4096)
            reap(running)
        if 0 in ready:
            if not (chunk := os.read(0, 65536)):
                break
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                start(json.loads(line), running)
    for pid in running:
        os.kill(pid, signal.SIGKILL)


def start(asked: dict, running: dict[int, str]) -> None:
    pid = os.fork()
    if pid == 0:
        become(asked)
    running[pid] = asked["id"]
    say({"id": asked["id"], "pid": pid})


def become(asked: dict) -> NoReturn:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(asked["env"])
    os.chdir(asked["cwd"])
    log = os.open(asked["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    code = 1
    try:
        code = MAINS[asked["module"]]()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001  # what a process of its own would print and end with
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def reap(running: dict[int, str]) -> None:
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        say({"id": running.pop(pid), "code": os.waitstatus_to_exitcode(status)})


def say(told: dict) -> None:
    os.write(1, json.dumps(told).encode() + b"\n")


if __name__ == "__main__":
    main()
