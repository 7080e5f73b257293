"""`/pod/v1/objects`: values too large for a record pass through here to the object storage and back, a piece at a time.

The row of an object is there before it, and the record that refers to it is committed after it is whole: what breaks
off in between leaves an object that nothing refers to, and the sweep deletes it.
"""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Final
from uuid import UUID

from pydantic import TypeAdapter
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from milepost.wire.pod import MAX_OBJECT_HEAD, PREFIX, Fence, ObjectAnswer, ObjectHead
from milepost_operator.api import checks
from milepost_operator.api.auth import session_of
from milepost_operator.api.bodies import json_response, parse_wire
from milepost_operator.api.pod import fence_of, integer_of
from milepost_operator.api.values import require_value
from milepost_operator.domain.errors import (
    DamagedError,
    InvalidInputError,
    MilepostError,
    NotFoundError,
    OverloadedError,
    StorageError,
    TooLargeError,
    UnavailableError,
)
from milepost_operator.domain.objects import StoredObject, Upload
from milepost_operator.domain.runs import PodSession
from milepost_operator.obs.logging import get_logger
from milepost_operator.obs.metrics import Metrics
from milepost_operator.ports.objects import Bucket, Objects
from milepost_operator.ports.store import PodStore

AT_ONCE: Final = 32
"""Values on their way at the same time: each takes a few pieces of memory."""
PIECE_SECONDS: Final = 30.0
"""For the next piece of a value to come in."""

_HEAD: Final = TypeAdapter(ObjectHead)
_log = get_logger(__name__)


class Values:
    """Values in object storage, with their rows. `bucket` None: there is no such storage."""

    def __init__(self, bucket: Bucket | None, *, limit: int, metrics: Metrics) -> None:
        self.limit = limit
        self._bucket = bucket
        self._metrics = metrics
        self._passing = 0

    def require_bucket(self) -> Bucket:
        """Where they are. Raises StorageError when that is nowhere."""
        if self._bucket is None:
            raise StorageError("there is no object storage: objectStorage.bucket is not set")
        return self._bucket

    def require_room(self) -> None:
        """Raise OverloadedError when as many values are on their way as may be."""
        if self._passing >= AT_ONCE:
            raise OverloadedError(f"{AT_ONCE} large values are on their way here already")

    @contextmanager
    def passing(self) -> Iterator[None]:
        """A value is on its way."""
        self._passing += 1
        try:
            yield
        finally:
            self._passing -= 1

    async def store(self, upload: Upload, pieces: AsyncIterator[bytes]) -> bytes:
        """Write an object; its SHA-256. Raises what the bucket and `pieces` do."""
        digest = hashlib.sha256()

        async def hashed() -> AsyncIterator[bytes]:
            async for piece in pieces:
                digest.update(piece)
                yield piece

        await self.require_bucket().put(upload.key, upload.size, hashed())
        self._metrics.object_bytes.labels("in").inc(upload.size)
        return digest.digest()

    async def answer(self, found: StoredObject) -> Response:
        """The value as a response. What is damaged breaks it off: nobody takes it for whole."""
        self.require_room()
        pieces = await self.require_bucket().get(found.key)
        self._metrics.object_bytes.labels("out").inc(found.size)
        headers = {"Content-Length": str(found.size)}
        return StreamingResponse(self.whole(pieces, found), headers=headers, media_type="application/json")

    async def whole(self, pieces: AsyncIterator[bytes], found: StoredObject) -> AsyncGenerator[bytes]:
        """An object as it comes, its last piece only once all of it is known to be what was written. DamagedError."""
        digest, size, held = hashlib.sha256(), 0, b""
        with self.passing():
            async for piece in pieces:
                if held:
                    yield held
                digest.update(piece)
                size, held = size + len(piece), piece
        if size != found.size or digest.digest() != found.sha256:
            raise DamagedError(f"object {found.key} is not what was written: {size} of {found.size} bytes")
        yield held


