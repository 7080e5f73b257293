"""Watches the attempt's process: its end, directives of the control plane, and signals to the container."""

import os
import selectors
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Literal, NoReturn, TypeAlias

from milepost.runner.child import CANCEL_SIGNAL, SETTLED, flush
from milepost.runner.control import Control
from milepost.runner.log import say
from milepost.sdk.run import AttemptInfo

TERMINATION_SECONDS: Final = 5.0
IDLE_SECONDS: Final = 5.0
Child: TypeAlias = Callable[[int], NoReturn]
"""What the forked process does; it writes to the pipe once it has settled."""
Cause = Literal["settled", "died", "stopped", "grace-over", "terminated", "sidecar-lost"]


@dataclass(frozen=True, slots=True)
class Ending:
    """How the attempt's process ended, and why as far as the parent had a part in it.

    `resident_bytes`: what it had in memory at most.
    """

    cause: Cause
    exit_code: int | None
    signal: int | None
    resident_bytes: int = 0


class Watch:
    """One attempt's process, from its fork to its end. `leaving`: the container was told to end meanwhile."""

    def __init__(self, path: str, attempt: AttemptInfo, child: Child) -> None:
        self._attempt = attempt
        self._run_child = child
        self._control = Control(path)
        self._selector = selectors.DefaultSelector()
        self._cause: Cause = "died"
        self._kill_at: float | None = None
        self._child = 0
        self._resident = 0
        self._terminated = False
        self.leaving = False

    def run(self) -> Ending:
        """Fork, and watch to the end."""
        told, tell = os.pipe()
        signals, wakeup = socket.socketpair()
        signals.setblocking(False)
        wakeup.setblocking(False)
        signal.pthread_sigmask(signal.SIG_BLOCK, {CANCEL_SIGNAL, signal.SIGTERM})
        flush()  # what the import printed, once
        self._child = os.fork()
        if self._child == 0:
            os.close(told)
            signals.close()
            wakeup.close()
            self._selector.close()
            os.setpgid(0, 0)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
            self._run_child(tell)
        os.close(tell)
        signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.signal(signal.SIGTERM, self._on_sigterm)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {CANCEL_SIGNAL, signal.SIGTERM})
        try:
            return self._watch(told, signals)
        finally:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._control.close()
            self._selector.close()
            os.close(told)
            signals.close()
            wakeup.close()

    def _watch(self, told: int, signals: socket.socket) -> Ending:
        self._selector.register(signals, selectors.EVENT_READ)
        while (status := self._reap()) is None:
            self._step(signals)
        with suppress(ProcessLookupError):
            os.killpg(self._child, signal.SIGKILL)  # what the task started and left
        os.set_blocking(told, False)
        try:
            settled = os.read(told, 1) == SETTLED
        except BlockingIOError:
            settled = False  # a process it left behind holds the other end
        code = os.waitstatus_to_exitcode(status)
        cause: Cause = "settled" if settled else self._cause
        return Ending(cause, code if code >= 0 else None, -code if code < 0 else None, self._resident)

    def _step(self, signals: socket.socket) -> None:
        self._control.connect()
        if self._control.lost:
            self._kill("sidecar-lost", "the sidecar is gone: the task is stopped")
        exchange = self._control.exchange
        if exchange is not None:
            self._selector.register(exchange.socket, selectors.EVENT_READ)
        try:
            ready = {key.fileobj for key, _ in self._selector.select(self._seconds())}
        finally:
            if exchange is not None:
                self._selector.unregister(exchange.socket)
        if signals in ready:
            signals.recv(4096)
        if exchange is not None and exchange.socket in ready and (directive := self._control.read()):
            self._obey(directive)
        if self._terminated:
            self._terminate()
        if self._kill_at is not None and time.monotonic() >= self._kill_at:
            self._signal_group(signal.SIGKILL)
            self._kill_at = None

    def _seconds(self) -> float:
        now, seconds = time.monotonic(), IDLE_SECONDS
        if self._control.exchange is None:
            seconds = min(seconds, self._control.retry_at - now)
        if self._kill_at is not None:
            seconds = min(seconds, self._kill_at - now)
        return max(seconds, 0.0)

    def _obey(self, directive: str) -> None:
        if directive == "stop":
            self._kill("stopped", f"told to stop: {self._control.reason}")
        elif directive == "cancel" and self._kill_at is None:
            grace = self._control.grace_seconds or self._attempt.grace_seconds
            say(f"{self._control.reason or 'cancelled'}: {grace} s to end")
            self._cause, self._kill_at = "grace-over", time.monotonic() + grace
            os.kill(self._child, CANCEL_SIGNAL)

    def _kill(self, cause: Cause, why: str) -> None:
        say(why)
        self._cause = cause
        self._signal_group(signal.SIGKILL)

    def _on_sigterm(self, _number: int, _frame: object) -> None:
        self._terminated = self.leaving = True

    def _terminate(self) -> None:
        # The pod goes (a drain, say): all that was acknowledged is recorded, and the next attempt goes on from there
        self._terminated = False
        say("the pod is being ended: the task is stopped, another attempt goes on from its last record")
        self._cause, self._kill_at = "terminated", time.monotonic() + TERMINATION_SECONDS
        self._signal_group(signal.SIGTERM)

    def _signal_group(self, number: signal.Signals) -> None:
        for send in (os.killpg, os.kill):
            with suppress(ProcessLookupError):  # not yet a group of its own, or already gone
                send(self._child, number)

    def _reap(self) -> int | None:
        found: int | None = None
        while True:
            try:
                pid, status, used = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return found
            if pid == 0:
                return found
            if pid == self._child:
                found, self._resident = status, used.ru_maxrss * 1024
