"""JSON of the api into the records of the wire: unknown members are left out, so that an older sidecar goes on."""

from collections.abc import Mapping
from dataclasses import MISSING, fields, replace
from typing import Final, TypeVar, cast

from milepost.wire.pod import (
    Code,
    HeartbeatAnswer,
    NextAnswer,
    ObjectAnswer,
    RecordsAnswer,
    ResolvedWait,
    Session,
    SettleAnswer,
    Start,
    StreamAnswer,
)
from milepost.wire.values import JSON

Answer = TypeVar(
    "Answer",
    Start,
    Code,
    Session,
    NextAnswer,
    RecordsAnswer,
    ObjectAnswer,
    HeartbeatAnswer,
    SettleAnswer,
    StreamAnswer,
    ResolvedWait,
)


def _members(kind: type[Answer]) -> tuple[frozenset[str], frozenset[str]]:
    required = (f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING)
    return frozenset(f.name for f in fields(kind)), frozenset(required)


_MEMBERS: Final[dict[type, tuple[frozenset[str], frozenset[str]]]] = {
    Start: _members(Start),
    Code: _members(Code),
    Session: _members(Session),
    NextAnswer: _members(NextAnswer),
    RecordsAnswer: _members(RecordsAnswer),
    ObjectAnswer: _members(ObjectAnswer),
    HeartbeatAnswer: _members(HeartbeatAnswer),
    SettleAnswer: _members(SettleAnswer),
    StreamAnswer: _members(StreamAnswer),
    ResolvedWait: _members(ResolvedWait),
}
"""All and the required members of each answer."""


class BadAnswerError(Exception):
    """The api answered what the protocol does not allow."""


def build(kind: type[Answer], data: JSON) -> Answer:
    """Make a wire record. Raises BadAnswerError, naming the members that are missing."""
    if not isinstance(data, Mapping):
        raise BadAnswerError(f"{kind.__name__}: not an object")
    names, required = _MEMBERS[kind]
    if missing := sorted(required - data.keys()):
        raise BadAnswerError(f"{kind.__name__}: no {', '.join(missing)}")
    return kind(**{name: value for name, value in data.items() if name in names})  # type: ignore[arg-type]


def build_start(data: JSON) -> Start:
    """Make a Start with what it holds. Raises BadAnswerError."""
    start = build(Start, data)
    return replace(start, waits=[build(ResolvedWait, wait) for wait in cast("list[JSON]", start.waits)])
