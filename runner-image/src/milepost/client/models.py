"""Requests and answers as plain, typed records. Times are aware datetimes; inputs and results are JSON values."""

from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from datetime import datetime
from typing import Any, Final, Literal, TypedDict, Unpack
from uuid import uuid4

from milepost.client.errors import AnswerError
from milepost.errors import NotRecordableError
from milepost.values import pack
from milepost.wire.values import JSON

OWN_KEY_SECONDS: Final = 3600
"""For so long a call that was sent again after a lost answer is still one run."""
Decision = Literal["accept", "recheck", "fail"]
"""On a run whose code changed: go on with records found by their keys, go on with each one checked again, or end."""
ENDED: Final = frozenset({"succeeded", "failed", "cancelled", "timedOut", "expired"})


@dataclass(frozen=True, slots=True)
class Debounce:
    """One delayed run for each key: each call puts it off by `seconds`, by `max_seconds` (None: ten times) in all."""

    key: str
    seconds: float
    max_seconds: float | None = None
    payload: Literal["first", "latest"] = "latest"


@dataclass(frozen=True, slots=True)
class Singleton:
    """At most one run of the task that has not ended for each key; `reject`: a ConflictError instead of that run."""

    key: str
    on_conflict: Literal["return", "reject"] = "return"


@dataclass(frozen=True, slots=True)
class Throttle:
    """At most `limit` calls in any `period_seconds`; more are refused (BusyError)."""

    key: str
    limit: int
    period_seconds: float


class TriggerOptions(TypedDict, total=False):
    """What a run may be asked for with. `at`: an aware datetime, instead of `delay_seconds`."""

    name: str
    namespace: str
    idempotency_key: str
    idempotency_scope: Literal["window", "active"]
    idempotency_seconds: int
    tags: Sequence[str]
    delay_seconds: float
    at: datetime
    ttl_seconds: float
    deadline_seconds: float
    priority: int
    concurrency_key: str
    cost: int
    debounce: Debounce
    singleton: Singleton
    throttle: Throttle


class Trigger:
    """One item of a batch: a task, its input, and the options of `trigger`.

    Raises NotRecordableError for an input that is not JSON, ValueError for a time without a zone.
    """

    __slots__ = ("text",)

    def __init__(self, task: str, input: JSON = None, **options: Unpack[TriggerOptions]) -> None:  # noqa: A002
        asked: dict[str, JSON] = {"task": task}
        for name, value in options.items():
            asked[_camel(name)] = _plain(value)
        if not asked.keys() & {"idempotencyKey", "debounce", "singleton"}:
            asked |= {"idempotencyKey": f"call-{uuid4()}", "idempotencySeconds": OWN_KEY_SECONDS}
        self.text = f'{{"input":{_plain_json(input)},{pack(asked).text[1:]}'


@dataclass(frozen=True, slots=True)
class Created:
    """`duplicate`: the call's key already had this run. `ready_at`: when it is due."""

    id: str
    name: str
    namespace: str
    task: str
    state: str
    duplicate: bool
    ready_at: datetime | None


@dataclass(frozen=True, slots=True)
class RunSummary:
    """A run as lists show it."""

    id: str
    name: str
    namespace: str
    task: str
    queue: str
    state: str
    reason: str | None
    message: str | None
    attempt: int
    attempts_counted: int
    max_attempts: int
    version: int | None
    origin: str
    tags: Sequence[str]
    idempotency_key: str | None
    pod_name: str | None
    last_seq: int
    last_checkpoint: str | None
    resumed_after: int | None
    progress: float | None
    progress_message: str | None
    dead_lettered: bool
    created_at: datetime
    ready_at: datetime | None
    admitted_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None

    @property
    def ended(self) -> bool:
        """Whether it has reached its last state."""
        return self.state in ENDED


@dataclass(frozen=True, slots=True)
class Run(RunSummary):
    """A run with what it was given and what came of it. `error`: how it failed. `result_bytes`: of a result that was
    too large to be told with the run, and was read apart from it.
    """

    input: JSON
    result: JSON
    error: dict[str, JSON] | None
    result_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a run's stream. `attempt`: the one that told it; what ran again in a later one is told again."""

    position: int
    attempt: int
    value: JSON
    created_at: datetime


def record(kind: type[Any], value: JSON) -> Any:
    """An answer as a record; what a newer API says beyond it is left out. Raises AnswerError for another answer."""
    if not isinstance(value, dict):
        raise AnswerError("the answer is no JSON object: is this a Milepost API?")
    made: dict[str, object] = {}
    for field in fields(kind):
        name = _camel(field.name)
        if name not in value and field.default is not MISSING:
            continue
        if name not in value:
            raise AnswerError(f"the answer has no {name!r}: this client needs a newer API")
        given = value[name]
        made[field.name] = datetime.fromisoformat(given) if _is_time(field.name) and isinstance(given, str) else given
    return kind(**made)


def _plain_json(value: JSON) -> str:
    """What a task takes as its input has no place for tags: JSON's own types only."""
    packed = pack(value)
    if packed.types is not None:
        detail = "an input is plain JSON: pass text, for example date.isoformat()"
        raise NotRecordableError("$", type(value).__name__, "not-json-type", detail)
    return packed.text


def _is_time(name: str) -> bool:
    return name.endswith("_at")


def _plain(value: object) -> JSON:
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError("at needs a time zone: datetime.now(UTC) + timedelta(…)")
        return value.isoformat()
    if isinstance(value, Debounce | Singleton | Throttle):
        pairs = ((f.name, getattr(value, f.name)) for f in fields(value))
        return {_camel(name): part for name, part in pairs if part is not None}
    if isinstance(value, list | tuple):
        return list(value)
    assert value is None or isinstance(value, str | int | float)  # noqa: S101  as of TriggerOptions
    return value


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)
