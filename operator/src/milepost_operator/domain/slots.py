"""Which slots of a schedule fire now. Pure: the time and what is known are arguments, in Unix seconds."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from milepost_operator.domain.cron import slot_name
from milepost_operator.domain.schedules import Plan, ScheduleSpec

ON_TIME_SECONDS: Final = 60
"""A slot that fires this late is not missed."""
RECHECK_SECONDS: Final = 2.0
"""How soon to look again for the end of the run that forbids the next one."""
COUNTED: Final = 100
"""Dropped slots are counted up to here: after an outage each schedule may have very many."""


@dataclass(frozen=True, slots=True)
class Due:
    """A schedule to decide on. `cursor`: all slots up to it are dealt with. `live`: runs of it that have not ended."""

    schedule_id: UUID
    spec: ScheduleSpec
    cursor: int
    live: int = 0


@dataclass(frozen=True, slots=True)
class Decision:
    """`slots` fire now, in order, after the live runs were cancelled if `replace`.

    `next_slot` is the first that is not dealt with, `look_at` when to decide again; both None: no slot comes any more.
    `overlapped`: slots that gave way to a run. `dropped`: missed ones that nobody makes up for; `note` says which.
    """

    cursor: int
    next_slot: int | None
    look_at: float | None
    slots: Sequence[int] = ()
    replace: bool = False
    overlapped: int = 0
    dropped: int = 0
    note: str | None = None


@dataclass(slots=True)
class _Late:
    """What becomes of slots whose time has come: those that fire, up to where, and what is lost."""

    slots: list[int] = field(default_factory=list)
    cursor: int = 0
    dropped: int = 0
    note: str | None = None


def input_of(text: str, slot: int, zone: str) -> str | None:
    """The input of a slot's run where the schedule's (JSON text) speaks of the slot; None: it is the schedule's own.

    `$(slot)` in a string stands for the slot's time as the wall shows it, `$(slot.utc)` for the same in UTC.
    """
    if "$(slot" not in text:
        return None
    wall = slot_name(slot, zone).partition("[")[0]
    utc = datetime.fromtimestamp(slot, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return text.replace("$(slot)", wall).replace("$(slot.utc)", utc)


def sample_input(spec: ScheduleSpec) -> str:
    """The input that a slot's run may have."""
    given = input_of(spec.input, 0, spec.time_zone)
    return spec.input if given is None else given


def begin(schedule_id: UUID, spec: ScheduleSpec, now: int) -> Decision:
    """For a schedule that is new, edited or resumed: nothing before `now` is missed."""
    plan = Plan(spec)
    slot = plan.after(now)
    return Decision(now, slot, None if slot is None else _fire_at(schedule_id, spec, slot))


def decide(due: Due, now: float, room: int) -> Decision:
    """What fires `now`; at most `room` slots, the others follow at the next look."""
    spec = due.spec
    plan = Plan(spec)
    late = (_catching_up if spec.missed == "catchup" else _on_time)(due, plan, now, room)
    return _without_overlap(due, plan, now, late)


def slots_between(spec: ScheduleSpec, since: int, until: int, limit: int) -> list[int]:
    """The slots from `since` (included) to `until` (not), the first `limit` of them."""
    found: list[int] = []
    for slot in Plan(spec).slots(since - 1):
        if slot >= until or len(found) == limit:
            break
        found.append(slot)
    return found


def _fire_at(schedule_id: UUID, spec: ScheduleSpec, slot: int) -> float:
    """A slot's time with its jitter, which is the same for everyone who asks."""
    if not spec.jitter_seconds:
        return slot
    digest = hashlib.blake2b(schedule_id.bytes + slot.to_bytes(8, "big", signed=True), digest_size=8).digest()
    return slot + spec.jitter_seconds * int.from_bytes(digest, "big") / 2**64


