"""The scheduler, and the manifests' schedules: slots become runs, each once.

Lock order: schedule, then Task, then run. The runs of a batch and the cursors of their schedules are one transaction;
the unique (schedule, slot) of runs is the proof that stays when everything else is wrong.
"""

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import Final
from uuid import UUID

from milepost_operator.adapters.postgres.database import Connection, Row, as_uuid
from milepost_operator.adapters.postgres.endings import lock_runs
from milepost_operator.adapters.postgres.intake import PostgresIntake
from milepost_operator.adapters.postgres.queries import Q
from milepost_operator.adapters.postgres.schedule_rows import continued, parsed, put_schedule, read_spec, when
from milepost_operator.adapters.postgres.schemas import Schemas
from milepost_operator.domain.cron import slot_name
from milepost_operator.domain.errors import InvalidInputError
from milepost_operator.domain.ids import NAME_SUFFIX_BYTES, run_name, uuid7
from milepost_operator.domain.inputs import input_hash
from milepost_operator.domain.schedules import Fired, ScheduleSpec, TaskSchedules
from milepost_operator.domain.slots import Decision, Due, begin, decide, input_of
from milepost_operator.obs.logging import get_logger

RUNS_PER_TURN: Final = 1_000
RUNS_PER_SCHEDULE: Final = 100
"""Of one schedule in one turn: one that catches up holds nobody else up."""
DECIDING_SECONDS: Final = 0.1
"""After a long outage a decision may take tens of milliseconds, and sidecars' heartbeats wait meanwhile."""
FORGET: Final = 100
MANIFEST: Final = "the Task's manifest"

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SlotRun:
    """A run to insert for a slot. `input`: JSON text, where it is not the schedule's own."""

    schedule_id: UUID
    task: str
    slot: str
    input_hash: bytes
    input: str | None = None


def slot_run(schedule_id: UUID, task: str, spec: ScheduleSpec, slot: int, digest: bytes) -> SlotRun:
    """`digest`: identity of the schedule's own input."""
    given = input_of(spec.input, slot, spec.time_zone)
    return SlotRun(
        schedule_id, task, slot_name(slot, spec.time_zone), digest if given is None else input_hash(given), given
    )


async def insert_runs(connection: Connection, items: Sequence[SlotRun]) -> int:
    """Insert the runs of slots that have none yet; their schedules say the rest. Returns how many there were."""
    now = time.time_ns() // 1_000_000
    rows = await connection.fetch(
        Q["insert_schedule_runs"],
        [uuid7(now, secrets.token_bytes(10)) for _ in items],
        [item.schedule_id for item in items],
        [item.slot for item in items],
        [run_name(item.task, secrets.token_bytes(NAME_SUFFIX_BYTES)) for item in items],
        [item.input_hash for item in items],
        [item.input for item in items],
    )
    return len(rows)


@dataclass(frozen=True, slots=True)
class _Move:
    """What was decided for a row."""

    row: Row
    decision: Decision
    runs: Sequence[SlotRun] = ()


