"""Queues show what is in them: status and conditions of Queue objects, written when they changed, and not too often."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from milepost_operator.domain.breaker import Phase
from milepost_operator.domain.queues import QueueView
from milepost_operator.domain.why import period
from milepost_operator.manifests import raw
from milepost_operator.manifests.raw import Manifest
from milepost_operator.manifests.run_cr import stamp
from milepost_operator.ports.control import QueueReads
from milepost_operator.ports.kube import Objects
from milepost_operator.reconcile.conditions import Said, changes, merged
from milepost_operator.reconcile.loop import each
from milepost_operator.reconcile.project import AT_ONCE, Bucket

NUMBERS_EVERY: Final = timedelta(seconds=15)
"""Numbers alone are written at most so often; a pause, a limit or a breaker at once."""
LOOK_EVERY: Final = timedelta(minutes=1)
"""What was written is compared with the object so often: others may have changed it."""


@dataclass(frozen=True, slots=True)
class _Shown:
    status: Manifest
    said: tuple[Said, ...]
    at: datetime


def status_of(view: QueueView) -> Manifest:
    """The numbers of a Queue's status: None where there is nothing to say."""
    rate = view.rate
    return {
        "depth": view.depth,
        "running": view.running,
        "limit": view.limit,
        "override": view.override.concurrency if view.override else None,
        "oldest": stamp(view.oldest_at),
        "rate": f"{view.rate_used or 0}/{rate.limit} per {period(rate.period_seconds)}" if rate else None,
    }


def conditions_of(view: QueueView) -> tuple[Said, ...]:
    """Paused, and BreakerOpen for a queue that has a breaker."""
    return (_paused(view), *([_breaker(view)] if view.breaker else []))


def _paused(view: QueueView) -> Said:
    if view.pause is None:
        return Said("Paused", False, "NotPaused", "")
    if view.pause.by is None:
        return Said("Paused", True, "PausedByManifest", "spec.paused")
    reason = f": {view.pause.reason}" if view.pause.reason else ""
    since = f" since {stamp(view.pause.since)}" if view.pause.since else ""
    return Said("Paused", True, "PausedAtRunTime", f"by {view.pause.by}{since}{reason}")


def _breaker(view: QueueView) -> Said:
    breaker = view.breaker
    if breaker is None or breaker.phase is Phase.CLOSED:
        return Said("BreakerOpen", False, "Closed", "")
    if breaker.phase is Phase.OPEN:
        return Said("BreakerOpen", True, "Open", f"too many failures: open until {stamp(breaker.until)}")
    message = f"{breaker.passed} of {breaker.policy.probes} probes succeeded"
    return Said("BreakerOpen", True, "HalfOpen", message)


class QueueStatus:
    """`on_views` is told of all queues in each turn."""

    def __init__(
        self,
        store: QueueReads,
        objects: Objects,
        bucket: Bucket,
        *,
        clock: Callable[[], datetime],
        on_views: Callable[[Sequence[QueueView]], object] = lambda _: None,
    ) -> None:
        self._store = store
        self._objects = objects
        self._bucket = bucket
        self._clock = clock
        self._on_views = on_views
        self._shown: dict[tuple[str, str], _Shown] = {}

    async def turn(self) -> None:
        views = await self._store.list_queues(None)
        self._on_views(views)
        there = {(view.namespace, view.name) for view in views}
        self._shown = {key: shown for key, shown in self._shown.items() if key in there}
        await each([view for view in views if self._due(view)], self._show, at_once=AT_ONCE, what="queue status")

    def _due(self, view: QueueView) -> bool:
        shown = self._shown.get((view.namespace, view.name))
        if shown is None:
            return True
        age = self._clock() - shown.at
        status = status_of(view)
        if any(status[key] != shown.status[key] for key in ("limit", "override")) or conditions_of(view) != shown.said:
            return True
        return age >= (NUMBERS_EVERY if status != shown.status else LOOK_EVERY)

    async def _show(self, view: QueueView) -> None:
        status, said = status_of(view), conditions_of(view)
        body = await self._objects.get_object("queues", view.namespace, view.name)
        if body is not None:  # `default` needs no Queue
            conditions = merged(body, said, self._clock())
            if not view.breaker:
                conditions = [one for one in conditions if one.get("type") != "BreakerOpen"]
            changed = changes(body, status | {"conditions": conditions})
            if changed:
                await self._bucket.take()
                patch: Manifest = {"metadata": {"uid": raw.uid(body)}, "status": changed}
                await self._objects.patch_status("queues", view.namespace, view.name, patch)
        self._shown[view.namespace, view.name] = _Shown(status, said, self._clock())
