"""The periodic duties of the api: each a loop that outlives every error and tells when it last turned.

Any number of replicas run them: the store claims the work by row locks.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from milepost_operator.api.storage import StorageDuties
from milepost_operator.domain.errors import UnavailableError
from milepost_operator.obs.logging import get_logger
from milepost_operator.obs.metrics import Metrics
from milepost_operator.ports.control import ControlDuties
from milepost_operator.ports.findings import FindingDuty
from milepost_operator.ports.lifecycle import Pruning
from milepost_operator.ports.prewarm import PrewarmDuty
from milepost_operator.ports.schedules import ScheduleDuty
from milepost_operator.ports.store import Duties as DutiesPort
from milepost_operator.ports.suspension import Wakes
from milepost_operator.ports.triggers import Triggers
from milepost_operator.ports.warm import WarmDuties

TURN_SECONDS: Final = 20.0
"""A turn that takes longer is given up: a lost connection must not stop a duty."""
BATCH: Final = 200
FORGET_BATCH: Final = 1000
LOOKS: Final = 50
"""Waiting runs that are looked at in a turn: more could not be shown anyway."""
PRUNE_BATCH: Final = 500
SCHEDULES: Final = 500
"""Schedules that one transaction decides on."""
REAP_SECONDS: Final = 0.5
"""A run whose worker went silent is claimed again within a second of its lease's end, the new claim included."""
QUICK_SECONDS: Final = 1.0
JUDGING_SHARE: Final = 20
"""The invariants read whole tables: where that takes longer, it is done in a 20th of the time at most."""
FINDINGS_SECONDS: Final = 5.0
CHECKED_TASKS: Final = 20
"""Tasks whose recent attempts one transaction looks at."""
PREWARM_SECONDS: Final = 2.0
"""What a Task's pods should be changes with its runs and the clock: so often it is decided anew."""
MIN_GAP_SECONDS: Final = 0.005
WARM_SECONDS: Final = 0.5
"""An attempt whose warm pod is silent goes elsewhere within this of the time that the pod had."""
MISSED_SECONDS: Final = (0.005, 0.01, 0.02)
"""Before another try to give warm pods what somebody had locked a moment ago."""
MAX_BACKOFF_SECONDS: Final = 10.0

_log = get_logger(__name__)


class DutyStore(
    DutiesPort,
    ControlDuties,
    FindingDuty,
    PrewarmDuty,
    Pruning,
    ScheduleDuty,
    Triggers,
    Wakes,
    WarmDuties,
    Protocol,
):
    """The store as the duties need it."""

    def wakeups(self, names: set[str]) -> AsyncIterator[str]:
        """Hints that there is work, by name; may lose some, or end."""


class Offers(Protocol):
    """Pods that wait for work in this process."""

    def tell(self, keys: Sequence[str], /) -> None:
        """These have some."""

    def nudge(self) -> None:
        """Some may have."""


@dataclass(slots=True, eq=False)
class _Loop:
    """`turn` returns True when more is waiting. `poked` ends a pause early."""

    name: str
    period: float
    turn: Callable[[], Awaitable[bool]]
    turned_at: float
    poked: asyncio.Event | None = None
    failures: int = 0


