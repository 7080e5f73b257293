"""What an attempt knows of its run."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, final

from milepost.wire.values import JSON, NO_OBJECTS

HEX_DIGITS: Final = 32


@final
class Missing(Enum):
    """The type of MISSING. An Enum of one, so that type checkers see what `is not MISSING` leaves."""

    MISSING = "MISSING"

    def __repr__(self) -> str:
        return "MISSING"

    def __bool__(self) -> bool:
        return False


MISSING: Final = Missing.MISSING
"""What `restore` gives when nothing was checkpointed under the key: None is a value like any other."""


@dataclass(frozen=True, slots=True)
class RunInfo:
    """The run and this attempt of it. `cause`: first, retry, resume or infra; `created_at`: ISO 8601.

    `failures`: earlier attempts that were spent of `max_attempts`.
    """

    id: str
    name: str
    namespace: str
    task: str
    version: int
    attempt: int
    cause: str
    max_attempts: int
    tags: tuple[str, ...]
    created_at: str
    failures: int = 0

    @property
    def trace_id(self) -> str:
        """32 hex digits: the same in every attempt, and a search key in the run's logs and traces."""
        return sha256_hex(self.id) if len(plain := self.id.replace("-", "")) != HEX_DIGITS else plain

    @property
    def traceparent(self) -> str:
        """W3C trace context of this attempt, to send on in the header `traceparent`."""
        return f"00-{self.trace_id}-{sha256_hex(f'{self.id}/{self.attempt}')[:16]}-01"


@dataclass(frozen=True, slots=True)
class AttemptInfo:
    """The answer of GET /v1/attempt, as far as the task's side uses it. Sizes in bytes, times in seconds.

    `on_change`: fail, hold or accept. `accepted`: it is accept since somebody decided so of a run that was held.
    `replay`: what was recorded before the first attempt is of a run with another input. `key_run`: the run that
    idempotency keys are of. `max_object_bytes`: of a value that goes to object storage; 0: none does.
    """

    run: RunInfo
    input: JSON
    entrypoint: str | None
    source: str | None
    max_record_bytes: int
    max_result_bytes: int
    grace_seconds: int
    records: int
    on_change: str = "fail"
    replay: bool = False
    key_run: str = ""
    accepted: bool = False
    max_object_bytes: int = 0

    @property
    def record_limit(self) -> tuple[int, str]:
        """The most bytes of a record, and what to do about a larger one."""
        return max(self.max_record_bytes, self.max_object_bytes), "" if self.max_object_bytes else NO_OBJECTS

    @property
    def result_limit(self) -> tuple[int, str]:
        """The same for the result."""
        return max(self.max_result_bytes, self.max_object_bytes), "" if self.max_object_bytes else NO_OBJECTS

    @property
    def holds(self) -> bool:
        """Whether the run waits for a decision when its code does not fit its records."""
        return self.on_change == "hold" or self.accepted

    @classmethod
    def from_json(cls, data: Mapping[str, JSON]) -> "AttemptInfo":
        """Read it. Raises KeyError or TypeError when it is not what the protocol says."""
        tags = data["tags"]
        run = RunInfo(
            id=_text(data, "run_id"),
            name=_text(data, "run_name"),
            namespace=_text(data, "namespace"),
            task=_text(data, "task"),
            version=_number(data, "version"),
            attempt=_number(data, "attempt"),
            cause=_text(data, "cause"),
            max_attempts=_number(data, "max_attempts"),
            tags=tuple(str(tag) for tag in tags) if isinstance(tags, list) else (),
            created_at=_text(data, "created_at"),
            failures=_number(data, "attempts_counted") if "attempts_counted" in data else 0,
        )
        return cls(
            run=run,
            input=data["input"],
            entrypoint=_text(data, "entrypoint") if data.get("entrypoint") else None,
            source=_text(data, "source") if data.get("source") else None,
            max_record_bytes=_number(data, "max_record_bytes"),
            max_result_bytes=_number(data, "max_result_bytes"),
            grace_seconds=_number(data, "grace_seconds"),
            records=_number(data, "records"),
            on_change=str(data.get("on_change") or "fail"),
            replay=data.get("origin") == "replay",
            key_run=str(data.get("key_run") or run.id),
            accepted=data.get("accepted") is True,
            max_object_bytes=_number(data, "max_object_bytes") if "max_object_bytes" in data else 0,
        )


def sha256_hex(text: str) -> str:
    """Give 32 hex digits that are always the same for a text."""
    from hashlib import sha256  # noqa: PLC0415  (few tasks want it)

    return sha256(text.encode()).hexdigest()[:HEX_DIGITS]


def _text(data: Mapping[str, JSON], name: str) -> str:
    value = data[name]
    if not isinstance(value, str):
        raise TypeError(f"{name} is not text")
    return value


def _number(data: Mapping[str, JSON], name: str) -> int:
    value = data[name]
    if not isinstance(value, int):
        raise TypeError(f"{name} is not a whole number")
    return value
