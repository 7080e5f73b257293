"""One check of a value: what is wrong and where, within a budget of work."""

from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from milepost.wire.values import JSON, member

STEPS: Final = 10_000
"""Looks at values that any check may take, beside those that the value's size allows."""
STEPS_PER_BYTE: Final = 2
PATTERN_WORK: Final = 200_000
"""Weight of patterns times the characters they are matched with, in any check; an engine does 25 million a second."""
PATTERN_WORK_PER_BYTE: Final = 100
MAX_PATTERN_WORK: Final = 20_000_000
MAX_MATCH: Final = 2_000_000
"""The same of one pattern with one text: nothing else runs meanwhile."""
_SHOWN: Final = 60
_NAMES: Final[dict[type, str]] = {dict: "an object", list: "a list", type(None): "null", bool: "a boolean"}


class Misfit(NamedTuple):
    """What does not fit: its way from the root, and a sentence that goes after the path."""

    way: tuple[str | int, ...]
    message: str

    def under(self, part: str | int) -> "Misfit":
        return Misfit((part, *self.way), self.message)

    def path(self, root: str = "$") -> str:
        """Its JSON path."""
        for part in self.way:
            root = member(root, part) if isinstance(part, str) else f"{root}[{part}]"
        return root


class TooMuchWorkError(Exception):
    """The budget is spent: the message says of what."""


class Walk:
    """The budget and the memory of one check. `size`: bytes of the value's JSON text."""

    __slots__ = ("known", "pattern_work", "steps")

    def __init__(self, size: int) -> None:
        self.steps = STEPS + STEPS_PER_BYTE * size
        self.pattern_work = min(PATTERN_WORK + PATTERN_WORK_PER_BYTE * size, MAX_PATTERN_WORK)
        self.known: dict[tuple[int, int], Misfit | None] = {}

    def take(self, steps: int) -> None:
        self.steps -= steps
        if self.steps < 0:
            raise TooMuchWorkError("checking it against the schema takes too many steps")

    def match(self, weight: int, text: str) -> None:
        """Pay for matching a pattern of this weight."""
        work = weight * len(text)
        self.pattern_work -= work
        if self.pattern_work < 0 or work > MAX_MATCH:
            raise TooMuchWorkError("its texts are too long for the patterns of the schema")


Check = Callable[[JSON, Walk], Misfit | None]


class Matcher(Protocol):
    """A regular expression that takes linear time: whether it is found anywhere in a text."""

    def __call__(self, text: str, /) -> bool: ...


def told(message: str) -> Misfit:
    return Misfit((), message)


def shown(value: JSON) -> str:
    """The value in a few words; never costs what the value is big."""
    if isinstance(value, str):
        return repr(value if len(value) <= _SHOWN else value[:_SHOWN] + "…")
    return _NAMES.get(type(value)) or str(value)[:_SHOWN]


def canonical(value: JSON, walk: Walk) -> object:
    """Equal and hashable for values that are equal in JSON: 1 is 1.0, and true is not 1."""
    walk.take(1)
    if isinstance(value, dict):
        return "object", frozenset((key, canonical(item, walk)) for key, item in value.items())
    if isinstance(value, list):
        return "list", tuple([canonical(item, walk) for item in value])
    return ("boolean", value) if isinstance(value, bool) else value
