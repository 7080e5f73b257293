"""Tasks show their pods: `status.warm`, written when it changed, and not too often."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from milepost_operator.domain.warm_views import WarmView
from milepost_operator.manifests.raw import Manifest
from milepost_operator.ports.kube import Objects
from milepost_operator.ports.warm_views import WarmReads
from milepost_operator.reconcile.loop import each
from milepost_operator.reconcile.project import AT_ONCE, Bucket
from milepost_operator.reconcile.task_status import tell_task

WRITES_PER_SECOND: Final = 5.0
NEWS_EVERY: Final = timedelta(seconds=15)
"""A Task's numbers are written at most so often."""
REPEAT_EVERY: Final = timedelta(minutes=5)
"""The same numbers again: the object may have been made anew. The API server writes nothing where nothing changed."""


@dataclass(frozen=True, slots=True)
class _Shown:
    view: WarmView
    at: datetime


def status_of(view: WarmView) -> Manifest:
    """`status.warm` as a merge patch: None removes what no longer holds."""
    return {
        "idle": view.idle,
        "busy": view.busy,
        "hits": view.hits,
        "misses": view.misses,
        "coldReason": view.cold_reason,
    }


class TaskWarmStatus:
    """`on_states` is told in each turn how many pods there are in each state."""

    def __init__(
        self,
        store: WarmReads,
        objects: Objects,
        bucket: Bucket,
        *,
        clock: Callable[[], datetime],
        on_states: Callable[[Mapping[str, int]], object] = lambda _: None,
    ) -> None:
        self._store = store
        self._objects = objects
        self._bucket = bucket
        self._clock = clock
        self._on_states = on_states
        self._shown: dict[tuple[str, str], _Shown] = {}

    async def turn(self) -> None:
        self._on_states(await self._store.pods_by_state())
        views = await self._store.warm_view(None)
        there = {(view.namespace, view.task) for view in views}
        self._shown = {key: shown for key, shown in self._shown.items() if key in there}
        await each([view for view in views if self._due(view)], self._show, at_once=AT_ONCE, what="warm status")

    def _due(self, view: WarmView) -> bool:
        shown = self._shown.get((view.namespace, view.task))
        if shown is None:
            return not view.empty
        return self._clock() - shown.at >= (REPEAT_EVERY if view == shown.view else NEWS_EVERY)

    async def _show(self, view: WarmView) -> None:
        await self._bucket.take()
        await tell_task(self._objects, view.namespace, view.task, {"warm": status_of(view)})
        self._shown[view.namespace, view.task] = _Shown(view, self._clock())
