"""What a trigger may ask for, as JSON of the public API, and as the run that comes of it."""

import re
import unicodedata
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Final, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from milepost_operator.api.bodies import parse_object
from milepost_operator.domain import options
from milepost_operator.domain.errors import InvalidInputError
from milepost_operator.domain.ids import MAX_NAME
from milepost_operator.domain.inputs import value_hash
from milepost_operator.domain.runs import Debounce, NewRun, Singleton, Throttle

DNS: Final = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
_DNS: Final = re.compile(DNS)
_RFC3339: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)")

Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME, pattern=DNS)]
Tag = Annotated[str, Field(min_length=1, max_length=128)]
Key = Annotated[str, Field(min_length=1, max_length=options.MAX_KEY)]
Seconds = Annotated[float, Field(ge=0, le=options.MAX_SECONDS, allow_inf_nan=False)]
Period = Annotated[float, Field(ge=options.MIN_PERIOD, le=options.MAX_SECONDS, allow_inf_nan=False)]


class Model(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, extra="forbid")


class DebounceBody(Model):
    """One delayed run for each key: a call puts it off by `seconds`, by `maxSeconds` (ten times as much) in all."""

    key: Key
    seconds: Period
    max_seconds: Period | None = None
    payload: Literal["first", "latest"] = "latest"

    def terms(self) -> Debounce:
        longest = options.debounce_limit(self.seconds, self.max_seconds)
        return Debounce(self.key, self.seconds, longest, latest=self.payload == "latest")


class SingletonBody(Model):
    """At most one run of the task that has not ended for each key."""

    key: Key
    on_conflict: Literal["return", "reject"] = "return"

    def terms(self) -> Singleton:
        return Singleton(self.key, reject=self.on_conflict == "reject")


class ThrottleBody(Model):
    """At most `limit` calls of a key in any `periodSeconds`; more are refused with 429 and stored nowhere."""

    key: Key
    limit: Annotated[int, Field(ge=1, le=options.MAX_LIMIT)]
    period_seconds: Period

    def terms(self) -> Throttle:
        return Throttle(self.key, self.limit, self.period_seconds)


class TriggerBody(Model):
    """`input`: any JSON, null unless given. `namespace`: the token's own unless it may name any."""

    task: Annotated[str, Field(min_length=1, max_length=253, pattern=DNS)]
    input: object = None
    namespace: Name | None = None
    name: Name | None = None
    idempotency_key: Key | None = None
    tags: Annotated[list[Tag], Field(max_length=32)] = []
    idempotency_scope: Literal["window", "active"] = "window"
    idempotency_seconds: Annotated[int, Field(ge=1, le=options.MAX_SECONDS)] | None = None
    delay_seconds: Seconds | None = None
    at: Annotated[str, Field(max_length=40)] | None = None
    ttl_seconds: Period | None = None
    deadline_seconds: Period | None = None
    priority: Annotated[int, Field(ge=options.MIN_PRIORITY, le=options.MAX_PRIORITY)] = 0
    concurrency_key: Annotated[str, Field(max_length=options.MAX_KEY)] = ""
    cost: Annotated[int, Field(ge=1, le=options.MAX_LIMIT)] = 1
    debounce: DebounceBody | None = None
    singleton: SingletonBody | None = None
    throttle: ThrottleBody | None = None


class BatchBody(Model):
    """1 to 1,000 triggers, each as of `POST /v1/runs`; taken or refused one by one, in one transaction."""

    items: Annotated[list[TriggerBody], Field(min_length=1, max_length=1000)]


def parse_trigger(value: object) -> TriggerBody:
    """A trigger, checked. Raises InvalidInputError with the field's path."""
    if isinstance(value, dict):
        _plain_names(value)
    body = parse_object(TriggerBody, value)
    options.check(
        options.Asked(
            key=body.idempotency_key,
            scope=body.idempotency_scope,
            seconds=body.idempotency_seconds,
            named=body.name is not None,
            delay=body.delay_seconds,
            at=body.at is not None,
            deadline=body.deadline_seconds,
            debounce=(body.debounce.seconds, body.debounce.max_seconds) if body.debounce else None,
            singleton=body.singleton is not None,
        ),
        "$.",
    )
    return body


def run_of(body: TriggerBody, namespace: str) -> NewRun:
    """The run to insert."""
    return NewRun(
        namespace=namespace,
        task=body.task,
        input=orjson.dumps(body.input).decode(),
        digest=value_hash(body.input),
        name=body.name,
        idempotency_key=body.idempotency_key,
        idempotency_scope=body.idempotency_scope,
        idempotency_seconds=body.idempotency_seconds,
        tags=tuple(body.tags),
        delay_seconds=body.delay_seconds or 0.0,
        at=None if body.at is None else _due(body.at),
        ttl_seconds=body.ttl_seconds,
        deadline_seconds=body.deadline_seconds,
        priority=body.priority,
        concurrency_key=body.concurrency_key,
        cost=body.cost,
        debounce=body.debounce.terms() if body.debounce else None,
        singleton=body.singleton.terms() if body.singleton else None,
        throttle=body.throttle.terms() if body.throttle else None,
    )


def _due(text: str) -> datetime:
    """A time that is near enough by our own clock: a client's may be wrong."""
    when, now = moment(text, "$.at"), datetime.now(UTC)
    if (when - now).total_seconds() > options.MAX_SECONDS:
        message = f"$.at: {text} is more than a year ahead; it is {now:%Y-%m-%dT%H:%M:%SZ} here"
        raise InvalidInputError("invalid-field", message, "$.at")
    return when


def moment(text: str, path: str) -> datetime:
    """An RFC 3339 time with its zone. Raises InvalidInputError."""
    message = f"{path}: write an RFC 3339 time with its zone, as in 2027-01-31T09:00:00Z"
    if not _RFC3339.fullmatch(text):
        raise InvalidInputError("invalid-field", message, path)
    try:
        when = datetime.fromisoformat(text.upper())
        when.timestamp()
    except (ValueError, OverflowError) as error:
        raise InvalidInputError("invalid-field", f"{message} ({error})", path) from error
    return when


def _plain_names(value: Mapping[str, object]) -> None:
    """Name the letter that only looks like one of those that names are made of."""
    for field in ("task", "name", "namespace"):
        text = value.get(field)
        if not isinstance(text, str) or text.isascii() or _DNS.match(text):
            continue
        odd = next(letter for letter in text if not letter.isascii())
        message = (
            f"$.{field}: {odd!r} (U+{ord(odd):04X} {unicodedata.name(odd, 'unnamed')}) can't stand in a name: use"
            " a–z, 0–9, '-' and '.'"
        )
        raise InvalidInputError("invalid-field", message, f"$.{field}")
