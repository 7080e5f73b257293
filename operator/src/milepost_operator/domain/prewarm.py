"""Pods that are made before there is a run for them: how many a Task should have now, for what, and why not yet."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from milepost_operator.domain.warm import WarmPolicy

Cause = Literal["min", "schedule", "arrivals"]
"""What a Task's pods are for: what it says itself, a slot of a schedule that comes, runs as they came of late."""
HeldBack = Literal["Paused", "Off", "Trouble", "Room", "Total"]
"""Why pods that a Task should have are not made: nothing may start, none may wait, they don't start, they were to give
way a moment ago, all that may wait are there.
"""

RECENT_SECONDS: Final = 60.0
LONGER_SECONDS: Final = 600.0
"""Arrivals are counted over both; the higher rate counts."""
FEW_ARRIVALS: Final = 3
"""Fewer, over the longer time, foretell nothing."""
SILENT_GAPS: Final = 10.0
"""So many of the usual times between two arrivals without one: the runs have stopped coming."""
COLD_SECONDS: Final = 20.0
"""How long a pod takes to be ready where nobody knows: its image may have to be pulled."""
LEAD_MARGIN: Final = 1.5
LEAD_MIN: Final = 5.0
LEAD_MAX: Final = 150.0
"""Pods for a slot are made this long before it: what they took so far, and half of that again."""
FIRST_BACKOFF: Final = 10.0
LAST_BACKOFF: Final = 600.0
ROOM_SECONDS: Final = 60.0
"""After a pod gave way to a run that found no room, none is made ahead for so long."""


@dataclass(frozen=True, slots=True)
class Pool:
    """A Task's pods, of its version and template alone, and what is known of its runs.

    `idle`: wait for a run; `coming`: on their way to that; `busy`: all others. `most`: runs that its queue and itself
    let be at work at once (None: any number). `recent`, `longer`: runs that came within these times; `silence`: seconds
    since the newest (None: none came). `run_seconds`: of a run; `cold_seconds`: a new pod takes so long (None: not
    known). `slots`: seconds to the next slot of each schedule. `failures`: pods made ahead that ended before they could
    take work, since the last one that could; `failed_ago`: seconds since the newest, `trouble`: what it said.
    """

    task: tuple[str, str]
    policy: WarmPolicy
    keeps: str | None = None
    paused: bool = False
    most: int | None = None
    idle: int = 0
    coming: int = 0
    busy: int = 0
    recent: int = 0
    longer: int = 0
    silence: float | None = None
    run_seconds: float = 0.0
    cold_seconds: float | None = None
    slots: Sequence[float] = ()
    failures: int = 0
    failed_ago: float = 0.0
    trouble: str = ""

    @property
    def there(self) -> int:
        """Pods in all."""
        return self.idle + self.coming + self.busy


@dataclass(frozen=True, slots=True)
class Plan:
    """What follows for one Task. `target`: pods that it should have, at work or not; `keep`: so many of those that are
    there stay, however long they wait; `make`: so many are made now.
    """

    task: tuple[str, str]
    target: int = 0
    keep: int = 0
    make: int = 0
    cause: Cause | None = None
    held_back: HeldBack | None = None
    message: str = ""


def plan(pools: Sequence[Pool], total: int, yielded_ago: float | None = None) -> list[Plan]:
    """What follows for each Task. `total`: pods that may wait in all. `yielded_ago`: seconds since one last gave way.

    Who says how many it wants is served before those that it is only foretold of.
    """
    wanted = [(pool, _wanted(pool)) for pool in pools]
    taken = sum(min(pool.idle, max(0, it.keep - pool.busy - pool.coming)) + pool.coming for pool, it in wanted)
    room, made = max(0, total - taken), {}
    for pool, it in sorted(wanted, key=lambda pair: (_rank(pair[1]), pair[0].task)):
        made[pool.task] = _bounded(pool, it, room, yielded_ago)
        room -= made[pool.task].make
    return [made[pool.task] for pool in pools]


def _rank(it: Plan) -> int:
    return ("min", "schedule", "arrivals", None).index(it.cause)


