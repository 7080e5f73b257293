"""Run objects of ended runs beyond their task's history limits go, those that we made: a person's own stay."""

from typing import Final
from uuid import UUID

import structlog

from milepost_operator.domain.errors import ForbiddenError
from milepost_operator.ports.kube import Objects
from milepost_operator.ports.lifecycle import History
from milepost_operator.reconcile.loop import each
from milepost_operator.reconcile.project import Bucket

log = structlog.stdlib.get_logger(__name__)

BATCH: Final = 50
AT_ONCE: Final = 4
DELETES_PER_SECOND: Final = 10.0


class HistoryLimits:
    """One batch a turn. `bucket`: a budget of its own, so that a purge holds no projection up."""

    def __init__(self, store: History, objects: Objects, bucket: Bucket) -> None:
        self._store = store
        self._objects = objects
        self._bucket = bucket

    async def turn(self) -> None:
        while True:
            surplus = await self._store.surplus_crs(BATCH)
            gone: list[UUID] = []

            async def delete(one: tuple[UUID, str, str, str], gone: list[UUID] = gone) -> None:
                run_id, namespace, name, uid = one
                await self._bucket.take()
                try:
                    await self._objects.delete_object("runs", namespace, name, uid)
                except ForbiddenError as error:
                    log.warning("run_object_kept", run=name, namespace=namespace, error=str(error))
                    return
                gone.append(run_id)

            await each(surplus, delete, at_once=AT_ONCE, what="history limit")
            await self._store.cr_deleted(gone)
            if len(surplus) < BATCH or len(gone) < len(surplus):
                return
