"""Passes values on that are too large for a record: piece by piece as they come, checked, and never held.

So it can't send one again, either. What fails on the way is answered with 503, and who has the value, the task's
process, sends it again: through an outage of the object storage as through one of the api.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from milepost.net.messages import ProblemError, Reply, TransportError, compact
from milepost.sidecar.calls import PASSING, Calls
from milepost.sidecar.decode import BadAnswerError, build
from milepost.sidecar.forward import refusal
from milepost.sidecar.log import log
from milepost.sidecar.session import UNAUTHORIZED, SessionRefusedError
from milepost.sidecar.state import AttemptState
from milepost.wire.pod import ObjectAnswer, RecordWrite
from milepost.wire.values import JSON

if TYPE_CHECKING:
    from milepost.wire.scan import Scanner

OK: Final = 200
AT_ONCE: Final = 4
"""Values on their way at the same time; each takes a few pieces of memory."""
PIECE_SECONDS: Final = 30.0


class Uploader:
    """For one attempt."""

    def __init__(self, calls: Calls, state: AttemptState) -> None:
        self._calls = calls
        self._state = state
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def record(self, write: RecordWrite, length: int, pieces: AsyncIterator[bytes]) -> int:
        """Have a record committed whose value comes in pieces; its commit sequence. Raises ProblemError."""
        members: dict[str, JSON] = {
            name: part for name, part in asdict(write).items() if name not in {"value", "delta", "base", "size"}
        }
        answer = await self._upload(members, length, pieces)
        if answer.seq is None:
            raise _against_protocol("no sequence number for a record")
        return answer.seq

    async def result(self, length: int, pieces: AsyncIterator[bytes]) -> str:
        """Store the run's result; the object that a settling has to name. Raises ProblemError."""
        answer = await self._upload(None, length, pieces)
        if answer.object is None:
            raise _against_protocol("no object for a result")
        return answer.object

    async def _upload(self, record: JSON, length: int, pieces: AsyncIterator[bytes]) -> ObjectAnswer:
        from milepost.wire.scan import Scanner  # noqa: PLC0415  (most tasks never pay for it)

        head = compact({"fence": asdict(self._state.fence), "size": length, "record": record}) + b"\n"
        async with self._turns:
            try:
                body = _checked(head, pieces, Scanner())
                reply = await self._calls.api.upload("/objects", len(head) + length, body, PIECE_SECONDS)
            except TransportError as error:
                log("api-unreachable", route="/objects", error=str(error))
                raise _later(f"the value could not be passed on: {error}") from error
            except SessionRefusedError as stop:
                await self._state.stop(str(stop))
                raise self._state.fenced() from stop
        return await self._answer(reply)

    async def _answer(self, reply: Reply) -> ObjectAnswer:
        if reply.status == OK:
            try:
                return build(ObjectAnswer, reply.json())
            except (BadAnswerError, ValueError) as bad:
                raise _against_protocol(str(bad)) from bad
        if reply.status == UNAUTHORIZED or reply.status in PASSING:
            log("api-retry", route="/objects", status=reply.status)
            raise _later(str(reply.problem().get("detail") or f"the api answered {reply.status}"), reply.retry_after)
        raise await refusal(reply, self._state)


async def _checked(head: bytes, pieces: AsyncIterator[bytes], scanner: "Scanner") -> AsyncIterator[bytes]:
    """Let text through that may be recorded. The end of it only once all of it was seen: what is bad stays half."""
    held = head
    async for piece in pieces:
        if bad := scanner.feed(piece):
            break
        yield held
        held = piece
    else:
        bad = scanner.end()
    if bad:
        raise ProblemError(422, bad.code, f"{bad.path}: {bad.detail}", members={"path": bad.path})
    yield held


def _later(detail: str, seconds: float | None = None) -> ProblemError:
    return ProblemError(503, "not-stored", f"{detail}: try again", headers=[("Retry-After", f"{seconds or 1:.0f}")])


def _against_protocol(detail: str) -> ProblemError:
    log("bad-answer", route="/objects", error=detail)
    return ProblemError(502, "bad-answer", f"the api answered against the protocol: {detail}")
