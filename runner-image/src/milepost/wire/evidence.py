"""The part of the pod protocol that tells how an attempt ended, for the runner: all of it would cost each pod.

It is meant to be had from `milepost.wire.pod` everywhere else.
"""

from dataclasses import dataclass
from typing import Literal

FailureKind = Literal["user", "fatal", "oom", "config", "crash", "timeout", "cancelled", "lost-result", "changed"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the runner saw of its own container in the attempt: cgroup `oom_kill`, peak memory, CPU periods cut short by
    the limit and the time of that, and the process's exit where it could not settle itself.

    `peak_bytes`: of the container where the attempt raised it, else 0; `resident_bytes`: of its largest process.
    """

    oom_kills: int = 0
    peak_bytes: int = 0
    exit_code: int | None = None
    signal: int | None = None
    throttled_periods: int = 0
    throttled_ms: int = 0
    resident_bytes: int = 0
