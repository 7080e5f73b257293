"""Judges a run by its histories and its rows. It shares no code with the engine beyond the table of transitions."""

from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from milepost_operator.domain.runs import Rate
from milepost_operator.domain.states import TERMINAL, TRANSITIONS, RunState
from tests.chaos.config import GLOBAL_LIMIT, RATE, SEMAPHORE, TASK_LIMIT
from tests.chaos.history import fingerprint

Entry = Mapping[str, Any]
RunAttempt = tuple[str, int]


@dataclass(frozen=True)
class Evidence:
    """`journal`: what pods and the feeder wrote down; the rest are rows, ids as text. `audit` is in its order."""

    journal: Sequence[Entry]
    audit: Sequence[Entry]
    runs: Mapping[str, Entry]
    attempts: Sequence[Entry]
    records: Mapping[str, Sequence[Entry]]
    open_pods: Sequence[Entry] = ()

    def of(self, what: str) -> list[Entry]:
        return [entry for entry in self.journal if entry["what"] == what]


@dataclass(frozen=True)
class Verdict:
    """One promise: how often it was broken, and the first cases."""

    promise: str
    broken: Sequence[str]

    def line(self) -> str:
        cases = "; ".join(self.broken[:3])
        return f"  {len(self.broken):>5}  {self.promise}" + (f": {cases}" if cases else "")


def judge(evidence: Evidence) -> list[Verdict]:
    """Every promise, in the order of importance."""
    checks = {
        "acknowledged runs that are lost, or wait without a reason": _stranded(evidence),
        "idempotency keys with more than one run": _doubled(evidence),
        "acknowledged records lost or changed": _lost(evidence),
        "acknowledged records that a later attempt did not read": _unread(evidence),
        "step bodies executed again after their record was acknowledged": _repeated(evidence),
        "records written by two attempts": _two_writers(evidence),
        "admissions over a limit or out of a paused queue": _over(evidence.audit),
        "slots freed twice or never": _slots(evidence),
        "acknowledged results that are not the run's": _results(evidence),
        "transitions that do not exist (also: a terminal run that reopened)": _transitions(evidence.audit),
        "failures counted against the wrong budget": _budgets(evidence),
        "launches by an older epoch after a newer one's": _launches(evidence.audit),
        "pods left open after their attempt": [str(dict(pod)) for pod in evidence.open_pods],
    }
    return [Verdict(promise, list(broken)) for promise, broken in checks.items()]


def _stranded(evidence: Evidence) -> Iterable[str]:
    for run_id in {entry["run"] for entry in evidence.of("trigger")}:
        run = evidence.runs.get(run_id)
        if run is None:
            yield f"run {run_id} is gone"
        elif run["state"] not in TERMINAL and not _waits_with_reason(run):
            yield f"run {run_id} is {run['state']} with no reason, attempt {run['attempt']}"


def _waits_with_reason(run: Entry) -> bool:
    """After the drain nothing else is in the way of a run: neither a full nor a paused queue, nor time."""
    return run["state"] == RunState.HELD and bool(run["reason"])


def _doubled(evidence: Evidence) -> Iterable[str]:
    told, rows = defaultdict(set), defaultdict(set)
    for entry in evidence.of("trigger"):
        told[entry["key"]].add(entry["run"])
    for run_id, run in evidence.runs.items():
        rows[run["idempotency_key"]].add(run_id)
    for key, runs in told.items():
        if len(runs | rows[key]) > 1:
            yield f"{key}: {len(runs)} told, {len(rows[key])} rows"


def _lost(evidence: Evidence) -> Iterable[str]:
    for ack in evidence.of("ack"):
        rows = [r for r in evidence.records.get(ack["run"], ()) if r["write_id"] == ack["write"]]
        if not rows:
            yield f"run {ack['run']} attempt {ack['attempt']} {ack['key']} is gone"
        elif (rows[0]["seq"], rows[0]["key"], fingerprint(rows[0]["value"])) != (ack["seq"], ack["key"], ack["value"]):
            yield f"run {ack['run']} {ack['key']} differs"


def _unread(evidence: Evidence) -> Iterable[str]:
    acks = defaultdict(list)
    for ack in evidence.of("ack"):
        acks[ack["run"]].append(ack)
    for read in evidence.of("read"):
        for ack in acks[read["run"]]:
            if ack["attempt"] < read["attempt"] and read["seqs"].get(str(ack["seq"])) != ack["value"]:
                yield f"run {read['run']} attempt {read['attempt']} did not read {ack['key']} of {ack['attempt']}"


def _repeated(evidence: Evidence) -> Iterable[str]:
    first: dict[tuple[str, str], int] = {}
    for ack in evidence.of("ack"):
        if ack["kind"] == "step":
            key = (ack["run"], ack["key"])
            first[key] = min(first.get(key, ack["attempt"]), ack["attempt"])
    for body in evidence.of("body"):
        if body["attempt"] > first.get((body["run"], body["key"]), body["attempt"]):
            yield f"run {body['run']} {body['key']} again in attempt {body['attempt']}"


def _two_writers(evidence: Evidence) -> Iterable[str]:
    """A step of a run has one record; and no attempt's record comes after one of a later attempt."""
    for run_id, records in evidence.records.items():
        newest, steps = 0, set()
        for record in sorted(records, key=lambda r: int(r["seq"])):
            if record["attempt"] < newest:
                yield f"run {run_id} seq {record['seq']}: attempt {record['attempt']} wrote after {newest}"
            newest = max(newest, record["attempt"])
            if record["kind"] == "step" and record["key"] in steps:
                yield f"run {run_id}: {record['key']} twice"
            steps.add(record["key"])


