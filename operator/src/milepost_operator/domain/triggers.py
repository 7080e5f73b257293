"""What becomes of a trigger whose key, name or object another run may have: decided on what the database says."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Literal, TypeAlias
from uuid import UUID

from milepost_operator.domain.errors import ConflictError, MilepostError
from milepost_operator.domain.runs import Created, NewRun
from milepost_operator.domain.states import RunState

MAX_BATCH: Final = 1000
ROOTS: Final = frozenset({"api", "kubectl"})
"""Origins of runs that a queue's maxDepth refuses: those that someone can trigger again later."""
SLICES: Final = 60

Claim: TypeAlias = Literal["intent", "key", "singleton", "name"]
"""What two runs can't both have."""
Identity: TypeAlias = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Owner:
    """The run that has what the trigger asked for. `gone`: only its key is left, and nobody waits for that run."""

    run_id: UUID
    name: str
    state: RunState
    digest: bytes
    ready_at: datetime | None = None
    gone: bool = False


def identity_of(run: NewRun) -> Identity | None:
    """What this call shares with others that mean the same run; None: it stands for itself."""
    if run.idempotency_key is not None:
        return ("key", run.namespace, run.task, run.idempotency_key)
    if run.singleton is not None:
        return ("singleton", run.namespace, run.task, run.singleton.key)
    if run.debounce is not None:
        return ("debounce", run.namespace, run.task, run.debounce.key)
    return None


def leaders(runs: Iterable[NewRun]) -> list[bool]:
    """Per call whether it is the first of its identity: the others can only find what that one made."""
    seen: set[Identity] = set()
    first: list[bool] = []
    for run in runs:
        identity = identity_of(run)
        first.append(identity is None or identity not in seen)
        if identity is not None:
            seen.add(identity)
    return first


def resolve(run: NewRun, digest: bytes, owners: Mapping[Claim, Owner]) -> Created | MilepostError | None:
    """The answer to a trigger that was not inserted; None: what stood in its way is gone, so try again."""
    if "intent" in owners:
        return _duplicate(owners["intent"])
    if "key" in owners:
        owner = owners["key"]
        if owner.gone:
            return None
        return _duplicate(owner) if owner.digest == digest else _mismatch(run, owner)
    if "singleton" in owners:
        owner = owners["singleton"]
        if run.singleton is None or not run.singleton.reject:
            return _duplicate(owner)
        return ConflictError(
            "singleton-exists",
            f"run {owner.name} of task {run.task} is {owner.state.value} and has the singleton key"
            f" {run.singleton.key!r}: wait for its end, or pass onConflict: return",
        )
    if "name" in owners and run.name is not None:
        return ConflictError(
            "name-taken", f"a run {run.name} exists in namespace {run.namespace}: choose another name, or pass none"
        )
    return None


def _duplicate(owner: Owner) -> Created:
    return Created(owner.run_id, owner.name, owner.state, duplicate=True, ready_at=owner.ready_at)


def _mismatch(run: NewRun, owner: Owner) -> ConflictError:
    return ConflictError(
        "idempotency-mismatch",
        f"idempotencyKey {run.idempotency_key!r} belongs to run {owner.name}, which has another input:"
        " use another key, or the same input",
    )


def folded(calls: Sequence[NewRun]) -> NewRun:
    """Calls of one debounce key at the same moment, as one call: the last one's time, and the input that wins."""
    first, last = calls[0], calls[-1]
    if last.debounce is None or last.debounce.latest:
        return last
    return replace(last, input=first.input, digest=first.digest)


@dataclass(frozen=True, slots=True)
class Passed:
    """A throttle's answer to some calls: how many may pass, what to keep, and when to come again (seconds)."""

    passed: int
    counts: Mapping[int, int]
    retry_after_seconds: float


def throttle(counts: Mapping[int, int], now: float, limit: int, period: float, calls: int) -> Passed:
    """Sliding window in SLICES slices of the period, rounded to the safe side: in no window pass more than `limit`.

    `counts`: calls let through by slice number; `now`: seconds of the database's clock. Slices that lie ahead (a clock
    set back) count too, so that going back gives nothing.
    """
    width = period / SLICES
    current = math.floor(now / width)
    kept = {number: count for number, count in counts.items() if number >= current - SLICES}
    passed = max(0, min(calls, limit - sum(kept.values())))
    newest = max([current, *kept])
    if passed:
        kept[newest] = kept.get(newest, 0) + passed
    return Passed(passed, kept, _next_room(kept, now, limit, width))


def _next_room(kept: Mapping[int, int], now: float, limit: int, width: float) -> float:
    """Seconds until one more call may pass."""
    over = sum(kept.values()) - limit + 1
    for number in sorted(kept):
        if over <= 0:
            break
        over -= kept[number]
        if over <= 0:
            return max(0.0, (number + SLICES + 1) * width - now)
    return 0.0
