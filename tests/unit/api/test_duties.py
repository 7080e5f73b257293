# ruff: noqa: ARG002  (the arguments are the port's)
import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

import pytest

from milepost_operator.api.duties import Duties, DutyStore
from milepost_operator.api.health import Health
from milepost_operator.domain.errors import UnavailableError
from milepost_operator.domain.schedules import Fired
from milepost_operator.domain.warm import HandedOver
from milepost_operator.obs.metrics import Metrics


class Store:
    """Counts turns; raises what the test asks for."""

    def __init__(self) -> None:
        self.turns: dict[str, int] = {}
        self.errors: dict[str, Exception] = {}
        self.admits: list[int] = []
        self.fired: list[Fired] = []
        self.hints: asyncio.Queue[str] = asyncio.Queue()
        self.counts: list[dict[str, int]] = []
        self.handed: list[HandedOver] = []
        self.left: list[int] = []

    def _turn(self, name: str) -> None:
        self.turns[name] = self.turns.get(name, 0) + 1
        if name in self.errors:
            raise self.errors[name]

    async def pulse(self) -> None:
        self._turn("pulse")

    async def promote(self, limit: int) -> int:
        self._turn("promote")
        return 0

    async def admit(self, limit: int) -> int:
        self._turn("admit")
        return self.admits.pop(0) if self.admits else 0

    async def reap(self, limit: int) -> int:
        self._turn("reap")
        return 0

    async def prune(self, limit: int) -> bool:
        self._turn("prune")
        return False

    async def judge_breakers(self) -> int:
        self._turn("judge")
        return 0

    async def show_waiting(self, limit: int) -> int:
        self._turn("show")
        return 0

    async def fire_schedules(self, limit: int) -> Fired:
        self._turn("schedules")
        return self.fired.pop(0) if self.fired else Fired(0, 0)

    async def forget_schedules(self) -> None:
        self._turn("old-schedules")

    async def wake_runs(self, limit: int) -> int:
        self._turn("wake")
        return 0

    async def hand_over(self, admitted: int = 0) -> HandedOver:
        self._turn("hand over")
        self.left.append(admitted)
        return self.handed.pop(0) if self.handed else HandedOver((), missed=False)

    async def prewarm(self) -> int:
        self._turn("prewarm")
        return 2

    async def keep_warm(self) -> int:
        self._turn("keep warm")
        return 0

    async def expire_queued(self, limit: int) -> int:
        self._turn("expire")
        return 0

    async def violations(self) -> dict[str, int]:
        self._turn("violations")
        return self.counts.pop(0) if self.counts else {}

    async def create_runs(self, runs, *, together=False):
        raise NotImplementedError

    async def ended(self, run_ids):
        raise NotImplementedError

    async def check_tasks(self, limit: int) -> int:
        self._turn("check")
        return 0

    async def forget_triggers(self, limit: int) -> int:
        self._turn("forget")
        return 0

    async def wakeups(self, names: set[str]) -> AsyncIterator[str]:
        self._turn("listen")
        while True:
            yield await self.hints.get()