def _over(audit: Sequence[Entry]) -> Iterable[str]:
    """Every limit, at each admission, in the order of the audit."""
    held: dict[RunAttempt, Entry] = {}
    rules: dict[str, Entry] = {}
    rate = Window(*RATE)
    for entry in audit:
        slot = (entry["run_id"], entry["attempt"])
        if entry["what"] == "limit":
            rules[entry["queue"]] = entry["detail"]
        elif entry["what"] == "out":
            held.pop(slot, None)
        elif entry["what"] == "in":
            held[slot] = entry
            yield from _over_now(entry, held.values(), rules.get(entry["queue"], {}))
            yield from rate.admitted(entry)


def _over_now(entry: Entry, held: Collection[Entry], rule: Entry) -> Iterable[str]:
    queue, key, task = entry["queue"], entry["detail"]["key"], entry["detail"]["task"]
    override = rule.get("override_concurrency")
    limit = rule.get("concurrency") if override is None else override
    semaphore, units_limit, units = SEMAPHORE
    if rule.get("paused"):
        yield f"{queue} is paused: run {entry['run_id']}"
    for what, count, most in (
        (f"queue {queue}", sum(h["queue"] == queue for h in held), limit),
        (
            f"key {key!r} of {queue}",
            sum(h["queue"] == queue and h["detail"]["key"] == key for h in held),
            rule.get("key_concurrency"),
        ),
        ("the whole cluster", len(held), GLOBAL_LIMIT),
        (f"task {task}", sum(h["detail"]["task"] == task for h in held), dict([TASK_LIMIT]).get(task)),
        (f"semaphore {semaphore}", sum(units.get(h["detail"]["task"], 0) for h in held), units_limit),
    ):
        if most is not None and count > most and (what != f"semaphore {semaphore}" or task in units):
            yield f"{what} has {count} of {most}"


class Window:
    """First and retry admissions of a queue in any window of its rate's period, by the database's clock.

    A clock that went back stands still here, as it does for the limit. The time of an entry is a little later than
    that of its admission, by no more than `SLACK` seconds.
    """

    SLACK = 0.5

    def __init__(self, queue: str, rate: Rate) -> None:
        self._queue = queue
        self._rate = rate
        self._times: deque[float] = deque()

    def admitted(self, entry: Entry) -> Iterable[str]:
        if entry["queue"] != self._queue or entry["detail"]["cause"] not in {"first", "retry"}:
            return
        now = max(float(entry["detail"]["at"]), self._times[-1] if self._times else 0.0)
        self._times.append(now)
        while self._times[0] <= now - self._rate.period_seconds + self.SLACK:
            self._times.popleft()
        if len(self._times) > self._rate.limit:
            yield f"rate of {self._queue}: {len(self._times)} of {self._rate.limit} in {self._rate.period_seconds} s"


def _slots(evidence: Evidence) -> Iterable[str]:
    ends: dict[RunAttempt, int] = defaultdict(int)
    for entry in evidence.audit:
        slot = (entry["run_id"], entry["attempt"])
        if entry["what"] == "out":
            ends[slot] += 1
        elif entry["what"] == "changed-after-end":
            yield f"run {slot[0]} attempt {slot[1]} changed after its end"
    for entry in evidence.audit:
        if entry["what"] == "in" and ends[entry["run_id"], entry["attempt"]] != 1:
            count = ends[entry["run_id"], entry["attempt"]]
            yield f"run {entry['run_id']} attempt {entry['attempt']}: {count} ends"


def _results(evidence: Evidence) -> Iterable[str]:
    for said in evidence.of("settled"):
        run = evidence.runs.get(said["run"])
        if run is None or said["state"] not in TERMINAL:
            continue
        if run["state"] != said["state"]:
            yield f"run {said['run']} is {run['state']}, told {said['state']}"
        elif said["state"] == RunState.SUCCEEDED and run["result"] != said["result"]:
            yield f"run {said['run']} has another result"


def _transitions(audit: Sequence[Entry]) -> Iterable[str]:
    for entry in audit:
        if entry["what"] == "state":
            was, now = RunState(entry["detail"]["was"]), RunState(entry["detail"]["now"])
            if now not in TRANSITIONS[was]:
                yield f"run {entry['run_id']}: {was} to {now}"


INFRA_REASONS = frozenset({"PodLost", "LeaseExpired", "SidecarLost"})


def _budgets(evidence: Evidence) -> Iterable[str]:
    counted: dict[str, int] = defaultdict(int)
    for attempt in evidence.attempts:
        counted[attempt["run_id"]] += attempt["counted"]
        if attempt["reason"] in INFRA_REASONS and attempt["counted"]:
            yield f"run {attempt['run_id']} attempt {attempt['attempt']}: {attempt['reason']} counted"
    for run_id, run in evidence.runs.items():
        if run["attempts_counted"] != counted[run_id]:
            yield f"run {run_id} counts {run['attempts_counted']}, its attempts {counted[run_id]}"


def _launches(audit: Sequence[Entry]) -> Iterable[str]:
    newest = 0
    for entry in audit:
        if entry["what"] == "launch":
            epoch = entry["detail"]["epoch"]
            if epoch < newest:
                yield f"pod {entry['detail']['pod']} by epoch {epoch} after {newest}"
            newest = max(newest, epoch)
