"""Between two attempts: asks the api for work for as long as it lets the pod live, and starts what it gives."""

import asyncio
import gc
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Final

from milepost.net.messages import ProblemError, Reply, compact, jitter
from milepost.sidecar.begin import NotStartedError, begin
from milepost.sidecar.calls import Calls, StoppedError
from milepost.sidecar.checks import Asked
from milepost.sidecar.decode import BadAnswerError, build
from milepost.sidecar.log import log
from milepost.sidecar.session import Api, SessionRefusedError
from milepost.sidecar.tenure import Tenure
from milepost.wire.pod import Code, LeftRequest, NextAnswer, NextRequest, Start

OK: Final = 200
GONE: Final = 410
POLL_SECONDS: Final = 30.0
"""More than the api lets a poll wait."""
RETIRE_SECONDS: Final = 5.0
LOST_SECONDS: Final = 180.0
"""An api that says nothing for so long may be gone for good: a pod that waits for it need not."""
FIRST_PAUSE: Final = 0.02
LAST_PAUSE: Final = 1.0
QUICK_SECONDS: Final = 1.0


class HandOver:
    """One at a time, and not ended by the end of the connection that asked: whoever asks again joins it."""

    def __init__(self, api: Api, tenure: Callable[[], Tenure], enter: Callable[[Start], Awaitable[None]]) -> None:
        self._calls = Calls(api, asyncio.Event())
        self._tenure = tenure
        self._enter = enter
        self._under_way: asyncio.Task[Start] | None = None
        self._telling: asyncio.Task[None] | None = None

    def tell_left(self, left: list[str]) -> None:
        """Tell the api what the import of the task left: it is about all runs of the pod, and none waits for it."""
        if self._telling is None:
            self._telling = asyncio.get_running_loop().create_task(self._tell_left(left))

    async def _tell_left(self, left: list[str]) -> None:
        try:
            reply = await self._calls.call("POST", "/left", compact(asdict(LeftRequest(left))))
        except (StoppedError, SessionRefusedError) as error:
            log("left-untold", error=str(error))
        else:
            log("left-told", left=len(left), status=reply.status)  # 404: an api that does not want to know

    async def next(self, asked: Asked) -> Start:
        """Give the next attempt. Raises ProblemError: 410 when the pod has to end, 409 while its attempt is open."""
        if self._under_way is None:
            self._under_way = asyncio.get_running_loop().create_task(self._next(asked))
            self._under_way.add_done_callback(self._done)
        return await asyncio.shield(self._under_way)

    def _done(self, ended: "asyncio.Task[Start]") -> None:
        self._under_way = None
        if not ended.cancelled() and (error := ended.exception()) is not None:
            log("no-next-attempt", reason=str(error))

    async def _next(self, asked: Asked) -> Start:
        if (lost := await self._answer_lost(asked)) is not None:
            return lost
        gc.collect()  # the attempt that ended goes now, while nobody waits
        try:
            if asked.retire is not None:
                raise await self._retired(asked)
            return await self._wait_for_work(asked)
        except TimeoutError as error:
            raise over(f"the api has not answered for {LOST_SECONDS:.0f} s") from error
        except (StoppedError, SessionRefusedError, BadAnswerError, ValueError) as error:
            raise over(str(error)) from error

    async def _answer_lost(self, asked: Asked) -> Start | None:
        """Give the attempt that was started, but of which the runner does not know: the sidecar died in between."""
        state = self._tenure().state
        try:
            start = await state.wait_known()
        except ProblemError:
            return None  # a restarted sidecar had nothing to start
        if isinstance(start, Code):
            return None  # the pod has had none
        if state.ended.is_set():
            return None
        if (start.run_id, start.attempt) == (asked.run_id, asked.attempt):
            raise ProblemError(409, "not-settled", "this attempt is not over: settle it before you ask for the next")
        return start

    async def _retired(self, asked: Asked) -> ProblemError:
        log("retire", reason=asked.retire)
        try:
            async with asyncio.timeout(RETIRE_SECONDS):
                await self._poll(asked)
        except TimeoutError:
            log("retire-untold", reason=asked.retire)  # the end of the pod says it too
        return over(f"retired: {asked.retire}")

    async def _wait_for_work(self, asked: Asked) -> Start:
        loop, pause = asyncio.get_running_loop(), FIRST_PAUSE
        log("idle", parent_bytes=asked.parent_bytes)
        while True:
            since = loop.time()
            async with asyncio.timeout(LOST_SECONDS):
                reply = await self._poll(asked)
            if _works(reply):
                try:
                    start = await begin(self._calls)
                except NotStartedError as error:
                    log("offer-withdrawn", reason=str(error))
                else:
                    await self._enter(start)
                    return start
            if loop.time() - since > QUICK_SECONDS:
                pause = FIRST_PAUSE
            else:  # an api that ends or withdraws all at once is not asked all the time
                await asyncio.sleep(pause * jitter())
                pause = min(pause * 2, LAST_PAUSE)

    async def _poll(self, asked: Asked) -> Reply:
        body = compact(asdict(NextRequest(asked.retire, asked.parent_bytes)))
        return await self._calls.call("POST", "/next", body, seconds=POLL_SECONDS)

    async def end(self) -> None:
        """Stop waiting."""
        under_way = [task for task in (self._under_way, self._telling) if task is not None]
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)


def _works(reply: Reply) -> bool:
    if reply.status != OK:  # 410: the pod's row is closed; 404: an api that knows of no second attempt
        raise over(str(reply.problem().get("detail") or f"the api answered {reply.status}"))
    return build(NextAnswer, reply.json()).work


def over(why: str) -> ProblemError:
    """Make the answer that ends the pod."""
    return ProblemError(GONE, "over", f"no attempt follows in this pod: {why}")