def _wanted(pool: Pool) -> Plan:
    """What the Task should have, whatever else there is."""
    told, policy = pool.policy.min, pool.policy
    if off := _off(pool):
        return Plan(pool.task, held_back="Off", message=off) if told else Plan(pool.task)
    if pool.paused:
        paused = "its queue is paused, or lets nothing run"
        return Plan(pool.task, held_back="Paused", message=paused) if told else Plan(pool.task)
    usual, kept = _arrivals(pool) if policy.predict else (0, 0)
    due = sum(1 for seconds in pool.slots if seconds <= lead(pool.cold_seconds)) if policy.predict else 0
    for_slots = pool.busy + due if due else 0
    target = _at_most(pool, max(told, for_slots, usual))
    keep = max(target, _at_most(pool, max(told, for_slots, kept)))
    if target == 0:
        return Plan(pool.task, keep=keep)
    cause: Cause = "min" if target <= told else "schedule" if target <= for_slots else "arrivals"
    return Plan(pool.task, target, keep, cause=cause)


def _off(pool: Pool) -> str:
    """Why none of its pods may wait for any run of the Task; empty where they may."""
    if pool.policy.off:
        return "warm.seconds, warm.max, warm.reuse or the installation keeps its pods from waiting"
    if pool.policy.reuse == "key":
        return "warm.reuse is key: a pod that had no run has no key"
    if not pool.policy.lets_stay(pool.keeps):
        return f"its pods can't wait for a run ({pool.keeps})"
    return ""


def _at_most(pool: Pool, pods: int) -> int:
    return pods if pool.most is None else min(pods, max(pool.most, 0))


def _arrivals(pool: Pool) -> tuple[int, int]:
    """How many pods runs as they came would have at work (Little's law), with room for chance: so many are made, so
    many stay. None where a pod would, at that rate, not be used before it had waited for its time, nor once the runs
    have stopped coming: nothing is foretold for longer than a pod waits by itself.
    """
    rate = max(pool.recent / RECENT_SECONDS, pool.longer / LONGER_SECONDS)
    if pool.longer < FEW_ARRIVALS or pool.silence is None or rate * pool.policy.seconds < 1:
        return 0, 0
    if pool.silence > min(SILENT_GAPS / rate, pool.policy.seconds):
        return 0, 0
    at_work = rate * max(pool.run_seconds, 0.0)
    chance = math.sqrt(at_work)
    return max(1, math.ceil(at_work + chance)), max(1, math.ceil(at_work + 2 * chance))


def lead(cold_seconds: float | None) -> float:
    """Seconds before a slot at which pods for it are made."""
    took = COLD_SECONDS if cold_seconds is None else max(cold_seconds, 0.0)
    return min(max(took * LEAD_MARGIN, LEAD_MIN), LEAD_MAX)


def backoff(failures: int) -> float:
    """Seconds from the last of so many pods that did not start to the next try."""
    return 0.0 if failures < 1 else min(FIRST_BACKOFF * 2.0 ** min(failures - 1, 16), LAST_BACKOFF)


def _bounded(pool: Pool, it: Plan, room: int, yielded_ago: float | None) -> Plan:
    """How many are made now: what lacks, within what may wait of the Task and in all, one at a time after trouble."""
    lacks = max(0, it.target - pool.there)
    held: HeldBack | None = None
    said = ""
    make = min(lacks, max(0, pool.policy.max - pool.idle - pool.coming))
    if lacks and pool.failures and pool.failed_ago < backoff(pool.failures):
        held, make = "Trouble", 0
    elif lacks and yielded_ago is not None and yielded_ago < ROOM_SECONDS:
        held, make, said = "Room", 0, "pods that wait gave way to runs that found no room a moment ago"
    elif make > room:
        held, make, said = "Total", room, "as many pods wait as may in the whole installation"
    if pool.failures:
        make = min(make, max(0, 1 - pool.coming))
    if pool.trouble and lacks + pool.coming:
        held, said = "Trouble", pool.trouble
    if held is None:
        return Plan(it.task, it.target, it.keep, make, it.cause, it.held_back, it.message)
    return Plan(it.task, it.target, it.keep, make, it.cause, held, said)
