"""The state machine: deeds are done to the engine and to its model, whose answers and rows are then compared."""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Awaitable
from typing import Any, ClassVar, TypeVar
from uuid import UUID

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from milepost.wire.pod import HeartbeatAnswer, HeartbeatRequest, Wait
from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.domain.errors import ConflictError, GoneError, MilepostError
from milepost_operator.domain.runs import Ending, PodSession, QueueIntake, Retry, Timeouts
from milepost_operator.domain.states import Reason
from tests.integration import engine_model as m
from tests.integration.engine import NS, Pod, apply_task, started, trigger
from tests.integration.engine_rows import Rows, difference, expectation

T = TypeVar("T")
MOST_LIVE = 6
TASKS = {"work": "wide", "side": "narrow"}
LIMITS: dict[str, int | None] = {"wide": 4, "narrow": 1}
LOST = Ending(Reason.POD_LOST, "gone", counted=False, infra=True)
BROKE = Ending(Reason.USER_FAILURE, "exit 1")
PICK = st.integers(0, 1 << 20)
WAIT = st.one_of(
    st.tuples(st.just("signal"), st.integers(1, 2), st.sampled_from([None, 60])),
    st.tuples(st.just("signal"), st.integers(1, 2), st.just(None)),
    st.tuples(st.just("timer"), st.integers(1, 2), st.sampled_from([0, 60, 120])),
    st.tuples(st.just("approval"), st.integers(1, 2), st.sampled_from([None, 120])),
    st.tuples(st.just("child"), st.integers(0, 9), st.sampled_from([None, 180])),
)
ARGUMENTS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "trigger": {
        "task": st.sampled_from(["work", "side"]),
        "key": st.sampled_from(["", "", "k1", "k2"]),
        "priority": st.integers(-1, 1),
        "delay": st.sampled_from([0, 0, 0, 60]),
        "ttl": st.sampled_from([0, 60, 120]),
        "deadline": st.sampled_from([0, 0, 360]),
        "once": st.sampled_from([None, None, "a", "b"]),
        "text": st.sampled_from(["1", "1", "2"]),
    },
    "cancel": {"n": PICK},
    "again": {"n": PICK},
    "signal": {"n": PICK, "name": st.sampled_from(["s1", "s2"]), "payload": st.sampled_from(["1", "2"])},
    "answer": {"n": PICK, "value": st.sampled_from(["true", "false"])},
    "operate": {
        "queue": st.sampled_from(["wide", "narrow"]),
        "to": st.sampled_from(["pause", "pause", "resume", "resume", None, 0, 1, 2]),
    },
    "clock": {
        "seconds": st.sampled_from([60, 60, 120, 300]),
        "then": st.sampled_from([None, "expire", "wake", "reap", "all_duties"]),
    },
    "outage": {},
    "all_duties": {},
    "go": {},
    "write": {
        "n": PICK,
        "kind": st.sampled_from(["step", "checkpoint"]),
        "key": st.sampled_from("abc"),
        "again": st.booleans(),
    },
    "beat": {"n": PICK},
    "settle": {"n": PICK, "outcome": st.sampled_from(["succeeded", "user", "user", "fatal"])},
    "suspend": {"n": PICK, "kinds": st.lists(WAIT, min_size=1, max_size=3, unique_by=lambda w: w[:2])},
    "spawn": {"n": PICK},
    "lose": {"n": PICK, "infra": st.booleans()},
}
WEIGHTS = {"trigger": 3, "go": 5, "suspend": 4, "signal": 4, "clock": 4, "write": 2, "settle": 2, "lose": 2}
DEEDS = st.sampled_from([name for name in ARGUMENTS for _ in range(WEIGHTS.get(name, 1))]).flatmap(
    lambda name: st.tuples(st.just(name), st.fixed_dictionaries(ARGUMENTS[name]))
)