async def until(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not check():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("milepost_operator.api.duties._backoff", lambda _: 0.001)


@pytest.fixture
async def store() -> Store:
    return Store()


@pytest.fixture
async def duties(store: Store) -> Duties:
    checked: DutyStore = store
    return Duties(checked, Metrics())


async def running(duties: Duties) -> asyncio.Task[None]:
    return asyncio.create_task(duties.run())


async def stop(task: asyncio.Task[None]) -> None:
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_all_duties_turn_at_once_at_the_start(store: Store, duties: Duties) -> None:
    task = await running(duties)
    await until(lambda: store.turns.keys() >= {"pulse", "promote", "admit", "reap", "violations", "check", "listen"})
    await stop(task)


async def test_a_poke_or_a_hint_admits_without_waiting_for_the_period(store: Store, duties: Duties) -> None:
    task = await running(duties)
    await until(lambda: store.turns.get("admit", 0) == 1)
    for turn in (2, 3):
        duties.poke()
        await until(lambda turn=turn: store.turns["admit"] >= turn)
    store.hints.put_nowait("admit")
    await until(lambda: store.turns["admit"] >= 4)
    assert store.turns["pulse"] == 1
    await stop(task)


async def test_a_full_batch_is_followed_by_the_next_at_once(store: Store, duties: Duties) -> None:
    store.admits = [200, 200, 3]
    task = await running(duties)
    await until(lambda: store.turns.get("admit", 0) >= 3)
    assert duties._metrics.registry.get_sample_value("milepost_runs_admitted_total") == 403
    await stop(task)


class Pods:
    """Where pods wait: what they were told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.nudged = 0

    def tell(self, keys: Sequence[str], /) -> None:
        self.told += keys

    def nudge(self) -> None:
        self.nudged += 1


async def test_what_is_admitted_goes_to_pods_that_wait_and_what_was_missed_is_tried_again(store: Store) -> None:
    pods = Pods()
    duties = Duties(store, Metrics(), offers=pods)
    store.admits = [2, 0]
    store.handed = [HandedOver(["a"], missed=True), HandedOver(["b"], missed=False)]
    await duties._admit()
    assert (pods.told, store.turns["hand over"]) == (["a", "b"], 2)
    assert store.left == [2, 1]
    await duties._admit()
    assert store.turns["hand over"] == 2, "nothing was admitted"
    store.handed = [HandedOver((), missed=True) for _ in range(9)]
    await duties._warm()
    assert store.turns["hand over"] == 6, "what stays locked is left to the next turn"
    task = await running(duties)
    await until(lambda: store.turns.get("warm", 0) + store.turns.get("listen", 0) >= 1)
    store.hints.put_nowait("offer")
    await until(lambda: pods.nudged == 1)
    store.hints.put_nowait("offer=c")
    await until(lambda: pods.told[-1] == "c")
    turns = store.turns["keep warm"]
    store.hints.put_nowait("warm")
    await until(lambda: store.turns["keep warm"] > turns)
    made = store.turns["prewarm"]
    store.hints.put_nowait("prewarm")
    await until(lambda: store.turns["prewarm"] > made)
    await stop(task)


@pytest.mark.parametrize("error", [UnavailableError("no database"), RuntimeError("a bug"), OSError("reset")])
async def test_a_duty_survives_any_error_and_the_others_go_on(store: Store, duties: Duties, error: Exception) -> None:
    store.errors = {"admit": error, "listen": error}
    task = await running(duties)
    await until(lambda: store.turns.get("admit", 0) > 3 and store.turns.get("listen", 0) > 3)
    assert store.turns["reap"] >= 1
    store.errors.clear()
    turns = store.turns["admit"]
    await until(lambda: store.turns["admit"] > turns)
    await stop(task)


async def test_violations_become_a_metric_and_go_back_to_zero(store: Store, duties: Duties) -> None:
    store.counts = [{"one-writer": 2, "slots": 0}, {"slots": 1}]

    def value(name: str) -> float | None:
        return duties._metrics.registry.get_sample_value("milepost_invariant_violations", {"invariant": name})

    await duties._violations()
    assert (value("one-writer"), value("slots")) == (2, 0)
    await duties._violations()
    assert (value("one-writer"), value("slots")) == (0, 1)


async def test_invariants_that_take_long_are_looked_at_seldom(store: Store) -> None:
    now = 0.0
    duties = Duties(store, Metrics(), lambda: now)
    seen = store.violations

    async def slow() -> dict[str, int]:
        nonlocal now
        now += 4.0
        return await seen()

    store.violations = slow  # type: ignore[method-assign]
    for at, turns in ((0.0, 1), (30.0, 1), (79.0, 1), (80.0, 2)):
        now = at
        await duties._violations()
        assert store.turns["violations"] == turns
    store.errors["violations"] = UnavailableError("too slow")
    now = 200.0
    with pytest.raises(UnavailableError):
        await duties._violations()
    await duties._violations()  # not at once again
    assert store.turns["violations"] == 3


async def test_a_loop_that_no_longer_turns_makes_the_process_unhealthy(store: Store) -> None:
    now = 0.0
    duties = Duties(store, Metrics(), lambda: now)

    async def ready() -> None: ...

    health = Health(ready, duties.ages)
    assert (await health.healthz(None)).status_code == 200  # type: ignore[arg-type]
    now = 80.0
    answer = await health.healthz(None)  # type: ignore[arg-type]
    assert answer.status_code == 503
    assert (
        b'"stale":["admit","expire","findings","old-triggers","prewarm","pulse","reap","schedules","waiting","wake","warm"]'
        in bytes(answer.body)
    )


async def test_readiness_is_asked_once_a_second() -> None:
    now, asked = 0.0, 0

    async def ready() -> None:
        nonlocal asked
        asked += 1
        if asked > 1:
            raise UnavailableError("no database")

    health = Health(ready, dict, lambda: now)
    answers = [(await health.readyz(None)).status_code for _ in range(3)]  # type: ignore[arg-type]
    now = 1.0
    answers.append((await health.readyz(None)).status_code)  # type: ignore[arg-type]
    assert (answers, asked) == ([200, 200, 200, 503], 2)


async def test_runs_of_schedules_are_admitted_at_once_and_a_full_batch_is_followed(
    store: Store, duties: Duties
) -> None:
    store.fired = [Fired(500, 300), Fired(3, 3)]
    task = await running(duties)
    await until(lambda: store.turns.get("schedules", 0) >= 2 and store.turns.get("admit", 0) >= 2)
    assert duties._metrics.registry.get_sample_value("milepost_scheduled_runs_total") == 303
    await stop(task)
