"""Group commit: what arrives while one commit is under way goes into the next; load makes batches, not queues."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from milepost_operator.domain.errors import BusyError, MilepostError, OverloadedError, UnavailableError
from milepost_operator.obs.logging import get_logger

MAX_BATCH_RECORDS: Final = 256
MAX_BATCH_BYTES: Final = 4 * 1024 * 1024
MAX_WAITING_REQUESTS: Final = 4096
MAX_WAITING_BYTES: Final = 64 * 1024 * 1024
BUSY_SECONDS: Final = (0.01, 0.02, 0.04, 0.08, *(0.15,) * 32)
"""Before each new try of a request whose row somebody has locked: five seconds in all, as a lock is waited for."""

Request = TypeVar("Request")
Answer = TypeVar("Answer")

_log = get_logger(__name__)


@dataclass(slots=True, eq=False)
class _Waiting(Generic[Request, Answer]):
    request: Request
    records: int
    size: int
    answer: asyncio.Future[Answer]
    tries: int = 0


class Batcher(Generic[Request, Answer]):
    """Commits requests together, in the order of arrival, one batch at a time.

    `commit` answers per request with its result or its error; a BusyError puts the request into a later batch.
    `observe(requests, seconds)` is told of each batch. An idle batcher starts at once: a lone request waits for nobody.
    """

    def __init__(
        self,
        commit: Callable[[Sequence[Request]], Awaitable[Sequence[Answer | MilepostError]]],
        observe: Callable[[int, float], None],
        *,
        max_records: int = MAX_BATCH_RECORDS,
        max_waiting: int = MAX_WAITING_REQUESTS,
        max_waiting_bytes: int = MAX_WAITING_BYTES,
        busy_seconds: Sequence[float] = BUSY_SECONDS,
    ) -> None:
        self._commit = commit
        self._observe = observe
        self._max_records = max_records
        self._max_waiting = max_waiting
        self._max_waiting_bytes = max_waiting_bytes
        self._busy_seconds = busy_seconds
        self._queue: deque[_Waiting[Request, Answer]] = deque()
        self._bytes = 0
        self._busy = 0
        self._worker: asyncio.Task[None] | None = None

    async def submit(self, request: Request, *, records: int = 1, size: int = 0) -> Answer:
        """Return the answer once it is committed. UnavailableError when too much waits already."""
        if len(self._queue) + self._busy >= self._max_waiting or self._bytes + size > self._max_waiting_bytes:
            raise OverloadedError("too many requests wait for a commit")
        waiting: _Waiting[Request, Answer] = _Waiting(
            request, records, size, asyncio.get_running_loop().create_future()
        )
        self._bytes += size
        self._enqueue(waiting)
        return await waiting.answer

    def _enqueue(self, waiting: _Waiting[Request, Answer]) -> None:
        self._queue.append(waiting)
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())

    async def _work(self) -> None:
        try:
            while self._queue:
                await self._settle(self._take())
        finally:
            self._worker = None
            for left in self._queue:  # only when we are cancelled: nobody may wait for ever
                self._bytes -= left.size
                if not left.answer.done():
                    left.answer.set_exception(UnavailableError("the api is stopping"))
            self._queue.clear()

    def _take(self) -> list[_Waiting[Request, Answer]]:
        batch: list[_Waiting[Request, Answer]] = []
        records = size = 0
        while self._queue:
            first = self._queue[0]
            records += first.records
            size += first.size
            if batch and (records > self._max_records or size > MAX_BATCH_BYTES):
                break
            self._queue.popleft()
            self._bytes -= first.size
            if not first.answer.done():  # its client has gone before we began: nothing was promised
                batch.append(first)
        return batch

    async def _settle(self, batch: list[_Waiting[Request, Answer]]) -> None:
        if not batch:
            return
        began = time.perf_counter()
        try:
            answers = await self._commit([waiting.request for waiting in batch])
            for waiting, answer in zip(batch, answers, strict=True):
                self._tell(waiting, answer)
        except MilepostError as error:
            for waiting in batch:
                _tell(waiting, error)
        except Exception as error:  # noqa: BLE001 (whatever it is, each waiting request is told)
            _log.exception("batch_failed", requests=len(batch))
            if len(batch) == 1:
                _fail(batch[0], error)
            else:  # one bad request must not take the others with it
                for waiting in batch:
                    await self._settle([waiting] if not waiting.answer.done() else [])
        except BaseException:
            for waiting in batch:
                _fail(waiting, UnavailableError("the api is stopping"))
            raise
        else:
            self._observe(len(batch), time.perf_counter() - began)

    def _tell(self, waiting: _Waiting[Request, Answer], answer: Answer | MilepostError) -> None:
        if isinstance(answer, BusyError) and not waiting.answer.done():
            self._later(waiting, answer)
        else:
            _tell(waiting, answer)

    def _later(self, waiting: _Waiting[Request, Answer], error: BusyError) -> None:
        """Try it again in a while, without holding the others up."""
        if waiting.tries >= len(self._busy_seconds):
            _fail(waiting, UnavailableError(f"{error}, and did not give it back"))
            return
        pause = self._busy_seconds[waiting.tries]
        waiting.tries += 1
        self._busy += 1
        self._bytes += waiting.size
        asyncio.get_running_loop().call_later(pause, self._again, waiting)

    def _again(self, waiting: _Waiting[Request, Answer]) -> None:
        self._busy -= 1
        self._enqueue(waiting)


def _tell(waiting: _Waiting[Request, Answer], answer: Answer | MilepostError) -> None:
    if isinstance(answer, MilepostError):
        _fail(waiting, answer)
    elif not waiting.answer.done():
        waiting.answer.set_result(answer)


def _fail(waiting: _Waiting[Request, Answer], error: Exception) -> None:
    if not waiting.answer.done():
        waiting.answer.set_exception(error)
