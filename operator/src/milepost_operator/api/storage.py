"""The duties about object storage: objects that nothing refers to go, and a storage that refuses us is told."""

import asyncio
from collections.abc import AsyncIterator
from typing import Final
from uuid import UUID

from milepost_operator.domain.errors import MilepostError, StorageError, UnavailableError
from milepost_operator.domain.objects import Upload
from milepost_operator.obs.logging import get_logger
from milepost_operator.obs.metrics import Metrics
from milepost_operator.ports.objects import Bucket, ObjectSweep

BATCH: Final = 100
AT_ONCE: Final = 10
PROBE: Final = b'"milepost was here"'

_log = get_logger(__name__)


class StorageDuties:
    """`name`: of the bucket; `prefix`: before our keys there."""

    def __init__(self, rows: ObjectSweep, bucket: Bucket, metrics: Metrics, *, name: str, prefix: str) -> None:
        self._rows = rows
        self._bucket = bucket
        self._up = metrics.object_storage_up.labels(name)
        self._name = name
        self._probe = f"{prefix}milepost-check"
        self._told = ""

    async def sweep(self) -> bool:
        """Delete a batch of what nothing refers to; whether there may be more. Errors of the storage leave the rest."""
        unused = await self._rows.unused_objects(BATCH)
        gone: list[UUID] = []
        turns = asyncio.Semaphore(AT_ONCE)

        async def delete(one: Upload) -> None:
            async with turns:
                await self._bucket.delete(one.key)
            gone.append(one.object_id)

        try:
            async with asyncio.TaskGroup() as group:
                for one in unused:
                    group.create_task(delete(one))
        except* (UnavailableError, StorageError) as errors:
            _log.warning("objects_not_deleted", left=len(unused) - len(gone), error=str(errors.exceptions[0]))
        if gone:
            await self._rows.objects_gone(gone)
        return len(gone) == BATCH

    async def check(self) -> bool:
        """Store a small object: what is wrong with the bucket or the keys is known before a run needs them."""
        try:
            await self._bucket.put(self._probe, len(PROBE), _pieces(PROBE))
        except MilepostError as error:
            self._up.set(0)
            if str(error) != self._told:
                self._told = str(error)
                _log.error("object_storage_unusable", bucket=self._name, code=error.code, error=self._told)
        else:
            self._up.set(1)
            if self._told:
                _log.info("object_storage_usable", bucket=self._name)
            self._told = ""
        return False


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    yield data
