"""Records as lines of NDJSON."""

from collections.abc import AsyncIterator, Callable
from typing import Final

import orjson

from milepost.wire.pod import Record

_PACKET: Final = 65_536
"""Bytes."""
_BREAKS: Final = str.maketrans("\r\n", "  ")


def whole(record: Record) -> bytes:
    """All members, the value as text."""
    return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)


def plain(record: Record) -> bytes:
    """As tasks read it (wire.local): the value is the last member, and as it was written; not one in object storage."""
    told: dict[str, object] = {
        "seq": record.seq,
        "kind": record.kind,
        "key": record.key,
        "types": record.types,
        "fingerprint": record.fingerprint,
        "attempt": record.attempt,
        "failed": record.failed,
    }
    if record.object_bytes:
        told["object_bytes"] = record.object_bytes
        return orjson.dumps(told, option=orjson.OPT_APPEND_NEWLINE)
    text = record.value
    if "\n" in text or "\r" in text:
        text = text.translate(_BREAKS)
    else:
        told["depth"] = record.depth
    told["value"] = orjson.Fragment(text)
    return orjson.dumps(told, option=orjson.OPT_APPEND_NEWLINE)


async def packets(records: AsyncIterator[Record], line: Callable[[Record], bytes]) -> AsyncIterator[bytes]:
    """Whole lines, a good packet at a time and never all of it."""
    lines: list[bytes] = []
    size = 0
    async for record in records:
        told = line(record)
        lines.append(told)
        size += len(told)
        if size >= _PACKET:
            yield b"".join(lines)
            lines.clear()
            size = 0
    if lines:
        yield b"".join(lines)