class PostgresSchedules(PostgresIntake):
    """Ports `ScheduleDuty`, `ScheduleIntake` and `ScheduleStatus`."""

    @cached_property
    def _schemas(self) -> Schemas:
        return Schemas(self._db)

    async def fire_schedules(self, limit: int) -> Fired:
        async def work(connection: Connection) -> tuple[Fired, list[_Move]]:
            rows = await connection.fetch(Q["due_schedules"], self._db.cluster, limit)
            orphans = [row["schedule_id"] for row in rows if not row["task_found"]]
            if orphans:
                await connection.execute(Q["rest_schedules"], orphans)
            found = [row for row in rows if row["task_found"]]
            live = await _live(connection, found)
            busy = await _busy(connection, found, live)
            found = [row for row in found if row["schedule_id"] not in busy]
            moves = await self._fitting(connection, _decided(found, live))
            await self._cancel_replaced(connection, moves, live)
            runs = [run for move in moves for run in move.runs]
            inserted = await insert_runs(connection, runs) if runs else 0
            if moves:
                await connection.execute(Q["move_cursors"], *_columns(moves))
            return Fired(len(rows) - len(busy), inserted), moves

        fired, moves = await self._db.transaction(work)
        if fired.runs:
            self._db.wake("admit")
        for move in moves:
            if move.decision.note:
                row = move.row
                _log.warning(
                    "schedule_noted",
                    namespace=row["namespace"],
                    task=row["task"],
                    schedule=row["name"],
                    note=move.decision.note,
                )
        return fired

    async def _fitting(self, connection: Connection, moves: Sequence[_Move]) -> list[_Move]:
        """Without the runs whose input does not fit their Task, which a note tells of."""
        tasks = {(move.row["namespace"], move.row["task"]) for move in moves if move.runs}
        hashes = await self._schemas.look(tasks, connection.fetch, lock=True) if tasks else {}
        made = []
        for move in moves:
            digest = hashes.get((move.row["namespace"], move.row["task"]))
            made.append(await self._fitted(connection, move, digest) if digest and move.runs else move)
        return made

    async def _fitted(self, connection: Connection, move: _Move, digest: str) -> _Move:
        own = parsed(move.row["spec"])[0].input
        checked: dict[str, InvalidInputError | None] = {}
        kept: list[int] = []
        note = move.decision.note
        for index, run in enumerate(move.runs):
            text = own if run.input is None else run.input
            if text not in checked:
                checked[text] = await self._schemas.check(run.task, digest, text, connection.fetch)
            if (error := checked[text]) is None:
                kept.append(index)
            else:
                note = f"no run for slot {run.slot}: {error}"
        before = move.decision
        decision = replace(
            before,
            slots=[before.slots[index] for index in kept],
            replace=before.replace and bool(kept),
            dropped=before.dropped + len(move.runs) - len(kept),
            note=note,
        )
        return _Move(move.row, decision, [move.runs[index] for index in kept])

    async def forget_schedules(self) -> None:
        await self._db.fetch(Q["forget_schedules"], self._db.cluster, FORGET)

    async def task_schedules(self, since: datetime | None, shown: int) -> Sequence[TaskSchedules]:
        rows = await self._db.fetch(Q["tasks_with_new_slots"], self._db.cluster, since, shown)
        return [
            TaskSchedules(r["namespace"], r["task"], r["changed_at"], r["next_at"], r["schedules"] or ()) for r in rows
        ]

    async def apply_schedules(
        self,
        namespace: str,
        task: str,
        schedules: Sequence[tuple[str, ScheduleSpec]],
        kept: Sequence[str] = (),
        *,
        uid: str,
        generation: int,
    ) -> list[str]:
        key = (self._db.cluster, namespace, task)

        async def work(connection: Connection) -> list[str]:
            rows = {row["name"]: row for row in await connection.fetch(Q["lock_schedules_of_task"], *key)}
            if not await connection.fetchval(Q["lock_generation"], *key, uid, generation):
                return []
            taken = []
            for name, spec in schedules:
                if not await _put_managed(connection, (*key, name), rows.get(name), spec):
                    taken.append(name)
            wanted = {name for name, _ in schedules} | set(kept)
            ours = {name: row for name, row in rows.items() if row["managed"] and not row["deleted_at"]}
            gone = [row["schedule_id"] for name, row in ours.items() if name not in wanted]
            if gone:
                await connection.execute(Q["delete_schedule"], gone)
            for name, row in rows.items():
                if not row["managed"] and not row["active"] and not row["deleted_at"]:
                    await _wake(connection, (*key, name), row)
            return taken

        return await self._db.transaction(work)

    async def remove_task(self, namespace: str, name: str, uid: str | None = None) -> None:
        await super().remove_task(namespace, name, uid)
        await self._db.fetch(Q["rest_schedules_of_task"], self._db.cluster, namespace, name)

    async def _cancel_replaced(
        self, connection: Connection, moves: Sequence[_Move], live: Mapping[UUID, Sequence[UUID]]
    ) -> None:
        replaced = {
            run_id: move.row["name"]
            for move in moves
            if move.decision.replace
            for run_id in live[move.row["schedule_id"]]
        }
        for run_id in sorted(replaced):
            await self._cancel(connection, run_id, f"the next slot of schedule {replaced[run_id]}")


async def _live(connection: Connection, rows: Sequence[Row]) -> dict[UUID, list[UUID]]:
    """Runs that have not ended, of the schedules that care."""
    caring = [row["schedule_id"] for row in rows if parsed(row["spec"])[0].overlap != "allow"]
    if not caring:
        return {}
    found = await connection.fetch(Q["live_runs_of_schedules"], caring)
    return {row["schedule_id"]: row["runs"] for row in found}


