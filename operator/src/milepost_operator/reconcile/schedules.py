"""Schedules of Tasks: from the manifest into rows, and from rows into the Task's status."""

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from milepost_operator.crds.schedule import MAX_SCHEDULES, Schedule
from milepost_operator.domain.errors import InvalidInputError
from milepost_operator.domain.runs import TaskIntake
from milepost_operator.domain.schedules import ScheduleSpec, TaskSchedules
from milepost_operator.domain.schema.compiled import Schema
from milepost_operator.domain.slots import sample_input
from milepost_operator.manifests import raw
from milepost_operator.manifests.names import clipped
from milepost_operator.manifests.raw import Manifest, Object
from milepost_operator.manifests.run_cr import stamp
from milepost_operator.manifests.schedules import schedule_of
from milepost_operator.manifests.schemas import mismatch
from milepost_operator.ports.kube import Objects
from milepost_operator.ports.schedules import ScheduleIntake, ScheduleStatus
from milepost_operator.reconcile.conditions import Said
from milepost_operator.reconcile.project import Bucket
from milepost_operator.reconcile.task_status import tell_task

CONDITION: Final = "SchedulesAccepted"
PER_TURN: Final = 100
WRITES_PER_SECOND: Final = 5.0
_MESSAGE: Final = 300
_OVERLAP: Final = timedelta(seconds=15)
"""Rows of transactions that were open at the last look bear a time from before it."""


async def apply_schedules(
    store: ScheduleIntake, task: TaskIntake, schedules: Sequence[Schedule] | None, schema: Schema | None = None
) -> list[str]:
    """Take what can be taken. Returns what is wrong with the others, a sentence each; those stay as they last were."""
    good: list[tuple[str, ScheduleSpec]] = []
    wrong: list[str] = []
    kept: list[str] = []
    for one in schedules or ():
        try:
            spec = schedule_of(one)
            if schema is not None and (error := mismatch(schema, task.name, sample_input(spec))):
                raise error
            good.append((one.name, spec))
        except InvalidInputError as error:
            kept.append(one.name)
            wrong.append(f"schedule {one.name}: {error.path}: {error}")
    taken = await store.apply_schedules(task.namespace, task.name, good, kept, uid=task.uid, generation=task.generation)
    wrong += [
        f"schedule {name}: one of this name was made through the API: delete it there, or rename this one"
        for name in taken
    ]
    return wrong


def said_of(body: Object, wrong: Sequence[str]) -> list[Said]:
    """The condition of a Task that has schedules, or had."""
    if wrong:
        return [Said(CONDITION, False, "Invalid", "; ".join(wrong))]
    if raw.parts(body, "spec", "schedules") or raw.condition(body, CONDITION):
        return [Said(CONDITION, True, "Accepted", "every schedule is in force")]
    return []


class TaskScheduleStatus:
    """Keeps the next slots in the status of Tasks: a few writes a second, the oldest news first."""

    def __init__(self, store: ScheduleStatus, objects: Objects, bucket: Bucket) -> None:
        self._store = store
        self._objects = objects
        self._bucket = bucket
        self._since: datetime | None = None
        self._shown: dict[tuple[str, str], datetime] = {}

    async def turn(self) -> None:
        found = await self._store.task_schedules(self._since and self._since - _OVERLAP, MAX_SCHEDULES)
        news = [one for one in found if self._shown.get((one.namespace, one.task)) != one.changed_at]
        for one in news[:PER_TURN]:
            await self._show(one)
        if len(news) > PER_TURN:
            self._since = news[PER_TURN].changed_at
        elif found:
            self._since = found[-1].changed_at

    async def _show(self, one: TaskSchedules) -> None:
        await self._bucket.take()
        await tell_task(self._objects, one.namespace, one.task, _status(one))
        self._shown[one.namespace, one.task] = one.changed_at


def _status(one: TaskSchedules) -> Manifest:
    """As a merge patch: None removes what no longer holds."""
    schedules = [json.loads(text) for text in one.schedules]
    return {
        "nextRun": None if one.next_at is None else stamp(one.next_at),
        "schedules": [
            {key: value for key, value in (s | {"message": clipped(s["message"], _MESSAGE)}).items() if value}
            for s in schedules
        ]
        or None,
    }
