"""The part of the pod protocol that tells how an attempt ended, for the runner: all of it would cost each pod.

It is meant to be had from `milepost.wire.pod` everywhere else.
"""

from dataclasses import dataclass
from typing import Literal

FailureKind = Literal["user", "fatal", "oom", "config", "crash", "timeout", "cancelled", "lost-result", "changed"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the runner's parent saw of its own container: cgroup `oom_kill` since start, peak memory, child's exit."""

    oom_kills: int = 0
    peak_bytes: int = 0
    exit_code: int | None = None
    signal: int | None = None
