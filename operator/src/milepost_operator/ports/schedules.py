"""Schedules in the store. Every method is one transaction, unless it says otherwise; times are the database's clock.

All raise UnavailableError when Postgres can't answer or commit.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol
from uuid import UUID

from milepost_operator.domain.schedules import Backfill, Fired, ScheduleSpec, ScheduleView, TaskSchedules


class ScheduleIntake(Protocol):
    """Schedules of a Task's manifest."""

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
        """Make these, by name, the schedules of the Task's manifest; wake those that the API made for it.

        Nothing is done unless the Task that is there is of this uid and generation.

        Those named in `kept` stay as they are; all others of the manifest go. Returns the names that schedules made
        through the API have already: these are left alone.
        """


class ScheduleStatus(Protocol):
    """What Tasks show of their schedules."""

    async def task_schedules(self, since: datetime | None, shown: int) -> Sequence[TaskSchedules]:
        """Tasks whose schedules changed at or after `since`, oldest change first; at most `shown` schedules each."""


class ScheduleDuty(Protocol):
    """The scheduler."""

    async def fire_schedules(self, limit: int) -> Fired:
        """Make the runs that are due, and move the cursors, for at most `limit` schedules."""

    async def forget_schedules(self) -> None:
        """Delete the rows of some schedules that were deleted, once no run points to them."""


class ScheduleApi(Protocol):
    """Schedules of the HTTP API. NotFoundError for one that isn't there."""

    async def create_schedule(self, namespace: str, task: str, name: str, spec: ScheduleSpec, who: str) -> ScheduleView:
        """ConflictError `schedule-exists` when the Task has one of this name."""

    async def get_schedule(self, namespace: str, schedule_id: UUID) -> ScheduleView: ...

    async def list_schedules(
        self,
        namespace: str | None,
        *,
        task: str | None = None,
        after: tuple[str, str, str] | None = None,
        limit: int = 50,
    ) -> Sequence[ScheduleView]:
        """By (namespace, task, name); from after these on."""

    async def change_schedule(
        self, namespace: str, schedule_id: UUID, edit: Callable[[ScheduleSpec], ScheduleSpec], who: str
    ) -> ScheduleView:
        """ConflictError `managed-schedule` for one of a Task's manifest. What `edit` raises is raised."""

    async def pause_schedule(self, namespace: str, schedule_id: UUID, who: str, *, paused: bool) -> ScheduleView:
        """Pause, or resume with nothing missed; either again changes nothing."""

    async def delete_schedule(self, namespace: str, schedule_id: UUID) -> None:
        """Its runs stay. ConflictError `managed-schedule`."""

    async def backfill(
        self, namespace: str, schedule_id: UUID, since: datetime, until: datetime, *, dry_run: bool
    ) -> Backfill:
        """A run for each slot of [since, until) that has none. Several transactions, the earlier slots first.

        InvalidInputError `range-too-large`, or for an end in the future.
        """