async def _busy(connection: Connection, rows: Sequence[Row], live: Mapping[UUID, Sequence[UUID]]) -> set[UUID]:
    """Schedules that may replace a run which somebody else has locked: they stay due, the others don't wait for it."""
    replacing = {
        as_uuid(row["schedule_id"]): live.get(row["schedule_id"], ())
        for row in rows
        if parsed(row["spec"])[0].overlap == "replace"
    }
    run_ids = [run_id for runs in replacing.values() for run_id in runs]
    if not run_ids:
        return set()
    _, locked = await lock_runs(connection, run_ids, wait=False)
    return {schedule_id for schedule_id, runs in replacing.items() if any(run_id in locked for run_id in runs)}


def _decided(rows: Sequence[Row], live: Mapping[UUID, Sequence[UUID]]) -> list[_Move]:
    """Decisions for as many rows as one turn may take on, in runs and in time; the others stay due."""
    moves = []
    room, stop = RUNS_PER_TURN, time.monotonic() + DECIDING_SECONDS
    for row in rows:
        if room <= 0 or time.monotonic() > stop:
            break
        move = _move(row, len(live.get(row["schedule_id"], ())), min(room, RUNS_PER_SCHEDULE))
        room -= len(move.runs)
        moves.append(move)
    return moves


def _move(row: Row, live: int, room: int) -> _Move:
    spec, digest = parsed(row["spec"])
    now = row["now"].timestamp()
    cursor = int((row["cursor_at"] or row["now"]).timestamp())
    schedule_id = as_uuid(row["schedule_id"])
    try:
        decision = decide(Due(schedule_id, spec, cursor, live), now, room)
    except InvalidInputError as error:  # it was right when it was taken: the time zones are other ones since
        return _Move(row, Decision(int(now), None, None, note=f"the schedule rests: {error}"))
    runs = [slot_run(schedule_id, row["task"], spec, slot, digest) for slot in decision.slots]
    return _Move(row, decision, runs)


def _columns(moves: Sequence[_Move]) -> tuple[list[object], ...]:
    """The arguments of `move_cursors`."""
    decisions = [move.decision for move in moves]
    return (
        [move.row["schedule_id"] for move in moves],
        [when(one.cursor) for one in decisions],
        [when(one.next_slot) for one in decisions],
        [when(one.look_at) for one in decisions],
        [len(one.slots) for one in decisions],
        [one.overlapped for one in decisions],
        [one.dropped for one in decisions],
        [move.runs[-1].slot if move.runs else None for move in moves],
        [one.note for one in decisions],
    )


async def _put_managed(
    connection: Connection, key: tuple[str, str, str, str], row: Row | None, spec: ScheduleSpec
) -> bool:
    """A schedule of a manifest. False: the API has made one of its name.

    What only names the run is changed in place; another timing begins anew, as does what was deleted or at rest.
    The manifest pauses and resumes when its own `paused` changes; else a pause of the API stays.
    """
    if row is None or row["deleted_at"]:
        schedule_id = row["schedule_id"] if row else uuid7(time.time_ns() // 1_000_000, secrets.token_bytes(10))
        now = int((row["now"].timestamp()) if row else time.time())
        return await put_schedule(
            connection,
            (schedule_id, *key),
            spec,
            begin(as_uuid(schedule_id), spec, now),
            managed=True,
            active=True,
            paused_by=MANIFEST if spec.paused else None,
        )
    if not row["managed"]:
        return False
    before = read_spec(row["spec"], row["input"])
    paused_by = row["paused_by"]
    if before.paused != spec.paused:
        paused_by = MANIFEST if spec.paused else None
    if before == spec and row["active"]:
        return True
    return await put_schedule(
        connection,
        (row["schedule_id"], *key),
        spec,
        continued(row, before, spec, resumed=row["paused"] and paused_by is None),
        managed=True,
        active=True,
        paused_by=paused_by,
    )


async def _wake(connection: Connection, key: tuple[str, str, str, str], row: Row) -> None:
    """The Task of a schedule at rest has come."""
    spec = read_spec(row["spec"], row["input"])
    await put_schedule(
        connection,
        (row["schedule_id"], *key),
        spec,
        begin(as_uuid(row["schedule_id"]), spec, int(row["now"].timestamp())),
        managed=False,
        active=True,
        paused_by=row["paused_by"],
    )
