"""Tasks tell what their recent attempts say: a condition for each finding, and an Event when one begins to hold."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from itertools import groupby
from typing import Final

from milepost_operator.domain.errors import NotFoundError
from milepost_operator.domain.findings import TaskFinding
from milepost_operator.manifests import raw
from milepost_operator.manifests.events import build_task_event
from milepost_operator.manifests.raw import Manifest, Object
from milepost_operator.ports.findings import FindingReads
from milepost_operator.ports.kube import Objects
from milepost_operator.reconcile.conditions import Said, changes, merged
from milepost_operator.reconcile.loop import each
from milepost_operator.reconcile.project import AT_ONCE, Bucket
from milepost_operator.reconcile.task_status import tell_task

LOOK_EVERY: Final = timedelta(minutes=1)
"""What was written is compared with the object so often: others may have changed it."""
NEWS: Final = timedelta(minutes=10)
"""A finding that began longer ago is no news to a leader that sees it for the first time."""

_Task = tuple[str, str]


class TaskFindingStatus:
    """`on_findings` is told of all that there are, in each turn."""

    def __init__(
        self,
        store: FindingReads,
        objects: Objects,
        bucket: Bucket,
        *,
        clock: Callable[[], datetime],
        on_findings: Callable[[Sequence[TaskFinding]], object] = lambda _: None,
    ) -> None:
        self._store = store
        self._objects = objects
        self._bucket = bucket
        self._clock = clock
        self._on_findings = on_findings
        self._shown: dict[_Task, tuple[Sequence[TaskFinding], datetime]] = {}

    async def turn(self) -> None:
        found = await self._store.task_findings()
        self._on_findings(found)
        tasks = {key: list(of) for key, of in groupby(found, key=lambda one: (one.namespace, one.task))}
        self._shown = {key: shown for key, shown in self._shown.items() if key in tasks}
        due = [(key, of) for key, of in tasks.items() if self._due(key, of)]
        await each(due, lambda one: self._show(*one), at_once=AT_ONCE, what="findings")

    def _due(self, key: _Task, found: Sequence[TaskFinding]) -> bool:
        shown = self._shown.get(key)
        return shown is None or shown[0] != found or self._clock() - shown[1] >= LOOK_EVERY

    async def _show(self, key: _Task, found: Sequence[TaskFinding]) -> None:
        body = await self._objects.get_object("tasks", *key)
        if body is not None:
            said = [Said(f.finding.kind, f.finding.holds, f.finding.reason, f.finding.message) for f in found]
            changed = changes(body, {"conditions": merged(body, said, self._clock())})
            if changed:
                await self._bucket.take()
                await tell_task(self._objects, *key, changed)
            await self._tell(body, key, found)
        self._shown[key] = (found, self._clock())

    async def _tell(self, body: Object, key: _Task, found: Sequence[TaskFinding]) -> None:
        """Those that began to hold since they were shown last."""
        before = self._shown[key][0] if key in self._shown else ()
        known = {(one.finding.kind, one.since) for one in before if one.finding.holds}
        for one in found:
            fresh = (one.finding.kind, one.since) not in known and self._clock() - one.since < NEWS
            if one.finding.holds and fresh:
                await self._bucket.take()
                event: Manifest = build_task_event(one, raw.uid(body))
                try:
                    await self._objects.create_event(event)
                except NotFoundError:
                    return  # the namespace is going
