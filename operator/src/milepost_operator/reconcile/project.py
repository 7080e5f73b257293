"""The projector: runs that changed are shown in their Run CRs and Events, within a budget of writes.

One-way and disposable: nothing is ever decided from what it wrote.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final
from uuid import UUID

import structlog

from milepost_operator.domain.errors import ConflictError, ForbiddenError, InvalidInputError, NotFoundError
from milepost_operator.domain.runs import Projection, RunView
from milepost_operator.domain.states import TERMINAL
from milepost_operator.manifests import names, raw, run_cr
from milepost_operator.manifests.events import build_event
from milepost_operator.manifests.raw import Manifest, Object
from milepost_operator.ports.kube import Objects
from milepost_operator.ports.store import Projections
from milepost_operator.reconcile.loop import each

log = structlog.stdlib.get_logger(__name__)

BATCH: Final = 50
MAX_FAILED: Final = 200
AT_ONCE: Final = 8
WRITES_PER_SECOND: Final = 20.0
BURST: Final = 40.0


class Bucket:
    """A token bucket: `take` waits until a write is allowed."""

    def __init__(
        self,
        rate: float = WRITES_PER_SECOND,
        burst: float = BURST,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._sleep = sleep
        self._tokens = burst
        self._at = clock()

    async def take(self) -> None:
        """Tokens may go below zero: each who comes then waits its own turn."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate) - 1
        self._at = now
        if self._tokens < 0:
            await self._sleep(-self._tokens / self._rate)


class Projector:
    """Writes what `due` names: the CR where there is none, then its status, then the Events, then tells the store."""

    def __init__(self, store: Projections, objects: Objects, bucket: Bucket, *, progress_seconds: float) -> None:
        self._store = store
        self._objects = objects
        self._bucket = bucket
        self._progress = progress_seconds
        self._generations: dict[str, int] = {}

    async def turn(self) -> None:
        """Until nothing is due but what failed in this turn: that waits for the next, and holds nothing else up."""
        tried: set[tuple[UUID, int]] = set()
        failed = 0
        while failed <= MAX_FAILED:
            limit = BATCH + failed
            due = await self._store.due(limit, self._progress)
            fresh = [one for one in due if (one.view.run_id, one.view.rev) not in tried]
            await each(fresh, self.show, at_once=AT_ONCE, what="projection")
            if len(due) < limit:
                return
            tried.update((one.view.run_id, one.view.rev) for one in fresh)
            failed = len(due) - len(fresh)

    async def show(self, one: Projection) -> None:
        """Bring one CR up to its row. What can't be written is given up for this revision, never tried in a loop."""
        view = one.view
        upto = max((event.seq for event in one.events), default=0)
        try:
            uid = await self._written(one)
            if uid:
                await self._tell(one, uid)
        except (ForbiddenError, InvalidInputError, NotFoundError) as error:
            log.warning("run_not_shown", run=str(view.run_id), namespace=view.namespace, error=str(error))
            await self._store.projected(view.run_id, view.rev, None, upto, view)
            return
        await self._store.projected(view.run_id, view.rev, uid, upto, view)

    async def _written(self, one: Projection) -> str | None:
        """Uid of the CR that shows the run now; None when there is none to show it in."""
        view = one.view
        if one.cr_uid is None:
            return await self._created(view)
        try:
            if view.intent_uid and one.projected_rev == 0:
                await self._annotate(view, one.cr_uid)
            await self._patch(view, one.cr_uid)
        except (NotFoundError, ConflictError):
            # An intent that is gone is no projection's business: its deletion is intake's, or the sweep's.
            return None if view.intent_uid else await self._created(view)
        return one.cr_uid

    async def _created(self, view: RunView) -> str | None:
        if view.intent_uid:
            return None
        await self._bucket.take()
        try:
            made = await self._objects.create_run(run_cr.body(view))
        except ConflictError:
            there = await self._objects.get_object("runs", view.namespace, view.name)
            if there is None or raw.text(there, "spec", "runID") != str(view.run_id):
                log.warning("run_name_taken", run=str(view.run_id), name=view.name)
                return None
            made = there
        self._saw(made)
        await self._patch(view, raw.uid(made))
        return raw.uid(made)

    async def _annotate(self, view: RunView, uid: str) -> None:
        await self._bucket.take()
        annotations = {names.RUN_ID_ANNOTATION: str(view.run_id)}
        patch: Manifest = {"metadata": {"uid": uid, "annotations": annotations}}
        self._saw(await self._objects.patch_object("runs", view.namespace, view.name, patch))

    async def _patch(self, view: RunView, uid: str) -> None:
        await self._bucket.take()
        patch: Manifest = {"metadata": {"uid": uid}, "status": run_cr.status(view, self._generations.get(uid))}
        self._saw(await self._objects.patch_status("runs", view.namespace, view.name, patch))
        if view.state in TERMINAL:
            self._generations.pop(uid, None)

    def _saw(self, answered: Object) -> None:
        """Each answer tells the generation that the next write has observed."""
        generation = raw.number(answered, "metadata", "generation")
        if generation is not None:
            self._generations[raw.uid(answered)] = generation

    async def _tell(self, one: Projection, uid: str) -> None:
        for event in one.events:
            await self._bucket.take()
            await self._objects.create_event(build_event(one.view, event, uid))
