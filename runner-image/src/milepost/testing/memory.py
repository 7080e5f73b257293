"""The sidecar and what stands behind it, in memory: the routes are the sidecar's own, the rows are a list."""

import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Final, TypeVar
from urllib.parse import parse_qsl

from milepost.net.messages import Headers, ProblemError, Reply, Request, Response
from milepost.sidecar import checks
from milepost.sidecar.forward import Forwarder
from milepost.sidecar.handover import over
from milepost.sidecar.objects import Uploader
from milepost.sidecar.records import Reader, local_line, newest_response
from milepost.sidecar.routes import PodSide, Routes
from milepost.sidecar.settle import Settlement, Settler
from milepost.sidecar.state import AttemptState
from milepost.wire.pod import ChunkWrite, RecordKind, RecordWrite, Start
from milepost.wire.values import JSON

T = TypeVar("T")
NOT_FOUND: Final = 404
MAX_STREAM_BYTES: Final = 16 * 1024 * 1024
Wrote = Callable[[int, "StoredRecord"], None]
"""Told the number of a record in its attempt, and the record."""


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """A record as it is kept. `value`, `types`: JSON text. `attempt`: the one that wrote it."""

    seq: int
    attempt: int
    write: RecordWrite

    @property
    def key(self) -> str:
        """Its key."""
        return self.write.key


@dataclass(frozen=True, slots=True)
class StoredChunk:
    """A part of the run's stream. `value`: JSON text. `attempt`: the one that told it."""

    position: int
    attempt: int
    write_id: str
    value: str


@dataclass
class Rows:
    """What a run keeps from attempt to attempt, and how much of it it may (0: no limit). `live`: what may write."""

    max_records: int = 0
    max_bytes: int = 0
    records: list[StoredRecord] = field(default_factory=list)
    chunks: list[StoredChunk] = field(default_factory=list)
    live: int = 0


class MemorySidecar:
    """Answers the local protocol for one attempt. `settle` is given what came of it, and says the run's state."""

    def __init__(
        self,
        start: Start,
        rows: Rows,
        settle: Callable[[Settlement], str],
        *,
        writes: Wrote | None = None,
        wrote: Wrote | None = None,
    ) -> None:
        self.state = AttemptState()
        self.numbers = 0
        self._rows = rows
        self._tell_before, self._tell_after = writes, wrote
        uploader = _Uploader(self)
        settler = _Settler(self, settle, uploader)
        self._routes = Routes(self.state, _Forwarder(self), uploader, _Reader(self, rows), settler, _NoPod())
        rows.live = start.attempt
        _now(self.state.began(start))

    def request(self, method: str, target: str, headers: Headers, body: bytes = b"") -> Reply:
        """Answer one request at once."""
        path, _, query = target.partition("?")
        named = {name.lower(): value for name, value in headers}
        named["content-length"] = str(len(body))
        asked = Request(method, path, dict(parse_qsl(query)), named, body)
        if self._routes.streams(asked):
            asked.pieces = _in_one_piece(body)
        try:
            response = _now(self._routes.handle(asked))
        except ProblemError as problem:
            response = problem.response()
        found = {name.lower(): value for name, value in response.headers}
        return Reply(response.status, {"content-type": response.content_type, **found}, response.body)

    def write(self, write: RecordWrite) -> int:
        """Keep a record; its commit sequence. Raises ProblemError."""
        self.check_live()
        for old in self._rows.records:
            if _again(write, old.write):
                return old.seq
            if write.kind == old.write.kind == "step" and old.key == write.key:
                detail = f"step {write.key!r} is recorded already: the first record counts"
                raise ProblemError(409, "step-exists", detail)
        self._check_limits(write)
        self.numbers += 1
        record = StoredRecord(len(self._rows.records) + 1, self.state.running().attempt, write)
        if self._tell_before is not None:
            self._tell_before(self.numbers, record)
        self._rows.records.append(record)
        if self._tell_after is not None:
            self._tell_after(self.numbers, record)
        return record.seq

    def _check_limits(self, write: RecordWrite) -> None:
        rows = self._rows
        if not (rows.max_records or rows.max_bytes):
            return
        kept = [*(record.write for record in rows.records), write]
        if rows.max_records and len(kept) > rows.max_records:
            raise _over("maxCount", "records", rows.max_records, kept)
        if rows.max_bytes and sum(_size(one) for one in kept) > rows.max_bytes:
            raise _over("maxBytes", "bytes of records", rows.max_bytes, kept)

    def tell(self, write: ChunkWrite) -> int:
        """Keep a part of the stream; its position. Raises ProblemError."""
        self.check_live()
        for old in self._rows.chunks:
            if old.write_id == write.write_id:
                return old.position
        if sum(len(one.value) for one in self._rows.chunks) + len(write.value) > MAX_STREAM_BYTES:
            raise ProblemError(413, "stream-full", f"a run's stream has at most {MAX_STREAM_BYTES} bytes")
        chunk = StoredChunk(len(self._rows.chunks) + 1, self.state.running().attempt, write.write_id, write.value)
        self._rows.chunks.append(chunk)
        return chunk.position

    def check_live(self) -> None:
        """Raise ProblemError when another attempt has begun."""
        if self.state.running().attempt != self._rows.live:
            _now(self.state.stop("fenced: a newer attempt runs"))
            raise self.state.fenced()


