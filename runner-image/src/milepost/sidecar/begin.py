"""Starts the attempt that is reserved to the pod, or finds out what to make it ready for."""

import asyncio
from typing import Final

from milepost.sidecar.calls import Calls
from milepost.sidecar.decode import BadAnswerError, build, build_start
from milepost.sidecar.log import log
from milepost.wire.pod import NO_ATTEMPT_YET, Code, Start

RESTART_SECONDS: Final = 2.0
OK: Final = 200
DEFINITE: Final = frozenset({403, 404, 409, 410})


class NotStartedError(Exception):
    """The api lets this pod start nothing; the message says why."""


class NoAttemptYetError(NotStartedError):
    """The pod has had no attempt, and will get one: it is to be made ready for that."""


async def begin(calls: Calls) -> Start:
    """Start the attempt, however long that takes. Raises NotStartedError, StoppedError, SessionRefusedError."""
    while True:
        reply = await calls.call("POST", "/start")
        if reply.status in DEFINITE:
            problem = reply.problem()
            why = problem.get("detail") or "the api does not let this pod start"
            if problem.get("code") == NO_ATTEMPT_YET:
                raise NoAttemptYetError(str(why))
            raise NotStartedError(f"{problem.get('code') or reply.status}: {why}")
        try:
            if reply.status == OK:
                start = build_start(reply.json())
                log("started", run=start.run_id, attempt=start.attempt, cause=start.cause)
                return start
            log("start-refused", status=reply.status, detail=reply.problem().get("detail"))
        except (BadAnswerError, ValueError) as error:
            log("bad-answer", route="/start", error=str(error))
        await asyncio.sleep(RESTART_SECONDS)


async def code_of(calls: Calls) -> Code:
    """Ask what a pod without an attempt is to import. Raises as `begin`."""
    while True:
        reply = await calls.call("GET", "/code")
        if reply.status in DEFINITE:
            raise NotStartedError(str(reply.problem().get("detail") or f"/code answered {reply.status}"))
        try:
            if reply.status == OK:
                return build(Code, reply.json())
            log("code-refused", status=reply.status)
        except (BadAnswerError, ValueError) as error:
            log("bad-answer", route="/code", error=str(error))
        await asyncio.sleep(RESTART_SECONDS)
