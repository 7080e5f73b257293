"""Why a run waits: exactly one reason, with its numbers and, where it is known, the next moment it can change."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from milepost_operator.domain.states import OUT_OF_MEMORY, TERMINAL, Reason, RunState

MAX_AHEAD: Final = 1000
"""Runs ahead are counted no further than this."""


@dataclass(frozen=True, slots=True)
class Why:
    """`code` is stable (CamelCase), `sentence` is for people, `next_at` is the soonest that the reason can change."""

    code: str
    sentence: str
    next_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Something with a limit: how much of it is taken. `units`: what one more run takes."""

    name: str
    limit: int
    used: int
    units: int = 1

    @property
    def full(self) -> bool:
        return self.used + self.units > self.limit


@dataclass(frozen=True, slots=True)
class RateUse:
    """`free_at`: when `cost` units are free again; None: now. `key`: of the run's key alone."""

    limit: int
    period_seconds: int
    free_at: datetime | None
    key: bool = False


@dataclass(frozen=True, slots=True)
class Pause:
    """`by`: who said so; None: the Queue's manifest."""

    since: datetime | None
    by: str | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class QueueFacts:
    """`running`: slots taken; `limit` None: no limit. `open_until`: the breaker is open. `probe_room` None: closed."""

    name: str
    limit: int | None = None
    running: int = 0
    pause: Pause | None = None
    open_until: datetime | None = None
    probe_room: int | None = None
    probing: int = 0


@dataclass(frozen=True, slots=True)
class PodFacts:
    """The pods row of a run that is admitted."""

    state: str
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class WaitOn:
    """What a suspended run sleeps on."""

    kind: str
    name: str
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """What was observed of one run, and of what stands in its way. `queue` None: there is none of that name.

    `ahead`: runs of its queue and concurrency key that come before it, counted up to one more than MAX_AHEAD (keys take
    turns, so that runs of others are not ahead of it). `noted`, `message`: the row's
    own reason, as the launcher or intake gave it.
    """

    now: datetime
    state: RunState
    task: str
    queue_name: str
    queue: QueueFacts | None = None
    noted: str | None = None
    message: str | None = None
    ready_at: datetime | None = None
    held_until: datetime | None = None
    attempt: int = 0
    next_cause: str = "first"
    counted: int = 0
    max_attempts: int = 1
    bumped: bool = False
    ahead: int = 0
    concurrency_key: str = ""
    key: Usage | None = None
    task_use: Usage | None = None
    global_use: Usage | None = None
    semaphores: Sequence[Usage] = ()
    rates: Sequence[RateUse] = ()
    pod: PodFacts | None = None
    waits: Sequence[WaitOn] = field(default=())
    cancel_deadline_at: datetime | None = None


def decide(facts: Facts) -> Why | None:
    """None: the run has ended, and its reason says how."""
    if facts.state in TERMINAL:
        return None
    return _BY_STATE[facts.state](facts)