class Duties:
    """`await run()` for ever; cancel it to stop. `clock`: monotonic seconds. `offers`: where pods wait here. `storage`:
    where large values go to object storage.
    """

    def __init__(
        self,
        store: DutyStore,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        *,
        offers: Offers | None = None,
        storage: StorageDuties | None = None,
    ) -> None:
        self._store = store
        self._metrics = metrics
        self._offers = offers
        self._clock = clock
        self._warm_now = asyncio.Event()
        self._admit_now = asyncio.Event()
        self._wake_now = asyncio.Event()
        self._prewarm_now = asyncio.Event()
        now = clock()
        self._loops = [
            _Loop("pulse", 1.0, self._pulse, now),
            _Loop("admit", 1.0, self._admit, now, self._admit_now),
            _Loop("wake", 1.0, self._wake, now, self._wake_now),
            _Loop("warm", WARM_SECONDS, self._warm, now, self._warm_now),
            _Loop("prewarm", PREWARM_SECONDS, self._prewarm, now, self._prewarm_now),
            _Loop("reap", REAP_SECONDS, self._reap, now),
            _Loop("waiting", 3.0, self._waiting, now),
            _Loop("retention", 30.0, self._prune, now),
            _Loop("schedules", 0.5, self._fire, now),
            _Loop("old-schedules", 600.0, self._forget_schedules, now),
            _Loop("expire", 5.0, self._expire, now),
            _Loop("invariants", 30.0, self._violations, now),
            _Loop("old-triggers", 15.0, self._forget_triggers, now),
            _Loop("findings", FINDINGS_SECONDS, self._check_tasks, now),
        ]
        if storage is not None:
            self._loops += [
                _Loop("objects", 30.0, storage.sweep, now),
                _Loop("object-storage", 60.0, storage.check, now),
            ]
        self._violated: set[str] = set()
        self._judge_at = 0.0

    def poke(self) -> None:
        """Something may be admitted, or a child has ended: don't wait for the next turn."""
        self._admit_now.set()
        self._wake_now.set()

    def ages(self) -> dict[str, float]:
        """Seconds since each loop's last turn ended, beyond its period."""
        now = self._clock()
        return {loop.name: max(0.0, now - loop.turned_at - loop.period) for loop in self._loops}

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for loop in self._loops:
                group.create_task(self._forever(loop), name=f"duty-{loop.name}")
            group.create_task(self._listen(), name="duty-wakeups")

    async def _forever(self, loop: _Loop) -> None:
        while True:
            if loop.poked is not None:
                loop.poked.clear()
            more = await self._turn(loop)
            loop.turned_at = self._clock()
            if loop.failures:
                await asyncio.sleep(_backoff(loop.failures))
            elif more:
                await asyncio.sleep(MIN_GAP_SECONDS)
            else:
                await _pause(loop, self._clock)

    async def _turn(self, loop: _Loop) -> bool:
        more = False
        try:
            with self._metrics.duty_seconds.labels(loop.name).time():
                async with asyncio.timeout(TURN_SECONDS):
                    more = await loop.turn()
        except (UnavailableError, TimeoutError) as error:
            self._failed(loop, "unavailable")
            _log.warning("duty_unavailable", duty=loop.name, failures=loop.failures, error=str(error) or "too slow")
        except Exception:  # noqa: BLE001 (logged and counted; a duty never dies)
            self._failed(loop, "unexpected")
            _log.exception("duty_failed", duty=loop.name, failures=loop.failures)
        else:
            loop.failures = 0
        return more

    def _failed(self, loop: _Loop, cause: str) -> None:
        loop.failures += 1
        self._metrics.duty_failures.labels(loop.name, cause).inc()

    async def _listen(self) -> None:
        failures = 0
        while True:
            try:
                async for name in self._store.wakeups({"admit", "offer", "warm", "prewarm"}):
                    failures = 0
                    self._heard(name)
            except (UnavailableError, OSError) as error:
                _log.warning("wakeups_unavailable", error=str(error))
            except Exception:  # noqa: BLE001 (a hint only: the loop polls too)
                _log.exception("wakeups_failed")
            failures += 1
            await asyncio.sleep(_backoff(failures))

    def _heard(self, name: str) -> None:
        kind, _, pods = name.partition("=")
        if kind == "offer":
            if self._offers is not None:
                self._offers.tell(pods.split(",")) if pods else self._offers.nudge()
        elif name == "warm":
            self._warm_now.set()
        elif name == "prewarm":
            self._prewarm_now.set()
        else:
            self.poke()

    async def _pulse(self) -> bool:
        await self._store.pulse()
        return False

    async def _prune(self) -> bool:
        return await self._store.prune(PRUNE_BATCH)

    async def _admit(self) -> bool:
        """What can start is not to wait for those whose time may have come: these are for the next turn."""
        admitted = await self._store.admit(BATCH)
        self._metrics.admitted.inc(admitted)
        if admitted:
            await self._hand_over(admitted)
        return await self._store.promote(BATCH) > 0 or admitted >= BATCH

    async def _wake(self) -> bool:
        woken = await self._store.wake_runs(BATCH)
        if woken:
            self._admit_now.set()
        return woken >= BATCH

    async def _warm(self) -> bool:
        await self._store.keep_warm()
        await self._hand_over()
        return False

    async def _prewarm(self) -> bool:
        self._metrics.prewarmed.inc(await self._store.prewarm())
        return False

    async def _hand_over(self, admitted: int = 0) -> None:
        """What was admitted goes to the pods that wait for it, before anybody launches new ones."""
        for pause in (*MISSED_SECONDS, None):
            handed = await self._store.hand_over(admitted)
            admitted -= len(handed.pods)
            if self._offers is not None:
                self._offers.tell(handed.pods)
            if not handed.missed or pause is None:
                return
            await asyncio.sleep(pause)

    async def _expire(self) -> bool:
        return await self._store.expire_queued(BATCH) >= BATCH

    async def _reap(self) -> bool:
        reaped = await self._store.reap(BATCH)
        self._metrics.reaped.inc(reaped)
        if reaped:
            self.poke()
        return reaped >= BATCH

    async def _waiting(self) -> bool:
        """What runs wait for, shown; and breakers of queues in which nothing waits to be admitted."""
        await self._store.judge_breakers()
        await self._store.show_waiting(LOOKS)
        return False

    async def _fire(self) -> bool:
        fired = await self._store.fire_schedules(SCHEDULES)
        self._metrics.scheduled.inc(fired.runs)
        if fired.runs:
            self.poke()
        return fired.schedules >= SCHEDULES

    async def _forget_schedules(self) -> bool:
        await self._store.forget_schedules()
        return False

    async def _forget_triggers(self) -> bool:
        return await self._store.forget_triggers(FORGET_BATCH) >= FORGET_BATCH

    async def _check_tasks(self) -> bool:
        return await self._store.check_tasks(CHECKED_TASKS) >= CHECKED_TASKS

    async def _violations(self) -> bool:
        began = self._clock()
        if began < self._judge_at:
            return False
        try:
            counts = await self._store.violations()
        finally:
            took = self._clock() - began
            self._judge_at = began + (took * JUDGING_SHARE if took > QUICK_SECONDS else 0.0)
        for name in self._violated - counts.keys():
            self._metrics.violations.labels(name).set(0)
        for name, count in counts.items():
            self._metrics.violations.labels(name).set(count)
        self._violated |= counts.keys()
        broken = {name: count for name, count in counts.items() if count}
        if broken:
            _log.error("invariants_violated", **broken)
        return False


def _backoff(failures: int) -> float:
    seconds: float = min(0.25 * 2.0 ** min(failures, 8), MAX_BACKOFF_SECONDS)
    return seconds * random.uniform(0.5, 1.0)  # noqa: S311 (jitter)


async def _pause(loop: _Loop, clock: Callable[[], float]) -> None:
    """Until it is time, or the loop is poked: a poke that comes alone is heard at once."""
    if loop.poked is None:
        await asyncio.sleep(loop.period)
        return
    try:
        async with asyncio.timeout(loop.period):
            await loop.poked.wait()
    except TimeoutError:
        return
    await asyncio.sleep(max(0.0, loop.turned_at + MIN_GAP_SECONDS - clock()))