class _NoPod(PodSide):
    async def next(self, asked: checks.Asked) -> Start:  # noqa: ARG002
        raise over("each attempt of a test has a sidecar of its own")

    def tell_left(self, left: list[str]) -> None:
        """Nobody is there who would show it."""


async def _in_one_piece(body: bytes) -> AsyncIterator[bytes]:
    yield body


class _Forwarder(Forwarder):
    def __init__(self, sidecar: MemorySidecar) -> None:
        self._sidecar = sidecar

    async def put(self, write: RecordWrite) -> int:
        return self._sidecar.write(write)

    async def chunk(self, write: ChunkWrite) -> int:
        return self._sidecar.tell(write)


class _Uploader(Uploader):
    """What would be in object storage is kept as everything else is, and told as the sidecar tells it."""

    def __init__(self, sidecar: MemorySidecar) -> None:
        self._sidecar = sidecar
        self.results: dict[str, str] = {}

    async def record(self, write: RecordWrite, length: int, pieces: AsyncIterator[bytes]) -> int:  # noqa: ARG002
        text = await self._text(pieces, write.kind)
        return self._sidecar.write(replace(write, value=text))

    async def result(self, length: int, pieces: AsyncIterator[bytes]) -> str:  # noqa: ARG002
        name = str(len(self.results))
        self.results[name] = await self._text(pieces, "result")
        return name

    async def _text(self, pieces: AsyncIterator[bytes], what: str) -> str:
        body = b"".join([piece async for piece in pieces])
        return checks.value(body, self._sidecar.state.running().max_object_bytes, what)


class _Reader(Reader):
    def __init__(self, sidecar: MemorySidecar, rows: Rows) -> None:
        self._sidecar = sidecar
        self._rows = rows

    async def newest(self, kind: RecordKind, key: str) -> Response:
        self._sidecar.check_live()
        for record in reversed(self._rows.records):
            if (record.write.kind, record.key) == (kind, key):
                return newest_response(_told(record))
        raise ProblemError(NOT_FOUND, "no-record", f"no {kind} has the key {key!r}")

    async def all_after(self, after: int) -> Response:
        self._sidecar.check_live()
        newest = {record.key: record.seq for record in self._rows.records if record.write.kind == "checkpoint"}
        most = self._sidecar.state.running().max_record_bytes
        lines = b"".join(
            local_line(_told(record) | {"object_bytes": size if (size := _size(record.write)) > most else 0})
            for record in self._rows.records
            if record.seq > after and (record.write.kind == "step" or newest[record.key] == record.seq)
        )
        return Response(200, lines, content_type="application/x-ndjson")


class _Settler(Settler):
    def __init__(self, sidecar: MemorySidecar, settle: Callable[[Settlement], str], uploader: _Uploader) -> None:
        self._sidecar = sidecar
        self._results = uploader.results
        self._state = sidecar.state
        self._settle = settle

    async def settle(self, wanted: Settlement) -> str:
        if self._state.phase == "settled":
            if wanted.identity == self._state.settle_identity:
                return self._state.settled_state
            members = {"state": self._state.settled_state}
            raise ProblemError(409, "settled", "this attempt already has its result", members=members)
        self._state.check_open()
        self._sidecar.check_live()
        if wanted.result_object is not None:
            wanted = replace(wanted, result=self._results[wanted.result_object])
        state = self._settle(wanted)
        await self._state.settled(state, wanted.identity)
        return state


def _again(write: RecordWrite, old: RecordWrite) -> bool:
    """Whether the write is that one, sent again. The versions of a checkpoint are told apart by this alone."""
    same = write.write_id == old.write_id and write.kind == old.kind
    return same and (write.kind == "checkpoint" or write.key == old.key)


def _size(write: RecordWrite) -> int:
    return len(write.value.encode())


def _over(limit: str, what: str, most: int, writes: Sequence[RecordWrite]) -> ProblemError:
    sizes: Counter[str] = Counter()
    for write in writes:
        sizes[re.sub("#[0-9]+$", "", write.key)] += 1 if limit == "maxCount" else _size(write)
    ((key, size),) = sizes.most_common(1)
    detail = f"a run of this Task may have {most} {what} (records.{limit}); most of them are of {key!r}: {size}"
    members: dict[str, JSON] = {"limit": f"records.{limit}", "most": most, "key": key}
    return ProblemError(413, "run-limit", detail, members=members)


def _told(record: StoredRecord) -> dict[str, JSON]:
    """The record as the api tells it."""
    told = {name: part for name, part in asdict(record.write).items() if name not in {"delta", "base", "size"}}
    return told | {"seq": record.seq, "attempt": record.attempt}


def _now(work: Coroutine[object, object, T]) -> T:
    """Run what never waits here."""
    try:
        work.send(None)
    except StopIteration as done:
        value: T = done.value
        return value
    work.close()
    raise RuntimeError("this route waits: it has no answer in memory yet")
