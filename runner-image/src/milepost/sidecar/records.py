"""Reads records for the task: passed through as they come, never held, and gone on with after a broken answer."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict
from typing import Any, Final
from urllib.parse import urlencode

from milepost.net.messages import ProblemError, Reply, Response, TransportError, compact, jitter
from milepost.sidecar.bases import MIN_CHARS, Bases
from milepost.sidecar.calls import LAST_BACKOFF, PASSING, Calls
from milepost.sidecar.forward import refusal
from milepost.sidecar.log import log
from milepost.sidecar.session import UNAUTHORIZED
from milepost.sidecar.state import AttemptState
from milepost.wire.local import FAILED, FINGERPRINT, SEQ, TYPES, VALUE
from milepost.wire.pod import LINES, PLAIN, RecordKind

OK: Final = 200
NOT_FOUND: Final = 404
RETRY_SECONDS: Final = 0.1
LINE_BREAKS: Final = str.maketrans("\r\n", "  ")


class Reader:
    """Answers the reads of the local protocol from the api."""

    def __init__(self, calls: Calls, state: AttemptState, bases: Bases) -> None:
        self._calls = calls
        self._state = state
        self._bases = bases

    async def newest(self, kind: RecordKind, key: str) -> Response:
        """Give the newest record of a key: its value as the body. Raises ProblemError 404 if there is none."""
        query = urlencode({**asdict(self._state.fence), "kind": kind, "key": key})
        reply = await self._calls.call("GET", f"/records/newest?{query}")
        if reply.status == NOT_FOUND:
            raise ProblemError(NOT_FOUND, "no-record", f"no {kind} has the key {key!r}")
        if reply.status != OK:
            raise await refusal(reply, self._state)
        record = json.loads(reply.body)
        self._remember(record)
        response = newest_response(record)
        if record.get("object_bytes"):
            response.stream = await self._object(record)
        return response

    async def _object(self, record: Mapping[str, Any]) -> AsyncIterator[bytes]:
        """Open a value that is in object storage. One that breaks off ends the connection: it is asked for again."""
        query = urlencode({**asdict(self._state.fence), "seq": record["seq"]})
        reply, chunks = await self._open(f"/objects?{query}")
        if reply.status != OK:
            body = b"".join([chunk async for chunk in chunks])
            raise await refusal(Reply(reply.status, reply.headers, body), self._state)
        return _unbroken(chunks, record["key"])

    def _remember(self, record: Mapping[str, Any]) -> None:
        if self._state.running().deltas and not record.get("object_bytes"):
            self._bases.read(record)

    async def all_after(self, after: int) -> Response:
        """Give all records after a commit sequence, of checkpoints the newest version, as a stream of lines."""
        reply, chunks = await self._open(self._page(after))
        if reply.status != OK:
            body = b"".join([chunk async for chunk in chunks])
            raise await refusal(Reply(reply.status, reply.headers, body), self._state)
        return Response(OK, content_type="application/x-ndjson", stream=self._lines(after, reply, chunks))

    def _page(self, after: int) -> str:
        asked = {**asdict(self._state.fence), "after": after, "newest": "true", "lines": PLAIN}
        return f"/records?{urlencode(asked)}"

    async def _open(self, route: str) -> tuple[Reply, AsyncIterator[bytes]]:
        path, pause = route.partition("?")[0], RETRY_SECONDS
        while True:
            self._state.check_open()
            try:
                reply, chunks = await self._calls.api.stream(route)
                if reply.status not in PASSING and reply.status != UNAUTHORIZED:
                    return reply, chunks
                async for _ in chunks:
                    pass  # read to its end, so that the connection is kept
                if reply.status == UNAUTHORIZED:
                    self._calls.api.forget_session()
                log("api-retry", route=path, status=reply.status)
            except TransportError as error:
                log("api-unreachable", route=path, error=str(error))
            await asyncio.sleep(pause * jitter())
            pause = min(pause * 2, LAST_BACKOFF)

    async def _lines(self, after: int, reply: Reply, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        while True:
            plain = reply.headers.get(LINES.lower()) == PLAIN
            try:
                async for lines in _whole_lines(chunks):
                    told = self._passed(lines) if plain else self._converted(lines)
                    after = _sequence(told)
                    yield told
            except TransportError as error:
                log("records-broke-off", after=after, error=str(error))
            else:
                return
            reply, chunks = await self._open(self._page(after))
            if reply.status != OK:
                raise ConnectionError(f"the api refused to go on after {after}: {reply.status}")

    def _converted(self, lines: bytes) -> bytes:
        """Make those of an api that is older than we are lines of ours."""
        told = []
        for line in lines.split(b"\n"):
            if line:
                # the value is put in as the text it is: decoding it would cost memory and change how it is written
                record = json.loads(line)
                self._remember(record)
                told.append(local_line(record))
        return b"".join(told)

    def _passed(self, lines: bytes) -> bytes:
        """Look at no more of them than at those that a delta may be made on: most values are too short for one."""
        for line in lines.split(b"\n") if self._state.running().deltas else ():
            head, _, value = line.partition(VALUE)
            if len(value) > MIN_CHARS // 2:
                record = json.loads(head + b"}")
                if "depth" in record:
                    self._bases.read(record | {"value": value[:-1].decode()})
        return lines


def newest_response(record: Mapping[str, Any]) -> Response:
    """Answer with one record of the api: its value is the body."""
    headers = [(SEQ, str(record["seq"]))]
    for name, text in ((TYPES, record.get("types")), (FINGERPRINT, record.get("fingerprint"))):
        if text and text.isascii() and text.isprintable():
            headers.append((name, text))
    if record.get("failed"):
        headers.append((FAILED, "true"))
    return Response(OK, record["value"].encode(), headers)


async def _unbroken(chunks: AsyncIterator[bytes], key: str) -> AsyncIterator[bytes]:
    try:
        async for chunk in chunks:
            yield chunk
    except TransportError as error:
        log("object-broke-off", key=key, error=str(error))
        raise ConnectionError(f"the value of {key!r} broke off") from error


async def _whole_lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """As many lines at a time as have come."""
    rest = bytearray()
    async for chunk in chunks:
        end = chunk.rfind(b"\n") + 1
        if end:
            yield bytes(rest) + chunk[:end]
            rest = bytearray(chunk[end:])
        else:
            rest += chunk
    if rest:
        yield bytes(rest) + b"\n"


def _sequence(lines: bytes) -> int:
    """Give the commit sequence of the last of these lines."""
    last = lines[lines.rfind(b"\n", 0, -1) + 1 : -1]
    head, before_value, _ = last.partition(VALUE)
    return int(json.loads(head + b"}" if before_value else last)["seq"])


def local_line(record: Mapping[str, Any]) -> bytes:
    """Make a record of the api a line of ours: what its value is made of is not the task's to know.

    A value in object storage is left out: it is asked for when it is needed.
    """
    away = record.get("object_bytes")
    told = {name: part for name, part in record.items() if name not in {"value", "depth", "object_bytes"}}
    if away:
        return compact(told | {"object_bytes": away}) + b"\n"
    return b'%b,"value":%b}\n' % (compact(told)[:-1], record["value"].translate(LINE_BREAKS).encode())