class Engine(RuleBasedStateMachine):
    """A method a deed, done to both; `agree` compares. A new deed (redrive, say) is a method here, one of the model,
    and an entry in ARGUMENTS.
    """

    stores: ClassVar[list[PostgresStore]]
    rows: ClassVar[Rows]
    runner: ClassVar[asyncio.Runner]
    told: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.model = m.Model()
        self.pods: list[Pod] = []
        self.sessions: list[tuple[PodSession, m.Run, int]] = []
        self.turn = 0
        self.generation = 1

    def do(self, deed: Awaitable[T]) -> T:
        return self.runner.run(deed)  # type: ignore[arg-type]

    @property
    def store(self) -> PostgresStore:
        """Any replica."""
        self.turn += 1
        return self.stores[self.turn % len(self.stores)]

    @initialize()
    def begin(self) -> None:
        async def prepare() -> int:
            await self.rows.forget()
            await self.store.pulse()
            for name, limit in LIMITS.items():
                await self.store.apply_queue(QueueIntake(NS, name, f"u-{name}", 1, limit))
            retry = Retry(max_attempts=m.MAX_ATTEMPTS, factor=1, min_seconds=60, max_seconds=60, randomize=False)
            timeouts = Timeouts(m.ATTEMPT, m.RUN)
            for task, queue in TASKS.items():
                await apply_task(self.store, task, queue=queue, retry=retry, timeouts=timeouts)
            return await self.store.take_epoch("model")

        self.model.limits = dict(LIMITS)
        self.epoch = self.do(prepare())

    @rule(deeds=st.lists(DEEDS, min_size=1, max_size=8))
    def live(self, deeds: list[tuple[str, dict[str, Any]]]) -> None:
        """Deeds in proportions that bring runs far: rules of their own would be drawn all alike."""
        for name, arguments in deeds:
            getattr(self, name)(**arguments)
            self.told["deeds"] += 1

    # people

    def trigger(self, task: str, once: str | None, text: str, **options: Any) -> None:
        if sum(not r.ended for r in self.model.runs.values()) >= MOST_LIVE:
            return
        known = self.model.keys.get(f"{task}/{once}") if once else None
        deed = self.rows.make(self.store, task, once, text, **options)
        if known and known[1] != text:
            self.refused(deed, "idempotency-mismatch")
            return
        made = self.do(deed)
        assert made.duplicate == bool(known)
        if known:
            assert (str(made.run_id), made.state) == (known[0].id, known[0].state)
            return
        run = self.model.trigger(str(made.run_id), TASKS[task], **options)
        if once:
            self.model.keys[f"{task}/{once}"] = (run, text)

    def again(self, n: int) -> None:
        """A manual retry of a run that ended, or the redrive of a dead letter."""
        ended = [run for run in self.model.runs.values() if run.ended][-4:]
        if not ended:
            return
        run = ended[n % len(ended)]
        if run.dead:
            self.refused(self.store.retry_run(UUID(run.id), "me"), "dead-letter")
            (done,) = self.do(self.store.redrive(NS, [run.id], "me"))
            assert done.made is not None
            self.model.copy(run, str(done.made))
        else:
            self.model.copy(run, str(self.do(self.store.retry_run(UUID(run.id), "me")).run_id))

    def cancel(self, n: int) -> None:
        if not self.model.runs:
            return
        run = self.some_run(n)
        self.do(self.store.cancel_run(UUID(run.id), "someone"))
        self.model.cancel(run)

    def signal(self, n: int, name: str, payload: str) -> None:
        if not self.model.runs:
            return
        run = self.some_run(n)
        deed = self.store.signal_run(UUID(run.id), name, payload)
        if run.ended:
            self.refused(deed, "run-ended")
        else:
            self.do(deed)
            self.model.signal(run, name, payload)

    def answer(self, n: int, value: str) -> None:
        waits = [(r, w) for r in self.model.runs.values() for w in r.waits.values() if w.kind == "approval"]
        if not waits:
            return
        run, wait = waits[n % len(waits)]
        assert self.do(self.store.wake_wait(UUID(run.id), wait.key, value)) == self.model.answer(run, wait.key, value)

    def operate(self, queue: str, to: str | int | None) -> None:
        """Pause a queue, resume it, or change its limit."""
        if isinstance(to, str):
            self.do(self.store.pause_queue(NS, queue, "me") if to == "pause" else self.store.resume_queue(NS, queue))
            (self.model.pause if to == "pause" else self.model.resume)(queue)
            return
        self.generation += 1
        self.do(self.store.apply_queue(QueueIntake(NS, queue, f"u-{queue}", self.generation, to)))
        self.model.limits[queue] = to

    # the clock

    def clock(self, seconds: int, then: str | None) -> None:
        self.do(self.rows.pass_time(seconds))
        self.model.now += seconds
        if self.model.up:
            self.do(self.rows.served(now=True))
        if then:
            getattr(self, then)()

    def outage(self) -> None:
        """The api is gone, or it is back."""
        if self.model.up:
            self.do(self.rows.served(now=False))
            self.model.up = False
        else:
            self.do(self.store.pulse())
            self.model.up, self.model.up_since = True, self.model.now

    # duties

    def admit(self) -> None:
        self.do(self.store.promote(100))
        self.model.promote()
        due = {queue: self.model.to_admit(queue) for queue in LIMITS}
        self.do(self.admit_all(sum(due.values())))
        found, _ = self.do(self.rows.snapshot())
        states = {r["run_id"]: r["state"] for r in found["runs"]}
        for queue, count in due.items():
            waiting = self.model.eligible(queue)
            admitted = [run for run in waiting if states[run.id] == "admitted"]
            assert len(admitted) == count, f"{len(admitted)} of {queue} admitted, {count} were due"
            for key in {run.key for run in waiting}:
                of_key = [run.id for run in waiting if run.key == key]
                first = [run.id for run in admitted if run.key == key]
                assert first == of_key[: len(first)], f"key {key!r} of {queue}: not in its order"
            for run in admitted:
                self.model.admit(run)
        expected = {run.id for run in self.model.runs.values() if run.state == "admitted"}
        assert {run_id for run_id, state in states.items() if state == "admitted"} == expected

    async def admit_all(self, due: int) -> None:
        """An admission may leave the rest to its next turn."""
        admitted = await self.store.admit(100)
        until = time.monotonic() + 5
        while admitted < due and time.monotonic() < until:
            admitted += await self.store.admit(100)

    def launch(self) -> None:
        async def launch_all() -> None:
            store = self.store
            for order in await store.take_wanted(self.epoch, 100):
                assert await store.launched(self.epoch, order.pod_id, f"job-{order.pod_id}")
                name = f"mp-{order.pod_id}-abcde"
                session = await store.open_session(order.pod_id, NS, f"uid-{order.pod_id}", name)
                (row,) = await self.rows.db.fetch("select run_id, attempt from pods where pod_id = $1", order.pod_id)
                run = self.model.runs[str(row["run_id"])]
                run.attempts[row["attempt"] - 1].bound_at = self.model.now
                self.sessions.append((session, run, row["attempt"]))

        self.do(launch_all())

    def reap(self) -> None:
        if self.model.up:
            self.do(self.rows.served(now=True))
        self.do(self.store.reap(100))
        self.model.reap()

    def wake(self) -> None:
        self.do(self.store.wake_runs(100))
        self.model.wake()

    def expire(self) -> None:
        self.do(self.store.expire_queued(100))
        self.model.expire()

    def all_duties(self) -> None:
        for duty in (self.reap, self.expire, self.wake, self.admit):
            duty()
        if self.model.up:  # then those hold too that ask for duties done in time
            assert {name: n for name, n in self.do(self.store.violations()).items() if n} == {}

    # pods

    def go(self) -> None:
        """From the queue to work, all that can."""
        self.admit()
        self.launch()
        for n in range(min(len(self.sessions), self.turn % 4 + 1)):
            self.start(n)

    def start(self, n: int) -> None:
        session, run, number = self.sessions[-1 - n % min(len(self.sessions), 8)]
        if not self.model.may_write(run, number):
            self.refused(started(self.store, session), "gone", GoneError)
            return
        start = self.do(started(self.store, session))
        self.model.start(run)
        assert (start.run_id, start.attempt, start.cause, start.records) == (
            run.id,
            number,
            run.last.cause,
            len(run.records),
        )
        assert [w.key for w in start.waits] == [w.key for w in run.waits.values() if w.resolved]
        pod = Pod(self.store, session, start)
        if all(p.start.token != start.token for p in self.pods):
            self.pods.append(pod)

    def write(self, n: int, kind: str, key: str, again: bool) -> None:
        if not self.pods:
            return
        pod, run = self.some_pod(n)
        value, write_id = str(pod.start.attempt), f"{pod.start.attempt}{kind}{key}{'' if again else len(run.records)}"
        answer = self.do(pod.write(key, value, kind, write_id))
        if self.writable(pod):
            seq = self.model.write(run, kind, key, value, write_id)
            assert answer == [seq] if seq else getattr(answer, "code", None) == "step-exists", answer
        else:
            self.check_refusal(answer)

    def beat(self, n: int) -> None:
        if not self.pods:
            return
        pod, run = self.some_pod(n)
        (answer,) = self.do(self.store.beat([(pod.session, HeartbeatRequest(pod.fence))]))
        if not self.writable(pod):
            self.check_refusal(answer)
            return
        assert isinstance(answer, HeartbeatAnswer)
        assert answer.directive == ("cancel" if run.state == "cancelling" else "continue")
        run.last.lease = self.model.now + m.LEASE

    def settle(self, n: int, outcome: str) -> None:
        if not self.pods:
            return
        pod, run = self.some_pod(n)
        self.settled(pod, run, pod.succeed() if outcome == "succeeded" else pod.fail(outcome), outcome, [])

    def suspend(self, n: int, kinds: list[tuple[str, int, int | None]]) -> None:
        if not self.pods:
            return
        pod, run = self.some_pod(n)
        waits = []
        for kind, which, seconds in kinds:
            name = f"s{which}" if kind == "signal" else None
            if kind == "child":
                if not run.children:
                    continue
                name = run.children[which % len(run.children)].id
            waits.append(Wait(f"{kind} {name or which}", kind, name, seconds))  # type: ignore[arg-type]
        unique = list({w.key: w for w in waits}.values()) or [Wait("timer 0", "timer", seconds=60)]
        ends = [
            m.Waiting(w.key, w.kind, w.name, self.model.now + (math.inf if w.seconds is None else w.seconds))
            for w in unique
        ]
        self.settled(pod, run, pod.suspend(*unique), "suspended", ends)

    def spawn(self, n: int) -> None:
        if not self.pods:
            return
        pod, run = self.some_pod(n)
        if self.writable(pod):
            made = self.do(trigger(self.store, "work"))
            self.do(self.rows.adopt(made.run_id, UUID(run.id)))
            child = self.model.trigger(str(made.run_id), "wide")
            child.parent = run
            run.children.append(child)

    def lose(self, n: int, infra: bool) -> None:
        if not self.sessions:
            return
        session, run, number = self.sessions[-1 - n % min(len(self.sessions), 8)]
        self.do(self.store.pod_ended(session.pod_id, None, LOST if infra else BROKE))
        if self.model.may_write(run, number):
            self.model.pod_lost(run, infra)

    # what holds after each step

    def teardown(self) -> None:
        for run in self.model.runs.values():
            self.told[run.state] += 1
            self.told["attempts"] += len(run.attempts)
            self.told["waits resolved"] += sum(w.resolved for w in run.waits.values())

    @invariant()
    def agree(self) -> None:
        if not hasattr(self, "epoch"):
            return
        self.told["steps"] += 1
        found, broken = self.do(self.rows.snapshot())
        expected = expectation(self.model)
        assert found == expected, difference(found, expected)
        assert broken == {}

    # helpers

    def some_run(self, n: int) -> m.Run:
        runs = list(self.model.runs.values())
        runs = runs[-2:] + [r for r in runs if r.attempts and not r.ended]
        return runs[n % len(runs)]

    def some_pod(self, n: int) -> tuple[Pod, m.Run]:
        """One of the newest, so that some are zombies and some are at work."""
        pod = self.pods[-1 - n % min(len(self.pods), 6)]
        return Pod(self.store, pod.session, pod.start), self.model.runs[pod.start.run_id]

    def writable(self, pod: Pod) -> bool:
        return self.model.may_write(self.model.runs[pod.start.run_id], pod.start.attempt)

    def settled(self, pod: Pod, run: m.Run, deed: Awaitable[str], outcome: str, waits: list[m.Waiting]) -> None:
        attempt = run.attempts[pod.start.attempt - 1]
        if self.writable(pod):
            state = self.do(deed)
            self.model.settle(run, outcome, waits)
            assert state == run.state
        elif attempt.settled:
            assert self.do(deed) == run.state, "a settle that is sent again gets the same answer and does nothing"
        else:
            self.refused(deed, "fenced")

    def refused(self, deed: Awaitable[object], code: str, kind: type[MilepostError] = ConflictError) -> None:
        with pytest.raises(kind) as error:
            self.do(deed)
        assert error.value.code == code
        self.told["refused"] += 1

    def check_refusal(self, answer: object) -> None:
        assert isinstance(answer, ConflictError), f"a zombie was let in: {answer}"
        assert answer.code in {"fenced", "settled"}
        self.told["zombies refused"] += 1