def span(seconds: float) -> str:
    """`3 s`, `5 min`, `2 h`: rounded up, since it is how long to wait."""
    whole = max(1, -int(-seconds // 1))
    if whole < 120:  # noqa: PLR2004  two minutes
        return f"{whole} s"
    return f"{-(-whole // 60)} min" if whole < 7200 else f"{-(-whole // 3600)} h"  # noqa: PLR2004  two hours


def stamp(at: datetime | None) -> str:
    """RFC 3339 to the second, in UTC."""
    return at.strftime("%Y-%m-%dT%H:%M:%SZ") if at else "an unknown time"


def _queued(facts: Facts) -> Why:
    queue = facts.queue
    if queue is None:
        return _queue_missing(facts)
    stopped = _paused(queue) or _broken(queue)
    if stopped:
        return stopped
    return next(_limits(facts, queue), None) or _in_line(facts, queue)


def _limits(facts: Facts, queue: QueueFacts) -> Iterator[Why]:
    """What holds this run back whatever its place, the narrowest first; then what holds its whole queue."""
    if facts.key and facts.key.full:
        whose = f"key `{facts.key.name}` at its" if facts.key.name else "runs without a key at their"
        yield Why("KeyLimit", f"{whose} limit {facts.key.limit} in `{queue.name}`")
    if facts.task_use and facts.task_use.full:
        yield Why("TaskLimit", f"task `{facts.task}` at its concurrency {facts.task_use.limit}")
    for one in facts.semaphores:
        if one.full:
            wanted = f", {one.units} wanted" if one.units > 1 else ""
            yield Why("SemaphoreFull", f"semaphore `{one.name}` full ({one.used} of {one.limit}{wanted})")
    if queue.limit is not None and queue.running >= queue.limit:
        yield Why("QueueFull", _behind(facts, queue))
    if facts.global_use and facts.global_use.full:
        yield Why("GlobalLimit", f"global limit {facts.global_use.limit}, {facts.global_use.used} running")
    if late := [rate for rate in facts.rates if rate.free_at and rate.free_at > facts.now]:
        yield _rate(facts, queue, max(late, key=lambda rate: rate.free_at or facts.now))


def _rate(facts: Facts, queue: QueueFacts, rate: RateUse) -> Why:
    key = f"key `{facts.concurrency_key}`" if facts.concurrency_key else "runs without a key"
    of = f" of {key}" if rate.key else ""
    wait = span((rate.free_at - facts.now).total_seconds()) if rate.free_at else "0 s"
    text = f"rate {rate.limit}/{period(rate.period_seconds)}{of} in `{queue.name}`, next token in {wait}"
    return Why("RateLimited", text, rate.free_at)


def period(seconds: int) -> str:
    """`1m`, `36s`, `1d`: the largest unit that goes evenly."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def _in_line(facts: Facts, queue: QueueFacts) -> Why:
    if facts.ahead:
        return Why("Queued", _behind(facts, queue))
    first = "bumped: " if facts.bumped else ""
    return Why("Queued", f"{first}next in `{queue.name}`, about to be admitted")


def _behind(facts: Facts, queue: QueueFacts) -> str:
    limit = "no limit" if queue.limit is None else f"limit {queue.limit}"
    use = f"`{queue.name}` ({limit}, {queue.running} running)"
    if not facts.ahead:
        return f"next in {use}"
    many = facts.ahead > MAX_AHEAD
    count = f"more than {MAX_AHEAD:,}" if many else f"{facts.ahead:,}"
    of = f" of key `{facts.concurrency_key}`" if facts.concurrency_key else ""
    return f"behind {count} {'other' if facts.ahead == 1 else 'others'}{of} in {use}"


def _paused(queue: QueueFacts) -> Why | None:
    if queue.pause is None:
        return None
    by = f" by {queue.pause.by}" if queue.pause.by else " by its manifest"
    since = f" since {stamp(queue.pause.since)}" if queue.pause.since else ""
    reason = f" ({queue.pause.reason})" if queue.pause.reason else ""
    return Why(Reason.PAUSED, f"queue `{queue.name}` paused{by}{since}{reason}")


def _broken(queue: QueueFacts) -> Why | None:
    if queue.open_until is not None:
        return Why("CircuitOpen", f"circuit of `{queue.name}` open until {stamp(queue.open_until)}", queue.open_until)
    if queue.probe_room == 0:
        return Why("CircuitHalfOpen", f"circuit of `{queue.name}` half open: {queue.probing} probes at work")
    return None


def _queue_missing(facts: Facts) -> Why:
    text = f"no Queue `{facts.queue_name}`: apply it, or change the Task's queue"
    return Why(Reason.QUEUE_NOT_FOUND, text, facts.held_until)


def _delayed(facts: Facts) -> Why:
    return Why("Delayed", f"delayed until {stamp(facts.ready_at)}", facts.ready_at)


def _backoff(facts: Facts) -> Why:
    if facts.noted == Reason.STEP_BACKOFF:
        told = facts.message or "a step failed and is tried again"
        return Why(Reason.STEP_BACKOFF, f"{told}, at {stamp(facts.ready_at)}", facts.ready_at)
    if facts.next_cause == "retry":
        text = f"retry {facts.counted} of {facts.max_attempts - 1} at {stamp(facts.ready_at)}"
    else:
        text = f"attempt {facts.attempt + 1} at {stamp(facts.ready_at)}"
    after = f", after {facts.noted}" if facts.noted else ""
    if facts.noted in OUT_OF_MEMORY and facts.message:
        after = f", after {facts.noted}: {facts.message}"
    return Why("Backoff", text + after, facts.ready_at)


def _held(facts: Facts) -> Why:
    if facts.noted == Reason.TASK_NOT_FOUND:
        text = f"no Task `{facts.task}`: apply it, or delete the run"
        return Why(Reason.TASK_NOT_FOUND, text, facts.held_until)
    if facts.noted == Reason.QUEUE_NOT_FOUND:
        return _queue_missing(facts)
    if facts.noted == Reason.CODE_CHANGED:
        text = f"waits for a decision (accept, recheck or fail): {facts.message}"
        return Why(Reason.CODE_CHANGED, text, facts.held_until)
    return Why(facts.noted or "Held", facts.message or "held: waits for a decision", facts.held_until)


def _admitted(facts: Facts) -> Why:
    if facts.noted and facts.noted != Reason.PAUSED:
        note = f": {facts.message}" if facts.message else ""
        return Why(facts.noted, f"admitted, waiting for a pod ({facts.noted}{note})")
    state = {
        "wanted": "its Job is not made yet",
        "creating": "its Job is being made",
        "created": "its pod is starting",
        "bound": "its pod is about to start",
        "offered": "a warm pod is about to take it",
    }.get(facts.pod.state if facts.pod else "", "its pod is not there yet")
    since = f", for {span((facts.now - facts.pod.since).total_seconds())}" if facts.pod and facts.pod.since else ""
    return Why("PodPending", f"admitted, waiting for a pod: {state}{since}")


def _suspended(facts: Facts) -> Why:
    if not facts.waits:
        return Why("Suspended", "suspended, waits to be woken")
    timers = [wait.until for wait in facts.waits if wait.until]
    first = min(facts.waits, key=lambda wait: wait.until or datetime.max.replace(tzinfo=facts.now.tzinfo))
    more = f" and {len(facts.waits) - 1} more" if len(facts.waits) > 1 else ""
    until = f" until {stamp(first.until)}" if first.until else ""
    name = f" `{first.name}`" if first.name else ""
    return Why("Suspended", f"suspended, waits for {first.kind}{name}{until}{more}", min(timers, default=None))


def _running(facts: Facts) -> Why:
    return Why("Running", f"attempt {facts.attempt} is at work")


def _cancelling(facts: Facts) -> Why:
    text = f"told to end; killed at {stamp(facts.cancel_deadline_at)}" if facts.cancel_deadline_at else "told to end"
    return Why(Reason.CANCEL_REQUESTED, text, facts.cancel_deadline_at)


_BY_STATE: Final[dict[RunState, Callable[[Facts], Why]]] = {
    RunState.QUEUED: _queued,
    RunState.DELAYED: _delayed,
    RunState.BACKOFF: _backoff,
    RunState.HELD: _held,
    RunState.ADMITTED: _admitted,
    RunState.RUNNING: _running,
    RunState.SUSPENDED: _suspended,
    RunState.CANCELLING: _cancelling,
}
