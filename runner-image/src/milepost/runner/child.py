"""The process of one attempt: runs the task, settles what came of it, and ends."""

import asyncio
import atexit
import gc
import logging
import os
import signal
import sys
from typing import Final, NoReturn

from milepost.errors import (
    FencedError,
    MilepostError,
    NotRecordableError,
    ProtocolError,
    RecordTooLargeError,
    SettledError,
)
from milepost.runner import failure
from milepost.runner.harden import set_dumpable
from milepost.runner.log import say
from milepost.sdk.client import AsyncSidecar, BlockingSidecar
from milepost.sdk.context import Context, enter
from milepost.sdk.journal import Journal
from milepost.sdk.local import write_headers
from milepost.sdk.run import AttemptInfo
from milepost.sdk.scope import spawn
from milepost.sdk.sync import SyncContext, enter_sync
from milepost.sdk.task import TaskFunction
from milepost.wire.local import EXIT_FAILED, EXIT_FENCED, EXIT_SIDECAR
from milepost.wire.pod import FailureKind

CANCEL_SIGNAL: Final = signal.SIGUSR1
SETTLED: Final = b"s"
REFUSED: Final = (NotRecordableError, RecordTooLargeError, ProtocolError)
Outcome = tuple[str, bytes]
"""Where to PUT what came of the task, and its body."""


def run_and_exit(task: TaskFunction[..., object], attempt: AttemptInfo, socket: str, told: int) -> NoReturn:
    """Run the attempt in this freshly forked process. One byte goes to the pipe `told` once it is settled."""
    code = EXIT_FAILED
    gc.freeze()  # what the parent loaded stays: collections need not walk it, nor copy its pages
    try:
        set_dumpable(allowed=True)  # debuggers and profilers of the user may look at the user's own process
        if not logging.getLogger().handlers:
            logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
        code = _attempt(task, attempt, socket, told)
        atexit._run_exitfuncs()  # noqa: SLF001  # what the user's modules registered; a fork has no other way to it
    except BaseException as error:  # noqa: BLE001  # nothing may run on into the parent's stack
        say(failure.traceback_of(error))
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None and not stream.closed:
                stream.flush()
        os._exit(code)


def _attempt(task: TaskFunction[..., object], attempt: AttemptInfo, socket: str, told: int) -> int:
    sidecar = BlockingSidecar(socket)
    try:
        target, body = _outcome(task, attempt, socket, sidecar)
        try:
            sidecar.call("PUT", target, write_headers(), body)
        except REFUSED as error:  # by a limit that the SDK does not know of
            target, body = "/v1/failure", failure.of_exception(error)
            sidecar.call("PUT", target, write_headers(), body)
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


def _outcome(task: TaskFunction[..., object], attempt: AttemptInfo, socket: str, sidecar: BlockingSidecar) -> Outcome:
    asked = Asked()
    try:
        value = _run_async(task, attempt, socket, asked) if task.is_async else _run_plain(task, attempt, sidecar, asked)
        return "/v1/result", task.binding.result(value, attempt.max_result_bytes).encode()
    except FencedError:
        raise
    except asyncio.CancelledError as error:
        # one that nobody asked for is the task's own
        kind: FailureKind = "cancelled" if asked.cancel else "user"
        return "/v1/failure", failure.of_exception(error, kind)
    except SystemExit as error:
        return "/v1/failure", failure.body("user", "SystemExit", f"the task called sys.exit({error.code!r})")
    except BaseException as error:  # noqa: BLE001  # whatever the task raised is its outcome
        say(failure.traceback_of(error))
        return "/v1/failure", failure.of_exception(error)


class Asked:
    """What was asked of this process."""

    cancel = False


def _run_plain(task: TaskFunction[..., object], attempt: AttemptInfo, sidecar: BlockingSidecar, asked: Asked) -> object:
    context = SyncContext(Journal(attempt), sidecar)

    def cancel(_number: int, _frame: object) -> None:
        asked.cancel = True
        context.cancel()

    signal.signal(CANCEL_SIGNAL, cancel)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {CANCEL_SIGNAL})
    context.load()
    enter_sync(context)
    return task.bind(context, attempt.input)()


def _run_async(task: TaskFunction[..., object], attempt: AttemptInfo, socket: str, asked: Asked) -> object:
    async def body() -> object:
        sidecar = AsyncSidecar(socket)
        loop, own = asyncio.get_running_loop(), asyncio.current_task()

        def cancel() -> None:
            asked.cancel = True
            if own is not None:
                own.cancel("the run was cancelled")

        loop.add_signal_handler(CANCEL_SIGNAL, cancel)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {CANCEL_SIGNAL})
        try:
            context = Context(Journal(attempt), sidecar)
            await context.load()
            enter(context)
            value = task.bind(context, attempt.input)()
            return await value if asyncio.iscoroutine(value) else value
        finally:
            loop.remove_signal_handler(CANCEL_SIGNAL)
            signal.signal(CANCEL_SIGNAL, signal.SIG_IGN)  # too late to cancel: the task has ended
            sidecar.close()

    with asyncio.Runner() as runner:
        runner.get_loop().set_task_factory(spawn)
        return runner.run(body())
