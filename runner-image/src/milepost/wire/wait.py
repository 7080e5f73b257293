"""The part of the pod protocol that tasks' own processes need: importing all of it would cost each of them.

It is meant to be had from `milepost.wire.pod` everywhere else.
"""

from dataclasses import dataclass
from typing import Final, Literal

MAX_KEY_BYTES: Final = 512

WaitKind = Literal["timer", "signal", "child", "event", "token", "approval", "retry"]


@dataclass(frozen=True, slots=True)
class Wait:
    """What a suspended run sleeps on; any one of its waits wakes it.

    `key`: unique in the run, the same in each attempt that meets this wait. `name`: of the signal or event, or the
    child's run id; of a retry it tells what failed, for people. `seconds` (from the first time it is met) or `until`
    (ISO 8601 with an offset): when a timer fires, and when any other wait gives up. A `retry` is a timer after which a
    step is tried again: it has `seconds`, and an attempt that has only such waits ends to `backoff`.
    """

    key: str
    kind: WaitKind
    name: str | None = None
    seconds: float | None = None
    until: str | None = None
