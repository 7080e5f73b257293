"""The engine as a small pure model: what each deed of people, pods and duties makes of the rows.

Seconds of a clock that only `Model.pass_time` moves. Nothing here knows of SQL.
"""

import math
from dataclasses import dataclass, field

MINUTE = 60
LEASE = GRACE = BACKOFF = MINUTE
ATTEMPT, RUN, START = 4 * MINUTE, 10 * MINUTE, 2 * MINUTE
MAX_ATTEMPTS, INFRA_BUDGET = 2, 2
TERMINAL = {"succeeded", "failed", "cancelled", "timedOut", "expired"}
SLOT = {"admitted", "running", "cancelling"}
WAITING = {"queued", "delayed", "backoff"}


@dataclass
class Attempt:
    number: int
    cause: str
    state: str = "reserved"
    reason: str | None = None
    counted: bool = False
    settled: bool = False
    bound_at: int | None = None
    deadline: float = math.inf
    lease: float = math.inf
    resumed_after: int = 0


@dataclass
class Waiting:
    key: str
    kind: str
    name: str | None
    until: float
    armed: bool = True
    value: str | None = None
    timed_out: bool = False
    resolved: bool = False


@dataclass
class Signal:
    name: str
    payload: str
    taken_by: str | None = None


@dataclass
class Run:
    """`place`: its order among those of its key. `write_ids`: what was acknowledged."""

    id: str
    queue: str
    key: str
    priority: int
    ready: float
    tick: int
    state: str = "queued"
    next_cause: str = "first"
    reason: str | None = None
    counted: int = 0
    streak: int = 0
    dead: bool = False
    cancel_asked: bool = False
    cancel_deadline: float = math.inf
    expires: float = math.inf
    given: float = 0
    origin: "Run | None" = None
    deadline: float = math.inf
    time: float = math.inf
    created: int = 0
    suspended_at: float = 0
    place: tuple[float, int] = (0, 0)
    attempts: list[Attempt] = field(default_factory=list)
    records: list[tuple[str, str, str]] = field(default_factory=list)
    write_ids: dict[str, int] = field(default_factory=dict)
    waits: dict[str, Waiting] = field(default_factory=dict)
    signals: list[Signal] = field(default_factory=list)
    parent: "Run | None" = None
    children: list["Run"] = field(default_factory=list)

    @property
    def last(self) -> Attempt:
        return self.attempts[-1]

    @property
    def ended(self) -> bool:
        return self.state in TERMINAL