class ObjectsApi:
    """Handlers for sidecars."""

    def __init__(self, store: PodStore, objects: Objects, values: Values, metrics: Metrics) -> None:
        self._store = store
        self._objects = objects
        self._values = values
        self._metrics = metrics

    def routes(self) -> list[Route]:
        """What belongs below the app's router."""
        return [
            Route(f"{PREFIX}/objects", self.put, methods=["PUT"]),
            Route(f"{PREFIX}/objects", self.get, methods=["GET"]),
        ]

    async def put(self, request: Request) -> Response:
        session, body = session_of(request), Incoming(request)
        head = parse_wire(_HEAD, await body.line(MAX_OBJECT_HEAD))
        await self._check(head)
        self._values.require_room()
        with self._values.passing():
            begun = await self._objects.begin_object(session, head.fence, head.size, head.record)
            if isinstance(begun, int):  # sent again
                return json_response(ObjectAnswer(seq=begun))
            try:
                digest = await self._values.store(begun, body.pieces(head.size))
            except BaseException:
                await self._abandon(begun.object_id)
                raise
        return json_response(await self._commit(session, head, begun, digest))

    async def _check(self, head: ObjectHead) -> None:
        checks.require_fence(head.fence)
        self._values.require_bucket()
        record, limit = head.record, self._values.limit
        what = "the result" if record is None else f"the value of {record.key!r}"
        if not 1 <= head.size <= limit:
            code = "result-too-large" if record is None else "record-too-large"
            raise TooLargeError(code, f"{what} has {head.size} bytes; object storage takes 1 to {limit}", "$.size")
        if record is None:
            return
        checks.require_record(record, "$.record")
        if record.value or record.delta is not None:
            raise InvalidInputError("invalid-field", "the value comes after the line, and not in it", "$.record.value")
        if record.types is not None:
            await require_value(record.types, MAX_OBJECT_HEAD, "record-too-large", f"the types of {record.key!r}")

    async def _commit(self, session: PodSession, head: ObjectHead, upload: Upload, digest: bytes) -> ObjectAnswer:
        if head.record is None:
            await self._objects.object_stored(upload.object_id, digest)
            return ObjectAnswer(object=str(upload.object_id))
        seq = await self._objects.append_object(session, head.fence, head.record, upload, digest)
        self._metrics.records.labels(head.record.kind).inc()
        self._metrics.record_bytes.inc(head.size)
        return ObjectAnswer(seq=seq)

    async def _abandon(self, object_id: UUID) -> None:
        """Let it be swept in a minute. It is in an hour, else."""
        try:
            await self._objects.abandon_object(object_id)
        except MilepostError as error:
            _log.warning("object_not_abandoned", object=str(object_id), error=str(error))

    async def get(self, request: Request) -> Response:
        session, fence = session_of(request), fence_of(request)
        seq = integer_of(request, "seq")
        await self._store.check_fence(session, fence)
        return await self._values.answer(await self._found(fence, seq))

    async def _found(self, fence: Fence, seq: int) -> StoredObject:
        found = await self._objects.object_of_record(fence, seq)
        if found is None:
            raise NotFoundError(f"record {seq} has no value in object storage")
        return found


class Incoming:
    """A body as it comes in."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._held = bytearray()
        self._more = True

    async def _receive(self) -> None:
        try:
            async with asyncio.timeout(PIECE_SECONDS):
                event = await self._request.receive()
        except TimeoutError as error:
            raise UnavailableError(f"nothing of the body came for {PIECE_SECONDS:g} s") from error
        if event["type"] == "http.disconnect":
            raise ClientDisconnect
        self._held += event.get("body", b"")
        self._more = event.get("more_body", False)

    async def line(self, limit: int) -> bytes:
        """What comes before the first line feed. InvalidInputError when that is not within `limit` bytes."""
        while (end := self._held.find(b"\n", 0, limit)) < 0:
            if len(self._held) >= limit or not self._more:
                raise InvalidInputError(
                    "not-json", f"the body begins with a line of JSON of at most {limit} bytes", "$"
                )
            await self._receive()
        line = bytes(self._held[:end])
        del self._held[: end + 1]
        return line

    async def pieces(self, size: int) -> AsyncIterator[bytes]:
        """The rest, of exactly `size` bytes; of another length its last piece never comes: InvalidInputError."""
        seen = 0
        while True:
            if self._held and (self._more or seen + len(self._held) == size):
                piece = bytes(self._held)
                self._held.clear()
                seen += len(piece)
                yield piece
            if not self._more:
                break
            await self._receive()
        if seen != size:
            message = f"the value has {seen + len(self._held)} bytes, and was said to have {size}"
            raise InvalidInputError("invalid-field", message, "$.size")
