"""Warm pods as a small model: what each deed should make of the rows, and what should hold after any of them."""

import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from uuid import UUID

import pytest

from milepost.wire.pod import Evidence, Failure, Fence, NextRequest, SettleRequest, Start
from milepost_operator.adapters.postgres.queries import Q
from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.domain.errors import ConflictError, GoneError, MilepostError
from milepost_operator.domain.runs import Ending, PodSession, Retry
from milepost_operator.domain.states import Reason
from tests.integration.engine import NS, apply_task, settled, trigger

MAX = 3
TOTAL = 4
SLOTS = 8
LOST = Ending(Reason.POD_LOST, "gone", counted=False, infra=True)
CHECKED = (
    "pods_have_a_purpose", "attempts_have_their_pod", "one_writer", "acknowledged_runs_wait_or_end", "slots_counted",
    "slots_within_limit", "terminal_is_final",
)  # fmt: skip
COMING = ("wanted", "creating", "created")
"""States of a pod that is not there yet."""
BEFORE = 10**9
"""So much earlier is the rest of a pod that had no attempt: what `put_off` does to the others is not done to it."""


@dataclass
class ModelPod:
    """`run`: the one it is for. `key`: task, version and template, as when it was made. `rested`: a growing number.
    `epoch`: of who launched it. `fresh`: no attempt of it is over.
    """

    id: str
    key: tuple[str, int, str]
    state: str
    run: UUID | None = None
    session: PodSession | None = None
    start: Start | None = None
    rested: int = 0
    epoch: int = 0
    fresh: bool = True

    @property
    def vacant(self) -> bool:
        """Another pod took its attempt before it was there, and it has not asked for one yet."""
        return self.state in {"created", "bound"} and self.run is None


@dataclass
class ModelRun:
    """`attempt`, `counted`, `streak`: as of its row. `began`: its live attempt has."""

    id: UUID
    task: str
    state: str = "queued"
    attempt: int = 0
    counted: int = 0
    streak: int = 0
    began: bool = False


