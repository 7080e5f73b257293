"""In the task's process: notes what is executed and acknowledged, and dies at a chosen write. Part of the tests only.

The notes outlive the process: `start KEY`, `ack KEY`, `kill MODE`, each a line of a file, or an event that the counting
Service of a cluster keeps.
"""

import asyncio
import json
import os
import signal
import time
import urllib.request
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Final, Literal, Protocol
from urllib.parse import unquote

from milepost.net.blocking import BlockingClient
from milepost.net.stream import Stream
from milepost.sdk.client import AsyncSidecar, BlockingSidecar
from milepost.sdk.run import RunInfo
from milepost.sdk.scope import scope

Mode = Literal["before", "sent", "unread", "after", "sidecar", "pod"]
MODES: Final[tuple[Mode, ...]] = ("before", "sent", "unread", "after", "sidecar", "pod")
"""before: nothing was sent; sent: the request is on its way; unread: it was answered, the task has not seen it;
after: the task went on from it, to where it next waits; sidecar: the sidecar is killed with the request on its way, the
task lives; pod: so are all of the pod's processes.
"""
EXIT: Final = 9
WRITES: Final = ("/v1/steps/", "/v1/checkpoints/", "/v1/result", "/v1/failure")


class Notes(Protocol):
    """Outside of the process: what is written is kept when `write` returns."""

    def write(self, line: str) -> None: ...
    def lines(self) -> list[str]: ...


class FileNotes:
    """A line, one system call, each."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def write(self, line: str) -> None:
        os.write(self._descriptor, line.encode() + b"\n")

    def lines(self) -> list[str]:
        return self._path.read_text().splitlines()


class ServiceNotes:
    """Events of the counting Service (e2e/harness/counting_server.py) at `url`."""

    def __init__(self, url: str, run: RunInfo) -> None:
        self._url, self._run = url, run

    def write(self, line: str) -> None:
        event = {"run": self._run.id, "attempt": self._run.attempt, "phase": "note", "step": line}
        urllib.request.urlopen(self._url, json.dumps(event).encode(), timeout=10).close()

    def lines(self) -> list[str]:
        with urllib.request.urlopen(f"{self._url}events?run={self._run.id}", timeout=10) as answer:
            return [str(json.loads(line)["step"]) for line in answer]


@dataclass
class Armed:
    """`at`: the number of the write, from 1, at which this process meets `mode`. `delay`: seconds from sending on."""

    at: int
    mode: Mode
    delay: float
    notes: Notes
    writes: int = 0


_armed: Armed | None = None
_writing = Lock()
_doomed: ContextVar[bool] = ContextVar("doomed", default=False)


def arm(notes: str, run: RunInfo, kills: list) -> None:
    """Note to a file, or to a Service's address, from now on. `kills`: [attempt, write, mode, delay] of each."""
    global _armed  # noqa: PLW0603  # one process, one attempt
    kept = ServiceNotes(notes, run) if notes.startswith("http://") else FileNotes(notes)
    _, at, mode, delay = next((k for k in kills if k[0] == run.attempt), [0, 0, "before", 0.0])
    _armed = Armed(at, mode, delay, kept)


def note(what: str) -> None:
    if _armed is not None:
        with _writing:
            _armed.notes.write(what)


def noted() -> list[str]:
    """All lines so far, of earlier attempts too."""
    return _armed.notes.lines() if _armed is not None else []


def started() -> None:
    """A step's body begins."""
    note(f"start {scope.get().prefix[:-1]}")


def last_words(mode: Mode) -> None:
    """Note the end, and nothing after it: a thread may begin a step at this moment, which dies with it."""
    if _armed is not None:
        _writing.acquire()  # for good
        _armed.notes.write(f"kill {mode}")


def die(mode: Mode) -> None:
    last_words(mode)
    os._exit(EXIT)


def _due(method: str, target: str) -> Mode | None:
    if _armed is None or method != "PUT" or not target.startswith(WRITES):
        return None
    _armed.writes += 1
    return _armed.mode if _armed.writes == _armed.at else None


def _acknowledged(method: str, target: str) -> None:
    if method == "PUT" and target.startswith("/v1/steps/"):
        note(f"ack {unquote(target.removeprefix('/v1/steps/'))}")


def _meet(mode: Mode) -> None:
    """The request is on its way."""
    _doomed.set(False)
    if mode == "sent":
        die(mode)
    time.sleep(_armed.delay)
    sidecar = int(Path(os.environ["MILEPOST_SOCKET"]).with_name("sidecar.pid").read_text())
    if mode == "sidecar":
        note(f"kill {mode}")
        os.kill(sidecar, signal.SIGKILL)
        return
    last_words(mode)
    os.kill(os.getppid(), signal.SIGKILL)
    os.kill(sidecar, signal.SIGKILL)
    os._exit(EXIT)


_call, _plain_call = AsyncSidecar.call, BlockingSidecar.call
_receive, _connected = Stream.receive, BlockingClient._connected


async def _watched(self, method, target, headers, body=b""):
    mode = _due(method, target)
    if mode == "before":
        die(mode)
    _doomed.set(mode in {"sent", "sidecar", "pod"})
    reply = await _call(self, method, target, headers, body)
    if mode == "unread":
        die(mode)
    _acknowledged(method, target)
    if mode == "after":
        asyncio.get_running_loop().call_soon(die, mode)
    return reply


def _plain_watched(self, method, target, headers, body=b""):
    mode = _due(method, target)
    if mode == "before":
        die(mode)
    _doomed.set(mode in {"sent", "sidecar", "pod"})
    reply = _plain_call(self, method, target, headers, body)
    if mode in {"unread", "after"}:
        die(mode)
    _acknowledged(method, target)
    return reply


async def _watched_receive(self):
    if _doomed.get():
        _meet(_armed.mode)
    return await _receive(self)


class _Doomed:
    """A socket that sends, and meets its end before it receives."""

    def __init__(self, connection) -> None:
        self._connection = connection

    def sendall(self, data: bytes) -> None:
        self._connection.sendall(data)

    def recv(self, size: int) -> bytes:
        if _doomed.get():
            _meet(_armed.mode)
        return self._connection.recv(size)


def _watched_connected(self):
    connection = _connected(self)
    return _Doomed(connection) if _doomed.get() else connection


AsyncSidecar.call, BlockingSidecar.call = _watched, _plain_watched
Stream.receive, BlockingClient._connected = _watched_receive, _watched_connected
