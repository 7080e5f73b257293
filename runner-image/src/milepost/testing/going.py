"""An attempt under way in memory: calls the task as the runner does, and settles what came of it."""

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Any

from milepost.errors import MilepostError
from milepost.runner import outcome
from milepost.sdk.calling import call_async, call_plain
from milepost.sdk.context import enter
from milepost.sdk.journal import Journal
from milepost.sdk.local import write_headers
from milepost.sdk.run import AttemptInfo
from milepost.sdk.scope import spawn
from milepost.sdk.sync import enter_sync
from milepost.sdk.task import TaskFunction
from milepost.testing.attempts import AsyncMemory, BlockingMemory, Process, TestedContext, TestedSyncContext, World
from milepost.testing.memory import MemorySidecar
from milepost.testing.points import ProcessDiedError


class Going:
    """One attempt of a run."""

    def __init__(self, task: TaskFunction[..., Any], process: Process, sidecar: MemorySidecar, world: World) -> None:
        self.process = process
        self._task = task
        self._sidecar = sidecar
        self._world = world
        answer = sidecar.request("GET", "/v1/attempt", []).json()
        if not isinstance(answer, Mapping):
            raise MilepostError("the sidecar in memory knows of no attempt")
        self._info = AttemptInfo.from_json(answer)
        self._journal = Journal(self._info)
        self._context: TestedContext | None = None

    def run_plain(self) -> None:
        """Run a plain task here, to its end."""
        context = TestedSyncContext(self._journal, BlockingMemory(self._sidecar, self.process), self.process,
                                    self._world)  # fmt: skip
        self.process.on_cancel = context.cancel
        context.load()
        enter_sync(context)
        try:
            value = call_plain(self._task, context, self._info.input)
        except BaseException as error:  # noqa: BLE001  (whatever the task raised is its outcome)
            self._failed(error)
        else:
            self._returned(value)
        finally:
            context.end()

    async def run_async(self) -> None:
        """Run an async task on this loop, to its end; what it spawned ends with it."""
        loop = asyncio.get_running_loop()
        before, spawned = loop.get_task_factory(), list[asyncio.Future[Any]]()

        def factory(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Future[Any]:
            made: asyncio.Future[Any] = spawn(loop, coro, **options)
            spawned.append(made)
            return made

        def cancel() -> None:
            loop.call_soon(body.cancel, "the run was cancelled")

        loop.set_task_factory(factory)
        body = asyncio.ensure_future(self._body())
        self.process.on_death, self.process.on_cancel = partial(self._end, spawned), cancel
        try:
            value = await body
        except BaseException as error:
            if (own := asyncio.current_task()) is not None and own.cancelling():
                raise  # it is the test that is cancelled
            self._failed(error)
        else:
            self._returned(value)
        finally:
            loop.set_task_factory(before)
            for one in spawned:
                one.cancel()
            await asyncio.gather(*spawned, return_exceptions=True)
            if self._context is not None:
                self._context.end_threads()
                self._context.end()

    @staticmethod
    def _end(spawned: list[asyncio.Future[Any]]) -> None:
        for one in spawned:
            if one is not asyncio.current_task():
                one.cancel("the test lets the process die here")

    async def _body(self) -> object:
        context = TestedContext(self._journal, AsyncMemory(self._sidecar, self.process), self.process, self._world)
        self._context = context
        await context.load()
        enter(context)
        return await call_async(self._task, context, self._info.input)

    def _returned(self, value: object) -> None:
        if self.process.dead:
            return
        try:
            found = outcome.of_value(self._task, self._journal, value)
        except MilepostError as error:
            self._failed(error)
        else:
            self._put(*found)

    def _failed(self, error: BaseException) -> None:
        if self.process.dead:
            return
        if isinstance(error, (KeyboardInterrupt, ProcessDiedError)):
            raise error
        found = outcome.of_error(self._task, self._journal, error, cancelled=self.process.cancelled)
        self.process.attempt.error = self._journal.forgotten or error
        self._put(*found)

    def _put(self, target: str, body: bytes) -> None:
        try:
            self.process.live()
        except ProcessDiedError:
            return  # after its last record, and before its end
        reply = self._sidecar.request("PUT", target, write_headers(), body)
        if reply.status != 200:  # noqa: PLR2004
            raise MilepostError(f"{target} was refused: {reply.problem()}")