@dataclass
class World:
    """A store and its model. A deed that nothing can be done to does nothing; the others check their own answer."""

    stores: list[PostgresStore]
    rng: random.Random
    pods: dict[str, ModelPod] = field(default_factory=dict)
    runs: dict[UUID, ModelRun] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=lambda: {"a": 1, "b": 1})
    template: str = "t1"
    epoch: int = 0
    clock: int = 0
    begun: dict[tuple[str, int], str] = field(default_factory=dict)
    told: Counter[str] = field(default_factory=Counter)

    @property
    def store(self) -> PostgresStore:
        return self.rng.choice(self.stores)

    def of(self, *states: str) -> list[ModelPod]:
        return [pod for pod in self.pods.values() if pod.state in states]

    def any_of(self, *states: str) -> ModelPod | None:
        found = self.of(*states)
        return self.rng.choice(found) if found else None

    async def begin(self) -> None:
        for task in self.versions:
            await self.apply(task)
        await self.store._db.fetch("update queues set concurrency = $1", SLOTS)
        self.epoch = await self.store.take_epoch("model", self.template)

    async def apply(self, task: str) -> None:
        version = self.versions[task]
        retry = Retry(max_attempts=99, min_seconds=0.0, max_seconds=0.0)
        shape = {"entrypoint": f"a:v{version}"}
        await apply_task(
            self.store, task, generation=version, shape=shape, retry=retry, warm={"seconds": 7200, "max": MAX}
        )
        await self.store._db.fetch("update queues set concurrency = $1", SLOTS)

    # deeds

    async def make(self, task: str | None = None) -> None:
        if sum(run.state not in {"succeeded", "cancelled"} for run in self.runs.values()) < SLOTS + 2:
            task = task or self.rng.choice("ab")
            run = await trigger(self.store, task)
            self.runs[run.run_id] = ModelRun(run.run_id, task)

    async def admit(self) -> None:
        """Which are admitted is not ours to say: what the rows of those say is taken over."""
        await self.store.promote(50)
        await self.store.admit(50)
        await self.put_off()
        for run in self.runs.values():
            run.state = "queued" if run.state == "backoff" else run.state
        rows = await self.store._db.fetch(
            "select pod_id, run_id, attempt, task, version from pods where state = 'wanted' order by created_at, pod_id"
        )
        for row in rows:
            if row["pod_id"] not in self.pods:
                run = self.runs[row["run_id"]]
                assert run.state in {"queued", "backoff"}, run
                assert row["attempt"] == run.attempt + 1
                run.state, run.attempt, run.began = "admitted", row["attempt"], False
                key = (row["task"], row["version"], "")
                self.pods[row["pod_id"]] = ModelPod(row["pod_id"], key, "wanted", row["run_id"])

    def pairs(self) -> dict[str, ModelPod]:
        """What a hand-over gives: idle pod by the pod whose attempt it takes."""
        given: dict[str, ModelPod] = {}
        for task in self.versions:
            for version in range(1, self.versions[task] + 1):
                idle = [p for p in self.of("idle") if p.key == (task, version, self.template)]
                waiting = [p for p in self.of(*COMING) if p.key[:2] == (task, version) and not p.vacant]
                idle.sort(key=lambda p: -p.rested)
                given |= {w.id: i for w, i in zip(waiting, idle, strict=False)}
        return given

    def hand(self, given: dict[str, ModelPod]) -> bool:
        """True: launched pods lost their attempts."""
        self.told["given"] += len(given)
        self.told["of several"] += bool(given) and len(self.of("idle")) > len(given)
        lost = [self.pods[pod_id] for pod_id in given if self.pods[pod_id].state != "wanted"]
        for coming, idle in given.items():
            idle.state, idle.run, idle.start = "offered", self.pods[coming].run, None
            if self.pods[coming].state == "wanted":
                del self.pods[coming]
        for pod in lost:
            self.told[f"moved from {pod.state}"] += 1
            pod.state, pod.run = "created" if pod.state == "created" else "closing", None
        return bool(lost)

    async def hand_over(self) -> None:
        if (idle := self.any_of("idle")) and self.rng.random() < 0.8:
            await self.make(idle.key[0])
            await self.admit()
        await self.hand_over_now()

    async def hand_over_now(self) -> None:
        given = self.pairs()
        handed = await self.store.hand_over()
        assert sorted(handed.pods) == sorted(pod.id for pod in given.values())
        assert not handed.missed
        lost = self.hand(given)
        assert handed.freed == lost
        if lost:
            await self.evicted()

    async def launch(self) -> None:
        """What warm pods can take is left to them: here only the rest, which nobody waits for."""
        if (idle := self.any_of("idle")) and self.rng.random() < 0.3:
            await self.make(idle.key[0])
            await self.admit()
        left = Counter(pod.key for pod in self.of("idle", "resting"))
        expected = []
        for pod in self.of("wanted"):
            key = (*pod.key[:2], self.template)
            left[key] -= 1
            if left[key] < 0:
                expected.append(pod.id)
        expected += [pod.id for pod in self.of("creating") if pod.epoch != self.epoch]
        orders = await self.store.take_wanted(self.epoch, 50)
        assert sorted(order.pod_id for order in orders) == sorted(expected)
        for order in orders:
            pod = self.pods[order.pod_id]
            pod.key, pod.state, pod.epoch = (*pod.key[:2], order.template_hash), "creating", self.epoch
            assert order.template_hash == self.template
            if self.rng.random() < 0.8:
                assert await self.store.launched(self.epoch, pod.id, "job")
                pod.state = "created"

    async def come(self, pod: ModelPod | None = None) -> None:
        """A sidecar speaks for the first time, perhaps before its Job is told of, perhaps too late."""
        pod = pod or self.any_of("creating", "created", "created", "closing")
        if pod is None or pod.session is not None:
            return
        if pod.state == "closing":
            assert not await self.store.launched(self.epoch, pod.id, "job")
            with pytest.raises(GoneError):
                await self.store.open_session(pod.id, NS, f"u-{pod.id}", f"mp-{pod.id}-abcde", reusable=True)
            return
        pod.session = await self.store.open_session(pod.id, NS, f"u-{pod.id}", f"mp-{pod.id}-abcde", reusable=True)
        self.told["came too late"] += pod.vacant
        pod.state = "bound"

    async def overtake(self) -> None:
        """A pod at work is free before one is there that was launched meanwhile."""
        await self.work_off(all_of_them=True)
        await self.make()
        await self.admit()
        await self.hand_over_now()
        await self.launch()
        await self.all_come()
        pod = self.any_of("bound", "offered")
        if pod is None:
            return
        await self.start(pod)
        for _ in range(1 + sum(other.key == pod.key for other in self.of("idle", "resting"))):
            await self.make(pod.key[0])
        await self.admit()
        await self.launch()
        await self.settle(pod)
        if pod.state == "resting":
            await self.next(pod)

    async def all_come(self) -> None:
        for pod in self.of("creating", "created"):
            await self.come(pod)
            await self.put_off()

    async def start(self, pod: ModelPod | None = None) -> None:
        """Acknowledged, or asked again since the answer was lost; a pod that has nothing is told so."""
        pod = pod or self.any_of("bound", "offered", "idle", "resting", "closing")
        if pod is None or pod.session is None:
            return
        (answer,) = await self.store.start([pod.session])
        run = self.runs.get(pod.run) if pod.run else None
        if pod.state not in {"bound", "offered"} or run is None:
            kind = ConflictError if pod.vacant or (pod.fresh and pod.state == "idle") else GoneError
            assert isinstance(answer, kind), (pod, answer)
            return
        assert isinstance(answer, Start), (pod, answer)
        assert (answer.run_id, answer.attempt, answer.version) == (str(run.id), run.attempt, pod.key[1])
        assert self.begun.setdefault((answer.run_id, answer.attempt), pod.id) == pod.id, "one attempt, two pods"
        pod.state, pod.start, run.state, run.began = "bound", answer, "running", True

    async def settle(self, pod: ModelPod | None = None) -> None:
        pod = pod or self.rng.choice([p for p in self.of("bound") if p.start] or [None])  # type: ignore[list-item]
        if pod is None or pod.start is None or pod.session is None or pod.run is None:
            return
        outcome = self.rng.choice(["succeeded", "succeeded", "succeeded", "user", "user", "oom"])
        fence = Fence(pod.start.run_id, pod.start.attempt, pod.start.token)
        failure = None if outcome == "succeeded" else Failure(outcome, "E", "no")  # type: ignore[arg-type]
        request = SettleRequest(
            fence, "failed" if failure else "succeeded", None if failure else "1", failure, Evidence()
        )
        state = await settled(self.store, pod.session, request)
        await self.put_off()  # also so that the order of their rest is that of the model
        run = self.runs[pod.run]
        assert state == ("backoff" if failure else "succeeded")
        run.state, run.counted, run.streak = state, run.counted + bool(failure), 0
        stays = outcome != "oom" and pod.key[1] == self.versions[pod.key[0]]
        self.clock += 1
        pod.state, pod.rested = "resting" if stays else "closing", self.clock
        pod.start, pod.fresh = None, False
        pod.run = None if stays else pod.run
        assert await settled(self.store, pod.session, request) == state, "told again"

    async def next(self, pod: ModelPod | None = None) -> None:
        pod = pod or self.any_of("resting", "resting", "idle", "bound", "offered", "closing")
        if pod is None or pod.session is None:
            return
        retire = self.rng.choice([None, None, None, "grew"]) if pod.vacant or pod.state in {"resting", "idle"} else None
        (answer,) = await self.store.next_work([(pod.session, NextRequest(retire))])
        if pod.state == "closing" or retire:
            assert isinstance(answer, GoneError), (pod, answer)
            pod.state = "closing"
            return
        if pod.vacant:
            self.clock += 1
            pod.rested = self.clock - BEFORE
        if pod.state == "resting" or pod.vacant:
            pod.state = "idle"
            self.hand(self.pairs())
            await self.evicted()
        if pod.state == "closing":
            assert isinstance(answer, GoneError)
        else:
            assert answer is (pod.state in {"offered", "bound"}), (pod, answer)

    async def evicted(self) -> None:
        """Of each Task those that are not there, then those that rested first; which Task gives one up for the others
        is not ours to say.
        """
        rows = await self.store._db.fetch(
            "select pod_id from pods where state = 'idle' or state in ('created', 'bound') and run_id is null"
        )
        free = {row["pod_id"] for row in rows}
        before = [pod for pod in self.pods.values() if pod.state == "idle" or pod.vacant]
        for task in self.versions:
            there = sorted((p for p in before if p.key[0] == task and not p.vacant), key=lambda p: -p.rested)
            kept = [p.id in free for p in there]
            assert kept == sorted(kept, reverse=True), "those that waited longest go first"
            vacant = [p.id in free for p in before if p.key[0] == task and p.vacant]
            assert all(kept) or not any(vacant), "those that are not there go before"
            assert sum(kept) + sum(vacant) <= MAX
        spare = sum(min(MAX, sum(p.key[0] == task for p in before)) for task in self.versions)
        assert len(free) == min(TOTAL, spare), "no more go than must"
        for pod in before:
            pod.state = pod.state if pod.id in free else "closing"

    async def expire(self) -> None:
        """What was offered is not begun in time."""
        await self.store._db.fetch(
            "update pods set offered_at = clock_timestamp() - interval '3 s' where state = 'offered'"
        )
        await self.kept_warm(set(), self.of("offered"))

    async def wait(self) -> None:
        """The idle pods' time is over."""
        await self.store._db.fetch(
            "update pods set rested_at = clock_timestamp() - interval '2 hours' where state = 'idle'"
        )
        await self.kept_warm({pod.id for pod in self.of("idle")}, [])

    async def kept_warm(self, over: set[str], late: list[ModelPod]) -> None:
        """The idle pods `over` and the offered ones `late` had their time."""
        stale = [
            p for p in self.pods.values()
            if p.state == "idle" or p.vacant
            if p.id in over or p.key[1] != self.versions[p.key[0]] or p.key[2] != self.template
        ]  # fmt: skip
        assert await self.store.keep_warm() == len(late) + len(stale)
        for pod in stale:
            pod.state = "closing"
        await self.back(late)

    async def back(self, pods: list[ModelPod]) -> None:
        """What these had is wanted again; in which order of those that came back at once is not ours to say."""
        had = {pod.run: pod for pod in pods}
        rows = await self.store._db.fetch(
            "select pod_id, run_id, attempt from pods where run_id = any($1) and state = 'wanted' "
            "order by created_at, pod_id",
            list(had),
        )
        assert {row["run_id"]: row["attempt"] for row in rows} == {run: self.runs[run].attempt for run in had if run}
        for row in rows:
            pod = had[row["run_id"]]
            self.pods[row["pod_id"]] = ModelPod(row["pod_id"], (*pod.key[:2], ""), "wanted", pod.run)
            pod.state, pod.run = "closing", None

    async def die(self) -> None:
        """The operator sees the pod's end, whatever it was at."""
        pod = self.any_of("bound", "resting", "idle", "offered", "closing", "creating", "created")
        if pod is None:
            return
        how = self.rng.choice(["ended", "retired"])
        if how == "ended":
            await self.store.pod_ended(self.epoch, pod.id, None, LOST)
        else:
            await self.store.retire_pod(self.epoch, pod.id, "deleted")
        if pod.state == "offered":
            await self.back([pod])
        elif pod.state in {"bound", "creating", "created"} and pod.run and how == "ended":
            run = self.runs[pod.run]
            run.streak += 1
            run.state = "queued" if run.streak == 1 else "backoff"
            pod.state = "closing"
        elif pod.run is None:
            pod.state = "closing"

    async def change(self) -> None:
        task = self.rng.choice("ab")
        self.versions[task] += 1
        await self.apply(task)

    async def depose(self) -> None:
        """Another operator leads, perhaps of another release; what was in hand is launched by it."""
        self.template = self.rng.choice(["t1", "t1", "t1", "t2"])
        self.epoch = await self.store.take_epoch("model", self.template)

    async def cancel(self) -> None:
        open_runs = [run for run in self.runs.values() if run.state in {"queued", "backoff", "admitted"}]
        if not open_runs:
            return
        run = self.rng.choice(open_runs)
        await self.store.cancel_run(run.id, "model")
        run.state = "cancelled"
        for pod in list(self.pods.values()):
            if pod.run == run.id and pod.state != "closing":
                pod.state = "closing"

    async def close(self) -> None:
        for pod in self.of("closing"):
            await self.store.close_pod(pod.id)
            del self.pods[pod.id]

    async def work_off(self, *, all_of_them: bool = False) -> None:
        """Every pod comes to its end and asks for more."""
        if all_of_them or self.rng.random() < 0.7:
            await self.all_come()
        for pod in self.of("bound"):
            await self.start(pod)
            await self.settle(pod)
            if pod.state == "resting" or pod.vacant:
                await self.next(pod)

    async def put_off(self) -> None:
        """Nothing here is over by itself, however slow the machine is."""
        columns = {
            "created_at": "wanted", "launched_at": "creating", "rested_at": "resting", "offered_at": "offered"
        }  # fmt: skip
        late = "state = '{1}' and {0} < clock_timestamp() + interval '12 hours'"
        put = [f"{c} = {c} + interval '1 day' * ({late.format(c, s)})::int" for c, s in columns.items()]
        where = " or ".join(late.format(c, s) for c, s in columns.items())
        await self.store._db.fetch(f"update pods set {', '.join(put)} where {where}")
        # nor are pods at work counted on: how long they take is not ours to say
        await self.store._db.fetch("update pods set tenure_seconds = 60 where tenure_seconds < 60")

    # what holds

    async def agree(self) -> None:
        """The rows are as the model says, and the invariants hold."""
        rows = await self.store._db.fetch("select pod_id, state, run_id from pods where state <> 'closed'")
        found = {row["pod_id"]: (row["state"], row["run_id"] if row["state"] != "closing" else None) for row in rows}
        expected = {p.id: (p.state, p.run if p.state != "closing" else None) for p in self.pods.values()}
        assert found == expected
        rows = await self.store._db.fetch("select run_id, state, attempt, attempts_counted, infra_streak from runs")
        told = {r["run_id"]: (r["state"], r["attempt"], r["attempts_counted"], r["infra_streak"]) for r in rows}
        assert told == {r.id: (r.state, r.attempt, r.counted, r.streak) for r in self.runs.values()}
        counts = " union all ".join(f"select '{name}' as name, ({Q[name]}) as n" for name in CHECKED)
        broken = await self.store._db.fetch(f"select name, n from ({counts}) c where n > 0", self.store._db.cluster)
        assert [tuple(row) for row in broken] == []

    async def live(self, deeds: int) -> None:
        every: list[tuple[int, Callable[[], Awaitable[None]]]] = [
            (6, self.make), (6, self.admit), (10, self.hand_over), (5, self.launch), (6, self.start), (6, self.settle),
            (8, self.next), (10, self.work_off), (4, self.come), (8, self.overtake), (2, self.expire), (1, self.wait),
            (2, self.die), (1, self.change), (1, self.depose), (1, self.cancel), (1, self.close),
        ]  # fmt: skip
        history: list[str] = []
        for _ in range(deeds):
            (deed,) = self.rng.choices([d for _, d in every], [w for w, _ in every])
            history.append(deed.__name__)
            try:
                await deed()
                await self.put_off()
                await self.agree()
            except (AssertionError, MilepostError) as error:
                error.add_note(f"after {', '.join(history[-12:])}")
                raise
            self.told[deed.__name__] += 1
