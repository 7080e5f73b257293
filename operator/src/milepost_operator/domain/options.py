"""Which options of a trigger there are, how far they go, and which ones go together: for HTTP and for Run objects."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from milepost_operator.domain.errors import InvalidInputError

MIN_PRIORITY: Final = -100
MAX_PRIORITY: Final = 100
MAX_KEY: Final = 256
MAX_SECONDS: Final = 31_622_400
"""A leap year: longer plans belong into a schedule."""
MIN_PERIOD: Final = 1
MAX_LIMIT: Final = 1_000_000
DEBOUNCE_TIMES: Final = 10
"""Without a maxSeconds of its own a debounced run waits for at most so many times its seconds."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a trigger asks for, as far as options depend on one another. `debounce`: (seconds, maxSeconds)."""

    key: str | None = None
    scope: str | None = None
    seconds: int | None = None
    named: bool = False
    delay: float | None = None
    at: bool = False
    deadline: float | None = None
    debounce: tuple[float, float | None] | None = None
    singleton: bool = False


def check(asked: Asked, root: str) -> None:
    """Raise InvalidInputError for options that contradict each other; `root` begins the path that it names."""
    for wrong, field, message in _RULES:
        if wrong(asked):
            raise InvalidInputError("contradictory", f"{root}{field}: {message}", f"{root}{field}")


def debounce_limit(seconds: float, limit: float | None) -> float:
    """For how long a debounced run can be put off in all."""
    return min(seconds * DEBOUNCE_TIMES, MAX_SECONDS) if limit is None else limit


def _short(asked: Asked) -> bool:
    return asked.debounce is not None and asked.debounce[1] is not None and asked.debounce[1] < asked.debounce[0]


_RULES: Final[tuple[tuple[Callable[[Asked], bool], str, str], ...]] = (
    (
        lambda a: a.key is None and (a.seconds is not None or a.scope == "active"),
        "idempotencyKey",
        "idempotencyScope and idempotencySeconds say how long a key lasts: give the key too",
    ),
    (
        lambda a: a.scope == "active" and a.seconds is not None,
        "idempotencySeconds",
        "a key of scope active lasts as long as its run: leave the seconds out, or use the scope window",
    ),
    (
        lambda a: a.at and a.delay is not None,
        "at",
        "give at or delaySeconds, not both",
    ),
    (
        lambda a: sum((a.key is not None, a.debounce is not None, a.singleton)) > 1,
        "debounce",
        "idempotencyKey, singleton and debounce each say which run answers the call: give one of them",
    ),
    (
        lambda a: a.debounce is not None and (a.at or a.delay is not None),
        "debounce",
        "debounce.seconds is the delay: leave at and delaySeconds out",
    ),
    (
        lambda a: a.debounce is not None and a.named,
        "debounce",
        "a debounced run answers many calls: leave the name out",
    ),
    (_short, "debounce.maxSeconds", "must not be below debounce.seconds"),
    (
        lambda a: a.deadline is not None and a.deadline <= max(a.delay or 0, a.debounce[0] if a.debounce else 0),
        "deadlineSeconds",
        "counts from the trigger and would be over before the run is due",
    ),
)
