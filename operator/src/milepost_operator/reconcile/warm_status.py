"""Tasks show their pods: `status.warm`, written when it changed, and not too often."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import structlog

from milepost_operator.domain.errors import MilepostError, NotFoundError, UnavailableError
from milepost_operator.domain.warm_views import WarmView
from milepost_operator.manifests.raw import Manifest
from milepost_operator.ports.kube import Objects
from milepost_operator.ports.warm_views import WarmReads
from milepost_operator.reconcile.loop import each
from milepost_operator.reconcile.project import AT_ONCE, Bucket

log = structlog.stdlib.get_logger(__name__)

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
        try:
            status: Manifest = {"status": {"warm": status_of(view)}}
            await self._objects.patch_status("tasks", view.namespace, view.task, status)
        except UnavailableError:
            raise
        except NotFoundError:
            log.debug("task_of_pods_missing", namespace=view.namespace, task=view.task)
        except MilepostError as error:
            log.info("pods_not_shown", namespace=view.namespace, task=view.task, error=str(error))
        self._shown[view.namespace, view.task] = _Shown(view, self._clock())
