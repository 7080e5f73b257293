"""Settles the attempt: once, after everything written before it, and the same answer for a repeated request."""

import asyncio
from dataclasses import asdict, dataclass, field
from typing import Final

from milepost.net.messages import ProblemError, compact
from milepost.sidecar.calls import Calls, StoppedError
from milepost.sidecar.decode import BadAnswerError, build
from milepost.sidecar.forward import Forwarder, refusal
from milepost.sidecar.log import log
from milepost.sidecar.session import SessionRefusedError
from milepost.sidecar.state import AttemptState
from milepost.wire.pod import Evidence, Failure, Outcome, SettleAnswer, SettleRequest, Wait

OK: Final = 200


@dataclass(frozen=True, slots=True)
class Settlement:
    """What a request wants to settle. `identity` tells a repeated request from another one."""

    identity: str
    outcome: Outcome
    result: str | None = None
    failure: Failure | None = None
    evidence: Evidence = field(default_factory=Evidence)
    waits: list[Wait] = field(default_factory=list)
    result_object: str | None = None


class Settler:
    """Holds the settling that is under way."""

    def __init__(self, calls: Calls, state: AttemptState, forwarder: Forwarder) -> None:
        self._calls = calls
        self._state = state
        self._forwarder = forwarder
        self._under_way: asyncio.Task[str] | None = None

    async def settle(self, wanted: Settlement) -> str:
        """Settle and give the run's state after it. Raises ProblemError; 409 when it has another result already."""
        while self._under_way is not None:
            await self.finish()
        if self._state.phase == "settled":
            if wanted.identity == self._state.settle_identity:
                return self._state.settled_state
            members = {"state": self._state.settled_state}
            raise ProblemError(409, "settled", "this attempt already has its result", members=members)
        self._state.check_open()
        self._state.phase = "settling"
        self._under_way = asyncio.get_running_loop().create_task(self._run(wanted))
        try:
            return await asyncio.shield(self._under_way)
        finally:
            self._clear()

    async def finish(self) -> None:
        """Wait for a settling under way, whatever comes of it."""
        if self._under_way is not None:
            await asyncio.wait({self._under_way})
            self._clear()

    def _clear(self) -> None:
        if self._under_way is not None and self._under_way.done():
            self._under_way = None

    async def _run(self, wanted: Settlement) -> str:
        await self._forwarder.drained()
        request = SettleRequest(
            self._state.fence,
            wanted.outcome,
            wanted.result,
            wanted.failure,
            wanted.evidence,
            wanted.waits,
            wanted.result_object,
        )
        try:
            reply = await self._calls.call("POST", "/settle", compact(asdict(request)))
            if reply.status != OK:
                raise await refusal(reply, self._state)
            state = build(SettleAnswer, reply.json()).state
        except (StoppedError, SessionRefusedError) as error:
            await self._state.stop(str(error) or self._state.reason)
            raise self._state.fenced() from error
        except (BadAnswerError, ValueError) as error:
            log("bad-answer", route="/settle", error=str(error))
            raise ProblemError(502, "bad-answer", f"the api answered against the protocol: {error}") from error
        else:
            await self._state.settled(state, wanted.identity)
            log("settled", outcome=wanted.outcome, state=state)
            return state
        finally:
            if self._state.phase == "settling":
                self._state.phase = "running"  # refused: the task may settle a failure that says so