class Model:
    def __init__(self) -> None:
        self.now = 0
        self.tick = 0
        self.up_since = 0
        self.up = True
        self.runs: dict[str, Run] = {}
        self.keys: dict[str, tuple[Run, str]] = {}
        self.limits: dict[str, int | None] = {}
        self.paused: dict[str, int] = {}
        self.wakes: list[tuple[Run, str | None, str | None]] = []

    # people

    def trigger(
        self,
        run_id: str,
        queue: str,
        *,
        key: str = "",
        priority: int = 0,
        delay: int = 0,
        ttl: int = 0,
        deadline: int = 0,
    ) -> Run:
        self.tick += 1
        run = self.runs[run_id] = Run(run_id, queue, key, priority, self.now + delay, self.tick)
        run.state = "delayed" if delay else "queued"
        run.place = (run.ready - MINUTE * priority, self.tick)
        run.expires = run.ready + ttl if ttl else math.inf
        run.deadline = self.now + deadline if deadline else math.inf
        run.created = self.now
        return run

    def copy(self, run: Run, run_id: str) -> Run:
        """A retry or a redrive: a new run with the records of this one."""
        made = self.trigger(run_id, run.queue, key=run.key, priority=run.priority)
        made.expires, made.deadline = (self.now + (at - run.created) for at in (run.expires - run.given, run.deadline))
        made.origin = run
        made.records, made.write_ids = list(run.records), dict(run.write_ids)
        run.dead = False
        return made

    def cancel(self, run: Run) -> None:
        if run.ended or run.state == "cancelling":
            return
        run.cancel_asked = True
        if run.state == "running":
            run.state, run.reason, run.cancel_deadline = "cancelling", "CancelRequested", self.now + GRACE
        elif run.state == "admitted":
            self._end_attempt(run, "Cancelled", settled=False)
        else:
            self._finish(run, "cancelled", "Cancelled")

    def signal(self, run: Run, name: str, payload: str) -> None:
        run.signals.append(Signal(name, payload))
        self._wake(run)

    def pause(self, queue: str) -> None:
        """What is admitted and has not started goes back to its place."""
        if queue in self.paused:
            return
        self.paused[queue] = self.now
        for run in self.runs.values():
            if run.queue == queue and run.state == "admitted":
                run.last.state, run.last.reason = "ended", "Paused"
                run.state, run.reason, run.next_cause = "queued", None, run.last.cause

    def resume(self, queue: str) -> None:
        """Their TTL stood still."""
        since = self.paused.pop(queue, None)
        for run in self.runs.values():
            if since is not None and run.queue == queue and run.state in WAITING and not run.attempts:
                given = self.now - max(since, run.created)
                run.expires, run.given = run.expires + given, run.given + given

    def answer(self, run: Run, key: str, value: str) -> bool:
        wait = run.waits.get(key)
        if run.ended or wait is None or wait.resolved:
            return False
        self.wakes.append((run, key, value))
        return True

    # duties

    def promote(self) -> None:
        for run in self.runs.values():
            if run.state in {"delayed", "backoff"} and run.ready <= self.now:
                run.state, run.place = "queued", (run.ready - MINUTE * run.priority, run.tick)

    def slots(self, queue: str) -> int:
        return sum(r.queue == queue and r.state in SLOT for r in self.runs.values())

    def eligible(self, queue: str) -> list[Run]:
        """In the order of their places."""
        return sorted(
            (r for r in self.runs.values() if r.queue == queue and r.state == "queued"), key=lambda r: r.place
        )

    def to_admit(self, queue: str) -> int:
        """How many admissions there must be now."""
        limit = self.limits[queue]
        free = math.inf if limit is None else max(0, limit - self.slots(queue))
        return 0 if queue in self.paused else int(min(free, len(self.eligible(queue))))

    def admit(self, run: Run) -> None:
        run.state, run.reason = "admitted", None
        run.attempts.append(Attempt(len(run.attempts) + 1, run.next_cause, resumed_after=len(run.records)))

    def overdue(self, run: Run) -> str | None:
        fresh = run.last
        since = max(fresh.bound_at if fresh.bound_at is not None else math.inf, self.up_since)
        lapsed = self.up and fresh.lease <= self.now and self.up_since + LEASE <= self.now
        late = self.up and fresh.state == "reserved" and since + START <= self.now
        for reason, over in (
            ("Cancelled", run.cancel_deadline <= self.now),
            ("DeadlineExceeded", run.deadline <= self.now),
            ("RunTimeout", run.time <= self.now),
            ("AttemptTimeout", fresh.deadline <= self.now),
            ("SidecarLost", late),
            ("LeaseExpired", lapsed),
        ):
            if over:
                return reason
        return None

    def reap(self) -> None:
        for run in list(self.runs.values()):
            if run.state in SLOT:
                if reason := self.overdue(run):
                    self._end_attempt(run, reason, settled=False, infra=reason in {"SidecarLost", "LeaseExpired"})
            elif not run.ended and run.deadline <= self.now:
                self._finish(run, "timedOut", "DeadlineExceeded")
            elif run.state in WAITING and run.time <= self.now:
                self._finish(run, "timedOut", "RunTimeout")

    def expire(self) -> None:
        for run in list(self.runs.values()):
            waits = run.state in {"queued", "delayed"} and not run.attempts
            if waits and run.expires <= self.now and run.queue not in self.paused:
                self._finish(run, "expired", "QueueTTL")

    def wake(self) -> None:
        wakes, self.wakes = self.wakes, []
        for run, key, value in wakes:
            if key is not None and not run.waits[key].resolved:
                run.waits[key].resolved, run.waits[key].value = True, value
        timers = [
            run
            for run in self.runs.values()
            if any(w.armed and not w.resolved and w.until <= self.now for w in run.waits.values())
        ]
        for run in [*(r for r, _, _ in wakes), *timers]:
            self._wake(run)
            if run.state != "suspended":
                self._disarm(run)

    # pods

    def may_write(self, run: Run, number: int) -> bool:
        return len(run.attempts) == number and run.last.state != "ended"

    def start(self, run: Run) -> None:
        run.last.lease = self.now + LEASE
        if run.last.state == "reserved":
            run.last.state, run.last.deadline = "running", self.now + ATTEMPT
            run.last.resumed_after = len(run.records)
            run.time = self.now + RUN if run.time == math.inf else run.time
            run.state, run.reason = "running", None

    def write(self, run: Run, kind: str, key: str, value: str, write_id: str) -> int | None:
        """Its number; None: the first write of the step won."""
        if write_id in run.write_ids:
            return run.write_ids[write_id]
        if kind == "step" and any((k, n) == (kind, key) for k, n, _ in run.records):
            return None
        run.records.append((kind, key, value))
        run.write_ids[write_id] = len(run.records)
        return len(run.records)

    def settle(self, run: Run, outcome: str, waits: list[Waiting]) -> None:
        reason = {"succeeded": "Succeeded", "suspended": "Suspended", "user": "TaskFailed", "fatal": "FatalError"}[
            outcome
        ]
        self._end_attempt(run, reason, settled=True)
        if run.state != "suspended":
            return
        for wait in waits:
            run.waits.setdefault(wait.key, wait).armed = True
        self._wake(run)

    def pod_lost(self, run: Run, infra: bool) -> None:
        self._end_attempt(run, "PodLost" if infra else "TaskFailed", settled=False, infra=infra)

    # what follows

    def _end_attempt(self, run: Run, reason: str, *, settled: bool, infra: bool = False) -> None:
        attempt = run.last
        attempt.state, attempt.reason, attempt.settled = "ended", reason, settled
        attempt.counted = reason in {"TaskFailed", "FatalError", "AttemptTimeout"}
        run.counted += attempt.counted
        progressed = len(run.records) > attempt.resumed_after
        run.next_cause = "resume" if reason == "Suspended" else "infra" if infra else "retry"
        if run.cancel_asked:
            self._finish(run, "cancelled", "Cancelled")
        elif reason == "Succeeded":
            run.streak = 0
            self._finish(run, "succeeded", reason)
        elif reason in {"RunTimeout", "DeadlineExceeded"}:
            self._finish(run, "timedOut", reason)
        elif reason == "Suspended":
            run.streak, run.suspended_at = 0, self.now
            run.state, run.reason = "suspended", reason
        elif reason == "FatalError":
            self._finish(run, "failed", reason)
        elif infra:
            self._after_loss(run, reason, progressed)
        elif run.counted >= MAX_ATTEMPTS:
            run.streak, run.dead = 0, True
            self._finish(run, "failed", reason)
        else:
            run.streak = 0
            self._back_off(run, reason)

    def _after_loss(self, run: Run, reason: str, progressed: bool) -> None:
        run.streak = 1 if progressed else run.streak + 1
        if run.streak > INFRA_BUDGET:
            run.dead = True
            self._finish(run, "failed", "InfrastructureBudgetSpent")
        elif run.streak == 1:
            run.state, run.reason, run.ready = "queued", reason, self.now
        else:
            self._back_off(run, reason)

    def _back_off(self, run: Run, reason: str) -> None:
        self.tick += 1
        run.state, run.reason, run.ready, run.tick = "backoff", reason, self.now + BACKOFF, self.tick

    def _finish(self, run: Run, state: str, reason: str) -> None:
        run.state, run.reason = state, reason
        if run.parent is not None and not run.parent.ended:
            self.wakes.append((run.parent, None, None))

    def _wake(self, run: Run) -> None:
        if run.state != "suspended":
            return
        waits = [w for w in run.waits.values() if w.armed and not w.resolved]
        for wait in waits:
            signal = next((s for s in run.signals if s.name == wait.name and s.taken_by is None), None)
            child = next((c for c in run.children if c.id == wait.name and c.ended), None)
            if wait.kind == "signal" and signal is not None:
                wait.resolved, wait.value, signal.taken_by = True, signal.payload, wait.key
            elif wait.kind == "child" and child is not None:
                wait.resolved, wait.value = True, child.state
            elif wait.until <= self.now:
                wait.resolved, wait.timed_out = True, wait.kind != "timer"
        if any(w.armed and w.resolved for w in run.waits.values()):
            run.state, run.reason, run.next_cause = "queued", None, "resume"
            run.time += self.now - run.suspended_at
            self._disarm(run)

    @staticmethod
    def _disarm(run: Run) -> None:
        for wait in run.waits.values():
            wait.armed = False
