"""Starts the attempt that is reserved to the pod."""

import asyncio
from typing import Final

from milepost.sidecar.calls import Calls
from milepost.sidecar.decode import BadAnswerError, build_start
from milepost.sidecar.log import log
from milepost.wire.pod import Start

RESTART_SECONDS: Final = 2.0
OK: Final = 200
VACANT: Final = "vacant"
DEFINITE: Final = frozenset({403, 404, 409, 410})


class NotStartedError(Exception):
    """The api lets this pod start nothing; the message says why. `vacant`: it may wait for work."""

    def __init__(self, message: str, *, vacant: bool = False) -> None:
        super().__init__(message)
        self.vacant = vacant


async def begin(calls: Calls) -> Start:
    """Start the attempt, however long that takes. Raises NotStartedError, StoppedError, SessionRefusedError."""
    while True:
        reply = await calls.call("POST", "/start")
        if reply.status in DEFINITE:
            problem = reply.problem()
            why = problem.get("detail") or "the api does not let this pod start"
            code = problem.get("code") or reply.status
            raise NotStartedError(f"{code}: {why}", vacant=code == VACANT)
        try:
            if reply.status == OK:
                start = build_start(reply.json())
                log("started", run=start.run_id, attempt=start.attempt, cause=start.cause)
                return start
            log("start-refused", status=reply.status, detail=reply.problem().get("detail"))
        except (BadAnswerError, ValueError) as error:
            log("bad-answer", route="/start", error=str(error))
        await asyncio.sleep(RESTART_SECONDS)
