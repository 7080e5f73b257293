"""The process of one attempt: runs the task, settles what came of it, and ends."""

import asyncio
import atexit
import gc
import logging
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Final, NoReturn

from milepost.errors import (
    FencedError,
    MilepostError,
    NotRecordableError,
    ProtocolError,
    RecordTooLargeError,
    SettledError,
)
from milepost.net.messages import compact
from milepost.runner import cgroup, failure, outcome
from milepost.runner.blocked import Watchdog, blocked_seconds
from milepost.runner.harden import set_dumpable
from milepost.runner.left import tell_left
from milepost.runner.log import say
from milepost.sdk.calling import call_async, call_plain
from milepost.sdk.client import AsyncSidecar, BlockingSidecar
from milepost.sdk.context import Context, enter
from milepost.sdk.journal import Journal
from milepost.sdk.local import write_headers
from milepost.sdk.run import AttemptInfo
from milepost.sdk.scope import spawn
from milepost.sdk.sync import SyncContext, enter_sync
from milepost.sdk.task import TaskFunction
from milepost.sdk.waits import Leave
from milepost.wire.local import EXIT_FAILED, EXIT_FENCED, EXIT_SIDECAR
from milepost.wire.values import JSON
from milepost.wire.wait import Wait

CANCEL_SIGNAL: Final = signal.SIGUSR1
SETTLED: Final = b"s"
TOLD_WAITS: Final = 3
REFUSED: Final = (NotRecordableError, RecordTooLargeError, ProtocolError)


def run_and_exit(
    task: TaskFunction[..., object], attempt: AttemptInfo, socket: str, before: cgroup.Counters, told: int
) -> NoReturn:
    """Run the attempt in this freshly forked process. One byte goes to the pipe `told` once it is settled.

    `before`: what the kernel had noted of the container as the attempt began.
    """
    code = EXIT_FAILED
    gc.freeze()  # what the parent loaded stays: collections need not walk it, nor copy its pages
    try:
        set_dumpable(allowed=True)  # debuggers and profilers of the user may look at the user's own process
        if not logging.getLogger().handlers:
            logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
        code = _attempt(task, attempt, socket, before, told)
        atexit._run_exitfuncs()  # noqa: SLF001  # what the user's modules registered; a fork has no other way to it
    except BaseException as error:  # noqa: BLE001  # nothing may run on into the parent's stack
        say(failure.traceback_of(error))
    finally:
        flush()
        os._exit(code)


def _attempt(
    task: TaskFunction[..., object], attempt: AttemptInfo, socket: str, before: cgroup.Counters, told: int
) -> int:
    sidecar, own = BlockingSidecar(socket), os.getpid()
    try:
        target, body = _outcome(task, attempt, socket, sidecar, _leave(sidecar, before, told))
        if os.getpid() != own:
            say("a process that the task forked ran on to the task's end: let it end itself, with os._exit")
            return EXIT_FAILED  # the result is the task's own process's to settle
        try:
            sidecar.call("PUT", target, [*write_headers(), *cgroup.own_usage(before)], body)
        except REFUSED as error:  # by a limit that the SDK does not know of
            target, body = "/v1/failure", failure.of_exception(error)
            sidecar.call("PUT", target, [*write_headers(), *cgroup.own_usage(before)], body)
    except FencedError as error:
        say(f"fenced: {error}")
        return EXIT_FENCED
    except SettledError as error:
        say(str(error))
        return EXIT_FENCED
    except MilepostError as error:
        say(f"the attempt could not be settled: {error}")
        return EXIT_SIDECAR
    os.write(told, SETTLED)
    return 0 if target == "/v1/result" else EXIT_FAILED


def _leave(sidecar: BlockingSidecar, before: cgroup.Counters, told: int) -> Leave:
    """What ends an attempt that waits: at once, since what the task has on its stack is not over."""

    def leave(waits: Sequence[Wait]) -> NoReturn:
        body: dict[str, JSON] = {"waits": [asdict(wait) for wait in waits]}
        sidecar.call("PUT", "/v1/suspension", [*write_headers(), *cgroup.own_usage(before)], compact(body))
        say(f"waits without a pod: {'; '.join(wait.name or wait.key for wait in waits[:TOLD_WAITS])}")
        os.write(told, SETTLED)
        flush()
        os._exit(0)

    return leave


def flush() -> None:
    """Write out what the task printed."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not stream.closed:
            stream.flush()


def _outcome(
    task: TaskFunction[..., object], attempt: AttemptInfo, socket: str, sidecar: BlockingSidecar, leave: Leave
) -> outcome.Outcome:
    asked, journal = Asked(), Journal(attempt)
    try:
        if task.is_async:
            value = _run_async(task, journal, socket, asked, leave)
        else:
            value = _run_plain(task, journal, sidecar, asked, leave)
        return outcome.of_value(task, journal, value)
    except FencedError:
        raise
    except BaseException as error:  # noqa: BLE001  # whatever the task raised is its outcome
        if not isinstance(error, (asyncio.CancelledError, SystemExit)):
            say(failure.traceback_of(error))
        return outcome.of_error(task, journal, error, cancelled=asked.cancel)


class Asked:
    """What was asked of this process."""

    cancel = False


def _run_plain(
    task: TaskFunction[..., object], journal: Journal, sidecar: BlockingSidecar, asked: Asked, leave: Leave
) -> object:
    context = SyncContext(journal, sidecar, leave)

    def cancel(_number: int, _frame: object) -> None:
        asked.cancel = True
        context.cancel()

    signal.signal(CANCEL_SIGNAL, cancel)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {CANCEL_SIGNAL})
    context.load()
    enter_sync(context)
    try:
        return call_plain(task, context, journal.attempt.input)
    finally:
        context.end()


def _run_async(task: TaskFunction[..., object], journal: Journal, socket: str, asked: Asked, leave: Leave) -> object:
    contexts: list[Context] = []

    async def body() -> object:
        sidecar = AsyncSidecar(socket)
        loop, own = asyncio.get_running_loop(), asyncio.current_task()

        def cancel() -> None:
            asked.cancel = True
            if own is not None:
                own.cancel("the run was cancelled")

        watchdog = Watchdog(loop, blocked_seconds(os.environ))
        loop.add_signal_handler(CANCEL_SIGNAL, cancel)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {CANCEL_SIGNAL})
        try:
            context = Context(journal, sidecar, leave)
            contexts.append(context)
            await context.load()
            enter(context)
            return await call_async(task, context, journal.attempt.input)
        finally:
            watchdog.stop()
            tell_left(own)
            for context in contexts:
                context.end_threads()
            loop.remove_signal_handler(CANCEL_SIGNAL)
            signal.signal(CANCEL_SIGNAL, signal.SIG_IGN)  # too late to cancel: the task has ended
            sidecar.close()

    try:
        with asyncio.Runner() as runner:
            runner.get_loop().set_task_factory(spawn)
            return runner.run(body())
    finally:
        for context in contexts:  # what the task left at work has ended, too
            context.end()
