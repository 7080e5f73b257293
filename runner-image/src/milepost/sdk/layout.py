"""The layout of what a task records: code that records otherwise makes older records its own, by a function of its own.

A run tells its layout in a checkpoint of ours; what was recorded before it is of the layout before. Records are never
written again: the function makes the same of them at the start of each attempt.
"""

import json
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from milepost.errors import ChangedCodeError, StepKeyError
from milepost.sdk.journal import RESERVED, line_of, logger
from milepost.sdk.scope import checked
from milepost.values import pack
from milepost.wire.values import JSON

Lines: TypeAlias = dict[str, bytes]
Steps: TypeAlias = dict[str, tuple[bytes, str | None]]
"""Lines and fingerprints."""


class Records(MutableMapping[str, JSON]):
    """Steps or checkpoints by key. Reading gives plain JSON; what is set may be any value that a step may return.

    A step that failed has an object with its `type` and `message`.
    """

    def __init__(self, lines: Lines) -> None:
        self._lines = lines

    def __getitem__(self, key: str) -> JSON:
        found: JSON = json.loads(self._lines[key])["value"]
        return found

    def __setitem__(self, key: str, value: object) -> None:
        packed = pack(value)
        self._lines[checked(key)] = line_of(packed.text, packed.types)

    def __delitem__(self, key: str) -> None:
        del self._lines[key]

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._lines))

    def __len__(self) -> int:
        return len(self._lines)

    def rename(self, old: str, new: str) -> None:
        """Give what was recorded under a key another one, as it is; nothing happens when it is not there.

        Raises StepKeyError when the new key is taken.
        """
        if old not in self._lines or old == new:
            return
        if checked(new) in self._lines:
            raise StepKeyError(f"{old!r} can't become {new!r}: that is recorded, too")
        self._lines[new] = self._lines.pop(old)


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a run has of an older layout, for a migration function to change. Checkpoints: the newest of each key."""

    steps: Records
    checkpoints: Records


Migrate: TypeAlias = Callable[[Recorded, int], object]
"""Told what was recorded and of which layout that is; changes it in place."""


class Part(NamedTuple):
    """Records of one layout, as they came."""

    layout: int
    steps: Steps
    checkpoints: Lines


def merged(parts: Iterable[Part], layout: int, migrate: Migrate | None, *, accepts: bool) -> Part:
    """Make the records of a run, part by part, what code of `layout` would have recorded.

    What was migrated has no fingerprints: it is found by its keys. `accepts`: what there is no way for is taken as it
    is. Raises ChangedCodeError when there is no way, and what `migrate` raises.
    """
    whole = Part(layout, {}, {})
    for part in parts:
        steps, checkpoints = part.steps, part.checkpoints
        if part.layout != layout and (steps or checkpoints):
            if migrate is not None and part.layout < layout:
                steps, checkpoints = _migrated(part, migrate)
            elif not accepts:
                raise _no_way(part.layout, layout)
            else:
                logger.warning("accepted: %s", _no_way(part.layout, layout))
        whole.steps.update(steps)
        whole.checkpoints.update(checkpoints)
    return whole


def _migrated(part: Part, migrate: Migrate) -> tuple[Steps, Lines]:
    steps = {key: text for key, (text, _) in part.steps.items()}
    ours = {key: text for key, text in part.checkpoints.items() if key.startswith(RESERVED)}
    checkpoints = {key: text for key, text in part.checkpoints.items() if key not in ours}
    migrate(Recorded(Records(steps), Records(checkpoints)), part.layout)
    return {key: (text, None) for key, text in steps.items()}, ours | checkpoints


def _no_way(recorded: int, found: int) -> ChangedCodeError:
    advice = (
        "give the task migrate=, a function that makes them its own"
        if recorded < found
        else "run it with the code that recorded them, or newer; code can't go back to an older layout"
    )
    return ChangedCodeError("", "layout", f"records of layout {recorded}", f"code of layout {found}", advice)