def _on_time(due: Due, plan: Plan, now: float, room: int) -> _Late:
    """Slots that are not late; the late ones are passed over."""
    spec = due.spec
    oldest = int(now) - ON_TIME_SECONDS - spec.jitter_seconds - 1
    late = _Late(cursor=due.cursor)
    first = plan.after(due.cursor)
    if first is not None and first <= oldest:
        late.cursor = oldest
    at = 0.0
    for slot in plan.slots(late.cursor):
        at = max(at, _fire_at(due.schedule_id, spec, slot))  # in order: one waits for those before it
        if at > now or len(late.slots) >= room:
            break
        late.cursor = slot
        if at >= now - ON_TIME_SECONDS:
            late.slots.append(slot)
    if spec.missed == "latest" and not late.slots:
        _make_up(due, plan, now, late)
    passed = late.slots[0] if late.slots else late.cursor + 1
    if first is not None and first < passed:
        _drop(plan, late, (first, passed), f"missed: {spec.missed}")
    return late


def _make_up(due: Due, plan: Plan, now: float, late: _Late) -> None:
    """The newest of the missed slots, if any was, stands for all."""
    slot = plan.before(int(now))
    while slot is not None and _fire_at(due.schedule_id, due.spec, slot) > now:
        slot = plan.before(slot - 1)
    if slot is not None and slot > due.cursor:
        late.slots = [slot]
        late.cursor = max(late.cursor, slot)


def _catching_up(due: Due, plan: Plan, now: float, room: int) -> _Late:
    """Every slot since the cursor, in order; of more than the limit the newest ones."""
    spec = due.spec
    late = _Late(cursor=due.cursor)
    first = plan.after(due.cursor)
    if first is not None and now - first > spec.catchup_limit * plan.least_gap:  # else there can't be so many
        kept = plan.before(int(now))
        for _ in range(spec.catchup_limit - 1):
            if kept is None or kept <= first:
                break
            kept = plan.before(kept - 1)
        if kept is not None and kept > first:
            _drop(plan, late, (first, kept), f"catchupLimit: {spec.catchup_limit}")
            late.cursor = kept - 1
    for slot in plan.slots(late.cursor):
        if len(late.slots) >= room or _fire_at(due.schedule_id, spec, slot) > now:
            break
        late.slots.append(slot)
        late.cursor = slot
    return late


def _drop(plan: Plan, late: _Late, span: tuple[int, int], why: str) -> None:
    """Note that the slots from the first of `span` until before its second don't fire."""
    first, until = span
    count = 0
    for slot in plan.slots(first - 1):
        if slot >= until or count >= COUNTED:
            break
        count += 1
    last = plan.before(until - 1)
    more = " or more" if count >= COUNTED else ""
    late.dropped = count
    ends = f"{slot_name(first, plan.zone)} to {slot_name(last or first, plan.zone)}"
    late.note = f"{count}{more} slots did not run ({why}): {ends}"


def _without_overlap(due: Due, plan: Plan, now: float, late: _Late) -> Decision:
    """Apply the schedule's policy on runs that are there, or would come together."""
    spec, slots, overlapped, again = due.spec, late.slots, 0, None
    cursor = late.cursor
    if spec.overlap == "forbid" and slots:
        kept = [] if due.live else slots[:1]
        if spec.missed == "catchup":  # one by one: what can't run now stays to be done
            cursor = kept[-1] if kept else slots[0] - 1
            again = now + RECHECK_SECONDS
        else:
            overlapped = len(slots) - len(kept)
        slots = kept
    elif spec.overlap == "replace" and slots:
        slots, overlapped = slots[-1:], len(slots) - 1
    following = plan.after(cursor)
    look_at = None if following is None else _fire_at(due.schedule_id, spec, following)
    if again is not None and look_at is not None:
        look_at = max(look_at, again)
    return Decision(
        cursor=cursor,
        next_slot=following,
        look_at=look_at,
        slots=slots,
        replace=spec.overlap == "replace" and bool(slots) and due.live > 0,
        overlapped=overlapped,
        dropped=late.dropped,
        note=late.note,
    )
