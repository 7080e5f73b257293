"""Warm pods: which pod stays after an attempt, which ones go when there are too many, and why a start was cold."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, cast

from milepost_operator.domain.runs import Ending
from milepost_operator.domain.states import OUT_OF_MEMORY, Reason

Reuse = Literal["task", "key", "never"]
ColdReason = Literal["first", "busy", "version", "template", "memory", "off", "key", "late", "returned"]
"""Why an attempt needed a new pod: none of its key was there, all were at work, there were only pods of another version
or of another template or with other memory, its Task wants none, none had its concurrency key, the one that was to come
did not in time, an offered one did not answer.
"""

OFFER_SECONDS: Final = 2.0
"""A pod that does not start what it was offered within this is given up."""
RESTING_SECONDS: Final = 15.0
"""A pod that does not come back for work within this after its attempt is given up."""

ENDED: Final = "ended"
"""Why a pod that ended by itself while it waited is retired."""

_RETIRES: Final = OUT_OF_MEMORY | {Reason.CRASHED, Reason.LOST_RESULT, Reason.CONFIG}
"""After these nobody knows what is left of the attempt in its container."""


@dataclass(frozen=True, slots=True)
class WarmPolicy:
    """What becomes of a Task's pods. `seconds`: how long one may wait for work; `max`: how many of them may; `min`: how
    many there are at least, at work or not; `predict`: whether more are made before they are needed (domain.prewarm).

    `reuse`: for which runs: any of the Task, those with the concurrency key of the pod's last one, none. `written`: the
    Task says so itself, which includes pods that can keep files of a run.
    """

    seconds: int
    max: int
    reuse: Reuse = "task"
    max_runs: int = 100
    max_age_seconds: int = 3600
    written: bool = False
    min: int = 0
    predict: bool = False

    @property
    def off(self) -> bool:
        """No pod ever stays."""
        return self.seconds <= 0 or self.max <= 0 or self.reuse == "never"

    def lets_stay(self, keeps: str | None) -> bool:
        """Whether a pod may stay that differs so from one that is the same after each run (`task_versions.keeps`:
        `command`, `volumes`, `root`; None: in nothing).
        """
        return not self.off and keeps != "command" and (keeps is None or self.written)


def policy_of(
    told: Mapping[str, object], *, seconds: int, most: int, total: int, least: int = 0, predict: bool = False
) -> WarmPolicy:
    """The policy of a Task that says `told` (by the names of crds.task.Warm); for the rest the installation's count.

    No pod waits where `total`, which all Tasks share, is 0. A Task that says how many there are at least, and not how
    many may wait, lets so many wait.
    """
    base = WarmPolicy(seconds, most)
    least = _number(told, "min", least)
    return WarmPolicy(
        seconds=_number(told, "seconds", base.seconds) if total > 0 else 0,
        max=_number(told, "max", max(base.max, least)),
        reuse=cast("Reuse", told.get("reuse", base.reuse)),
        max_runs=_number(told, "max_runs", base.max_runs),
        max_age_seconds=_number(told, "max_age_seconds", base.max_age_seconds),
        written="reuse" in told,
        min=least,
        predict=bool(told.get("predict", predict)),
    )


def _number(told: Mapping[str, object], name: str, default: int) -> int:
    value = told.get(name)
    return value if isinstance(value, int) else default


@dataclass(frozen=True, slots=True)
class PodFacts:
    """A pod whose attempt is settled. `asks`: its sidecar can ask for another one. `runs`: attempts it had, this one
    included. `keeps`: see WarmPolicy.lets_stay.
    """

    asks: bool
    runs: int
    age_seconds: float
    current: bool
    keeps: str | None


def retires(policy: WarmPolicy, pod: PodFacts, ending: Ending) -> str | None:
    """Why a pod ends with its settled attempt; None: it stays."""
    if not pod.asks or not policy.lets_stay(pod.keeps):
        return "off"
    if ending.reason in _RETIRES or ending.evidence.get("oom_kills"):
        return "oom" if ending.reason in OUT_OF_MEMORY or ending.evidence.get("oom_kills") else "crash"
    return worn(policy, runs=pod.runs, age_seconds=pod.age_seconds, current=pod.current)


def worn(policy: WarmPolicy, *, runs: int, age_seconds: float, current: bool) -> str | None:
    """Why a pod that may be used again takes no more work."""
    if not current:
        return "version"
    if runs >= policy.max_runs:
        return "runs"
    return "age" if age_seconds >= policy.max_age_seconds else None


@dataclass(frozen=True, slots=True)
class ColdFacts:
    """What there was for an attempt that gets a new pod. `late`: a warm pod was to take it and did not.

    `other_key`: a pod of its warm key waits, which `reuse: key` keeps from it. `same`, `other_memory`,
    `other_template`, `other_version`: the Task has pods of this warm key, of this template but with other memory, of
    this version but another template, of another version.
    """

    late: bool
    other_key: bool
    same: bool
    other_memory: bool
    other_template: bool
    other_version: bool
    keeps: str | None


def cold_reason(policy: WarmPolicy, facts: ColdFacts) -> ColdReason:
    """Why no warm pod took an attempt: the nearest of what was in the way."""
    if not policy.lets_stay(facts.keeps):
        return "off"
    if facts.late:
        return "late"
    if policy.reuse == "key" and facts.other_key:
        return "key"
    if facts.same:
        return "busy"
    if facts.other_memory:
        return "memory"
    if facts.other_template:
        return "template"
    return "version" if facts.other_version else "first"


@dataclass(frozen=True, slots=True)
class IdlePod:
    """A pod that waits for work. `task`: (namespace, name). `idle_seconds`: since when; `age_seconds`: of the pod.

    Not `there`: it will wait once it is made ready; `troubled`: something is in the way of that. `spare`: so many pods
    that wait the Task should keep, this one among them or not.
    """

    pod_id: str
    task: tuple[str, str]
    policy: WarmPolicy
    runs: int
    idle_seconds: float
    age_seconds: float
    current: bool
    template: bool = True
    there: bool = True
    troubled: bool = False
    spare: int = 0


@dataclass(frozen=True, slots=True)
class HandedOver:
    """`pods`: those that were given an attempt. `missed`: something was in the way of others; try again soon. `freed`:
    launched pods lost theirs so.
    """

    pods: Sequence[str]
    missed: bool
    freed: bool = False


def lapsed(pods: Sequence[IdlePod]) -> dict[str, str]:
    """Pods that wait for nothing any more, and why."""
    found: dict[str, str] = {}
    kept = _kept(pods)
    for pod in pods:
        why = worn(pod.policy, runs=pod.runs, age_seconds=pod.age_seconds, current=pod.current)
        if pod.policy.off:
            why = "off"
        elif not pod.template:
            why = "template"
        elif why is None and pod.pod_id not in kept:
            why = _unneeded(pod)
        if why is not None:
            found[pod.pod_id] = why
    return found


def _unneeded(pod: IdlePod) -> str | None:
    """Why a pod that nobody asked for goes; None: it stays for now."""
    if not pod.there:
        return "trouble" if pod.troubled else None
    return "idle" if pod.idle_seconds >= pod.policy.seconds else None


def _kept(pods: Sequence[IdlePod]) -> frozenset[str]:
    """Those that their Tasks should keep: the ones that were used last, before those that are not there yet."""
    kept: set[str] = set()
    for of_task in _by_use([pod for pod in pods if pod.current and pod.template]).values():
        kept.update(pod.pod_id for pod in of_task[: max(0, of_task[0].spare)])
    return frozenset(kept)


def _by_use(pods: Sequence[IdlePod]) -> dict[tuple[str, str], list[IdlePod]]:
    """The pods of each Task, those that were used last first, and last those that are not there yet."""
    by_task: dict[tuple[str, str], list[IdlePod]] = {}
    for pod in sorted(pods, key=lambda p: (not p.there, p.idle_seconds, p.pod_id)):
        by_task.setdefault(pod.task, []).append(pod)
    return by_task


def surplus(pods: Sequence[IdlePod], total: int) -> list[str]:
    """Pods beyond what may wait: of each Task those that are not there yet and those that waited longest, then of all
    those of the Task that waits longest for a run, where one that runs often counts as used later. Those that a Task
    should keep go last.
    """
    by_task, spared = _by_use(pods), _kept(pods)
    gone: list[str] = []
    for kept in by_task.values():
        most = max(0, kept[0].policy.max)
        gone += [pod.pod_id for pod in kept[most:]]
        del kept[most:]
    left = sum(len(kept) for kept in by_task.values())
    while left > max(0, total):
        last = max(
            (kept for kept in by_task.values() if kept),
            key=lambda kept: (kept[-1].pod_id not in spared, _disuse(kept), kept[0].task),
        )
        gone.append(last.pop().pod_id)
        left -= 1
    return gone


def _disuse(pods: Sequence[IdlePod]) -> float:
    """How long a Task has not run, made less by how often it did."""
    return pods[0].idle_seconds / (1.0 + math.log2(1.0 + sum(pod.runs for pod in pods)))


def least_used(pods: Sequence[IdlePod], count: int) -> list[str]:
    """Pods that make room for others first."""
    return surplus(pods, max(0, len(pods) - count))[-count:] if count > 0 else []
