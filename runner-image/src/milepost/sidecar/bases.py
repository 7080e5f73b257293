"""What was committed last under each key: the next version of it travels, and is kept, as what is new in it."""

import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, NamedTuple

from milepost.wire.delta import MAX_DEPTH, dumped, edits
from milepost.wire.pod import RecordKind, RecordWrite

MIN_CHARS: Final = 256
"""Of a value that a delta is worth its while for."""
KEPT_BYTES: Final = 1536 * 1024
READ_BYTES: Final = 16 * 1024 * 1024
"""What a read may copy to put a value together: the larger a value, the more often it is kept in full."""


class Base(NamedTuple):
    """A committed record. `depth`: of how many deltas it is made."""

    seq: int
    depth: int
    text: str


class Bases:
    """The newest values of this run, as far as they fit in `most` bytes of memory; the oldest ones go."""

    def __init__(self, most: int = KEPT_BYTES) -> None:
        self._most = most
        self._bases: dict[str, Base] = {}
        self._size = 0
        self._newest = 0

    def shortened(self, write: RecordWrite) -> RecordWrite:
        """Give the write with a delta for its value, if that is much shorter."""
        size = len(write.value)
        base = None if size < MIN_CHARS or write.failed else self._bases.get(_stem(write.kind, write.key))
        if base is None or base.depth >= MAX_DEPTH or (base.depth + 1) * size > READ_BYTES:
            return write
        found = edits(base.text, write.value, size * 3 // 4)
        if found is None:
            return write
        delta = dumped(found)
        if len(delta) * 4 > size * 3:
            return write
        return replace(write, value="", delta=delta, base=base.seq, size=_utf8(write.value))

    def committed(self, write: RecordWrite, sent: RecordWrite, seq: int, began_after: int) -> None:
        """Remember a write that was acknowledged; `sent`: as it went; `began_after`: what came before the attempt."""
        if seq <= max(self._newest, began_after):  # told again: what was written under its id may be another value
            self.forget(write)
            return
        self._newest = seq
        if not write.failed:
            before = self._bases.get(_stem(write.kind, write.key))
            depth = before.depth + 1 if sent.delta is not None and before is not None else 0
            self._keep(write.kind, write.key, Base(seq, depth, write.value))

    def read(self, record: Mapping[str, Any]) -> None:
        """Remember a record that the task reads: an earlier attempt left it."""
        if not record.get("failed"):
            self._keep(record["kind"], record["key"], Base(record["seq"], record.get("depth", 0), record["value"]))

    def forget(self, write: RecordWrite) -> None:
        """Let the next version of its key go in full."""
        self._drop(_stem(write.kind, write.key))

    def _keep(self, kind: RecordKind, key: str, base: Base) -> None:
        stem = _stem(kind, key)
        old = self._bases.get(stem)
        if old is not None and old.seq > base.seq:
            return
        self._drop(stem)
        if len(base.text) < MIN_CHARS // 2 or sys.getsizeof(base.text) > self._most:
            return
        self._size += sys.getsizeof(base.text)
        self._bases[stem] = base
        while self._size > self._most:
            self._drop(next(iter(self._bases)))

    def _drop(self, stem: str) -> None:
        if (old := self._bases.pop(stem, None)) is not None:
            self._size -= sys.getsizeof(old.text)


def _stem(kind: RecordKind, key: str) -> str:
    """What all versions of a value have in common: a checkpoint's key, a step's less the number of its call."""
    if kind == "checkpoint":
        return f"c{key}"
    name, _, number = key.rpartition("#")
    return f"s{name if number.isdigit() and name else key}"


def _utf8(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())
