"""Forwards records to the api: what waits goes together, in order, and is answered after its commit."""

import asyncio
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from typing import Final

from milepost.net.messages import ProblemError, Reply, compact
from milepost.sidecar.bases import Bases
from milepost.sidecar.calls import Calls, StoppedError
from milepost.sidecar.decode import BadAnswerError, build
from milepost.sidecar.log import log
from milepost.sidecar.session import SessionRefusedError
from milepost.sidecar.state import AttemptState
from milepost.wire.pod import ChunkWrite, RecordsAnswer, RecordWrite, StreamAnswer
from milepost.wire.values import JSON

BATCH_RECORDS: Final = 100
BATCH_BYTES: Final = 1024 * 1024
OK: Final = 200
FENCED_CODES: Final = frozenset({"fenced", "settled"})
_MEMBERS: Final = tuple(f.name for f in fields(RecordWrite))
_WHOLE: Final = tuple(name for name in _MEMBERS if name not in {"delta", "base", "size"})


@dataclass(slots=True)
class Waiting:
    """A record on its way, and the requests that it answers: a repeated one joins the first."""

    write: RecordWrite
    answers: list[asyncio.Future[int]] = field(default_factory=list)

    def open(self) -> Iterator[asyncio.Future[int]]:
        """Give those that somebody still waits for."""
        return (answer for answer in self.answers if not answer.done())


class Forwarder:
    """One request at a time, so that records commit in the order in which they came.

    Who comes while none is under way sends it himself: a lone record wakes nobody on its way. What came meanwhile is
    sent by `run`.
    """

    def __init__(self, calls: Calls, state: AttemptState, bases: Bases) -> None:
        self._calls = calls
        self._state = state
        self._bases = bases
        self._queue: deque[Waiting] = deque()
        self._by_id: dict[str, Waiting] = {}
        self._sending = False
        self._fence = b""
        self._more = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    async def put(self, write: RecordWrite) -> int:
        """Forward one record; its commit sequence. A write id that already waits joins it. Raises ProblemError."""
        waiting = self._by_id.get(write.write_id)
        alone = waiting is None and not self._sending
        if waiting is None:
            waiting = self._by_id[write.write_id] = Waiting(write)
            self._queue.append(waiting)
            self._idle.clear()
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        waiting.answers.append(answer)
        if alone:
            try:
                await self._send_next()
            finally:
                if answer.done() and not answer.cancelled():
                    answer.exception()  # who is cancelled as he sends never asks for it
        return await answer

    async def chunk(self, write: ChunkWrite) -> int:
        """Forward a part of the run's stream; its position once it is committed. Raises ProblemError."""
        body: dict[str, JSON] = {"fence": asdict(self._state.fence), "chunks": [asdict(write)]}
        try:
            reply = await self._calls.call("POST", "/stream", compact(body))
            if reply.status == OK:
                (position,) = build(StreamAnswer, reply.json()).positions
                return position
        except (StoppedError, SessionRefusedError) as stop:
            await self._state.stop(str(stop) or self._state.reason)
            raise self._state.fenced() from stop
        except (BadAnswerError, ValueError) as bad:
            log("bad-answer", route="/stream", error=str(bad))
            raise ProblemError(502, "bad-answer", f"the api answered against the protocol: {bad}") from bad
        raise await refusal(reply, self._state)

    async def drained(self) -> None:
        """Wait until nothing waits."""
        await self._idle.wait()

    async def run(self) -> None:
        """Forward for ever what nobody sends himself."""
        while True:
            await self._more.wait()
            self._more.clear()
            while self._queue and not self._sending:
                await self._send_next()

    async def _send_next(self) -> None:
        self._sending = True
        batch = self._next_batch()
        try:
            await self._forward(batch)
        except BaseException:
            for waiting in batch:  # those that joined the sender are told to try it themselves
                self._fail(waiting, ProblemError(503, "not-sent", "try again", headers=[("Retry-After", "1")]))
            raise
        finally:
            self._sending = False
            if self._queue:
                self._more.set()
            else:
                self._idle.set()

    def _next_batch(self) -> list[Waiting]:
        batch = [self._queue.popleft()]
        size = len(batch[0].write.value)
        while self._queue and len(batch) < BATCH_RECORDS:
            size += len(self._queue[0].write.value)
            if size > BATCH_BYTES:
                break
            batch.append(self._queue.popleft())
        return batch

    async def _forward(self, batch: list[Waiting]) -> None:
        error: ProblemError
        sent = [self._as_sent(waiting.write) for waiting in batch]
        try:
            reply = await self._send(sent)
            if reply.status == OK:
                self._committed(batch, sent, build(RecordsAnswer, reply.json()).seqs)
                return
            error = await refusal(reply, self._state)
        except (StoppedError, SessionRefusedError) as stop:
            await self._state.stop(str(stop) or self._state.reason)
            error = self._state.fenced()
        except (BadAnswerError, ValueError) as bad:
            log("bad-answer", route="/records", error=str(bad))
            error = ProblemError(502, "bad-answer", f"the api answered against the protocol: {bad}")
        if error.code != "fenced" and any(write.delta is not None for write in sent):
            for waiting in batch:  # perhaps it can't be put together there: once more, in full
                self._bases.forget(waiting.write)
            await self._forward(batch)
            return
        if len(batch) > 1 and error.code != "fenced":
            for waiting in batch:  # the fault of one is not that of the others
                await self._forward([waiting])
            return
        for waiting in batch:
            self._fail(waiting, error)

    def _as_sent(self, write: RecordWrite) -> RecordWrite:
        return self._bases.shortened(write) if self._state.running().deltas else write

    async def _send(self, sent: list[RecordWrite]) -> Reply:
        if self._state.stopped.is_set():
            raise StoppedError
        self._fence = self._fence or compact(asdict(self._state.fence))
        records = b",".join(compact(_members(write)) for write in sent)
        return await self._calls.call("POST", "/records", b'{"fence":%b,"records":[%b]}' % (self._fence, records))

    def _committed(self, batch: list[Waiting], sent: list[RecordWrite], seqs: list[int]) -> None:
        if len(seqs) != len(batch):
            raise BadAnswerError(f"{len(seqs)} sequence numbers for {len(batch)} records")
        start = self._state.running()
        for waiting, write, seq in zip(batch, sent, seqs, strict=True):
            if start.deltas:
                self._bases.committed(waiting.write, write, seq, start.last_seq)
            self._by_id.pop(waiting.write.write_id, None)
            for answer in waiting.open():
                answer.set_result(seq)

    def _fail(self, waiting: Waiting, error: ProblemError) -> None:
        self._by_id.pop(waiting.write.write_id, None)
        for answer in waiting.open():
            answer.set_exception(error)


def _members(write: RecordWrite) -> dict[str, JSON]:
    if write.delta is None:
        return {name: getattr(write, name) for name in _WHOLE}
    return {name: getattr(write, name) for name in _MEMBERS if name != "value"}


async def refusal(reply: Reply, state: AttemptState) -> ProblemError:
    """Turn a refusal of the api into the one for the task; one that ends the attempt stops it."""
    problem = reply.problem()
    code, detail = str(problem.get("code") or f"api-{reply.status}"), str(problem.get("detail") or "refused by the api")
    if reply.status in {403, 410} or (reply.status == 409 and code in FENCED_CODES):  # noqa: PLR2004
        await state.stop(f"{code}: {detail}")
        return state.fenced()
    members: dict[str, JSON] = {k: v for k, v in problem.items() if k not in {"status", "code", "detail"}}
    return ProblemError(reply.status, code, detail, members=members)
