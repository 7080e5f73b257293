"""Port `ScheduleApi`: schedules as people make and change them."""

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from typing import Final
from uuid import UUID

from milepost_operator.adapters.postgres.database import Connection, Database, Row, as_uuid
from milepost_operator.adapters.postgres.queries import Q
from milepost_operator.adapters.postgres.schedule_rows import continued, put_schedule, read_spec, view_of
from milepost_operator.adapters.postgres.schedules import SlotRun, insert_runs, slot_run
from milepost_operator.adapters.postgres.schemas import Schemas
from milepost_operator.domain.cron import slot_name
from milepost_operator.domain.errors import ConflictError, InvalidInputError, NotFoundError
from milepost_operator.domain.ids import uuid7
from milepost_operator.domain.inputs import input_hash
from milepost_operator.domain.schedules import Backfill, ScheduleSpec, ScheduleView
from milepost_operator.domain.slots import begin, sample_input, slots_between

MAX_BACKFILL: Final = 10_000
_CHUNK: Final = 500


class PostgresScheduleApi:
    """Make, look, change, pause, delete, backfill."""

    def __init__(self, db: Database) -> None:
        self._db = db

    @cached_property
    def _schemas(self) -> Schemas:
        return Schemas(self._db)

    async def create_schedule(self, namespace: str, task: str, name: str, spec: ScheduleSpec, who: str) -> ScheduleView:
        key = (self._db.cluster, namespace, task)

        async def work(connection: Connection) -> UUID:
            rows = {row["name"]: row for row in await connection.fetch(Q["lock_schedules_of_task"], *key)}
            row = rows.get(name)
            if row is not None and not row["deleted_at"]:
                raise _exists(task, name)
            await self._require_fitting(connection, namespace, task, spec)
            made = as_uuid(row["schedule_id"]) if row else uuid7(time.time_ns() // 1_000_000, secrets.token_bytes(10))
            now: datetime = await connection.fetchval("select clock_timestamp()")
            written = await put_schedule(
                connection,
                (made, *key, name),
                spec,
                begin(made, spec, int(now.timestamp())),
                managed=False,
                active=True,
                paused_by=who if spec.paused else None,
            )
            if not written:
                raise _exists(task, name)
            return made

        schedule_id = await self._db.transaction(work)
        await self._db.transaction(lambda connection: self._rest_without_task(connection, namespace, schedule_id))
        return await self.get_schedule(namespace, schedule_id)

    async def get_schedule(self, namespace: str, schedule_id: UUID) -> ScheduleView:
        query = f"{Q['schedule_view']} and s.namespace = $2 and s.schedule_id = $3"
        row = await self._db.fetchrow(query, self._db.cluster, namespace, schedule_id)
        if row is None:
            raise _missing(schedule_id, namespace)
        return view_of(row)

    async def list_schedules(
        self,
        namespace: str | None,
        *,
        task: str | None = None,
        after: tuple[str, str, str] | None = None,
        limit: int = 50,
    ) -> Sequence[ScheduleView]:
        query, args = Q["schedule_view"], [self._db.cluster]
        for column, value in (("namespace", namespace), ("task", task)):
            if value is not None:
                args.append(value)
                query += f" and s.{column} = ${len(args)}"
        if after:
            args.extend(after)
            query += f" and (s.namespace, s.task, s.name) > (${len(args) - 2}, ${len(args) - 1}, ${len(args)})"
        query += f" order by s.namespace, s.task, s.name limit ${len(args) + 1}"
        return [view_of(row) for row in await self._db.fetch(query, *args, limit)]

    async def change_schedule(
        self, namespace: str, schedule_id: UUID, edit: Callable[[ScheduleSpec], ScheduleSpec], who: str
    ) -> ScheduleView:
        async def work(connection: Connection) -> None:
            row = await self._locked(connection, namespace, schedule_id)
            _require_free(row)
            before = read_spec(row["spec"], row["input"])
            spec = edit(before)
            paused_by = row["paused_by"]
            if spec.paused != before.paused:
                paused_by = who if spec.paused else None
            if spec.input != before.input:
                await self._require_fitting(connection, namespace, row["task"], spec)
            if spec != before:
                await self._put(connection, row, before, spec, paused_by)

        await self._db.transaction(work)
        return await self.get_schedule(namespace, schedule_id)

    async def pause_schedule(self, namespace: str, schedule_id: UUID, who: str, *, paused: bool) -> ScheduleView:
        async def work(connection: Connection) -> None:
            row = await self._locked(connection, namespace, schedule_id)
            if row["paused"] != paused:
                before = read_spec(row["spec"], row["input"])
                spec = before if row["managed"] else replace(before, paused=paused)
                await self._put(connection, row, before, spec, who if paused else None)

        await self._db.transaction(work)
        return await self.get_schedule(namespace, schedule_id)

    async def delete_schedule(self, namespace: str, schedule_id: UUID) -> None:
        async def work(connection: Connection) -> None:
            row = await self._locked(connection, namespace, schedule_id)
            _require_free(row)
            await connection.execute(Q["delete_schedule"], [schedule_id])

        await self._db.transaction(work)

    async def backfill(
        self, namespace: str, schedule_id: UUID, since: datetime, until: datetime, *, dry_run: bool
    ) -> Backfill:
        view = await self.get_schedule(namespace, schedule_id)
        spec = view.spec
        row = await self._db.fetchrow("select clock_timestamp() as now")
        if row is not None and until > row["now"]:
            message = "to is in the future: the schedule itself will fire what comes"
            raise InvalidInputError("invalid-field", message, "$.to")
        found = slots_between(spec, int(since.timestamp()), int(until.timestamp()), MAX_BACKFILL + 1)
        if len(found) > MAX_BACKFILL:
            last = slot_name(found[-2], spec.time_zone)
            message = f"the range has more than {MAX_BACKFILL} slots: end it after {last}, and then go on from there"
            raise InvalidInputError("range-too-large", message, "$.to")
        slots = [slot_name(slot, spec.time_zone) for slot in found]
        created = await self._fill(view, found) if not dry_run else 0
        known = await self._db.fetchrow(Q["runs_of_slots"], schedule_id, slots)
        existing = (int(known[0]) if known else 0) - created
        return Backfill(len(slots), created, existing, slots[0] if slots else None, slots[-1] if slots else None)

    async def _fill(self, view: ScheduleView, slots: Sequence[int]) -> int:
        created = 0
        digest = input_hash(view.spec.input)
        for start in range(0, len(slots), _CHUNK):
            chunk = slots[start : start + _CHUNK]
            items = [slot_run(view.schedule_id, view.task, view.spec, slot, digest) for slot in chunk]
            created += await self._db.transaction(lambda c, items=items: self._insert_slots(c, view, items))  # type: ignore[misc]
        if created:
            self._db.wake("admit")
        return created

    async def _insert_slots(self, connection: Connection, view: ScheduleView, items: Sequence[SlotRun]) -> int:
        texts = {view.spec.input if item.input is None else item.input for item in items}
        await self._require(connection, view.namespace, view.task, sorted(texts))
        return await insert_runs(connection, items)

    async def _require_fitting(self, connection: Connection, namespace: str, task: str, spec: ScheduleSpec) -> None:
        await self._require(connection, namespace, task, [sample_input(spec)])

    async def _require(self, connection: Connection, namespace: str, task: str, texts: Sequence[str]) -> None:
        """Raise InvalidInputError for the first of these inputs that does not fit the Task."""
        hashes = await self._schemas.look([(namespace, task)], connection.fetch, lock=True)
        for digest in hashes.values():
            for text in texts:
                if error := await self._schemas.check(task, digest, text, connection.fetch):
                    raise error

    async def _rest_without_task(self, connection: Connection, namespace: str, schedule_id: UUID) -> None:
        """The lock comes first: a Task that is applied after the look finds the schedule at rest, and wakes it."""
        row = await connection.fetchrow(Q["lock_schedule"], self._db.cluster, namespace, schedule_id)
        if row and not await connection.fetchval(Q["task_is_there"], self._db.cluster, namespace, row["task"]):
            await connection.execute(Q["rest_schedules"], [schedule_id])

    async def _locked(self, connection: Connection, namespace: str, schedule_id: UUID) -> Row:
        row = await connection.fetchrow(Q["lock_schedule"], self._db.cluster, namespace, schedule_id)
        if row is None:
            raise _missing(schedule_id, namespace)
        return row

    async def _put(
        self, connection: Connection, row: Row, before: ScheduleSpec, spec: ScheduleSpec, paused_by: str | None
    ) -> None:
        await put_schedule(
            connection,
            (row["schedule_id"], row["cluster"], row["namespace"], row["task"], row["name"]),
            spec,
            continued(row, before, spec),
            managed=row["managed"],
            active=row["active"],
            paused_by=paused_by,
        )


def _require_free(row: Row) -> None:
    if row["managed"]:
        raise ConflictError(
            "managed-schedule",
            f"schedule {row['name']} belongs to the manifest of Task {row['task']}: edit spec.schedules there"
            " (it can be paused and resumed here)",
        )


def _exists(task: str, name: str) -> ConflictError:
    return ConflictError("schedule-exists", f"Task {task} has a schedule {name}: change that one, or take another name")


def _missing(schedule_id: UUID, namespace: str) -> NotFoundError:
    return NotFoundError(f"no schedule {schedule_id} in namespace {namespace}")
