"""Ports `Objects` and `ObjectSweep`: the rows of what is in object storage."""

import secrets
import time
from collections.abc import Sequence
from typing import Final
from uuid import UUID

import asyncpg

from milepost.wire.pod import Fence, RecordWrite
from milepost_operator.adapters.postgres.database import Connection, Database, Row, as_uuid
from milepost_operator.adapters.postgres.fences import explain_fence, fenced
from milepost_operator.adapters.postgres.leftout import why_left_out
from milepost_operator.adapters.postgres.queries import Q
from milepost_operator.domain.errors import ConflictError, MilepostError, UnavailableError
from milepost_operator.domain.ids import uuid7
from milepost_operator.domain.objects import StoredObject, Upload
from milepost_operator.domain.runs import PodSession

WRITING_SECONDS: Final = 3600.0
"""After which nobody can still be writing an object, or be about to refer to it."""
SETTLING_SECONDS: Final = 60.0
"""After which a storage is done with an upload that broke off."""
AGAIN_SECONDS: Final = 300.0
"""Before another try to delete an object, unless it is told gone."""


class PostgresObjects:
    """One transaction each. Lock order: the run, its head, then its objects in the order of their ids; an object that
    is not referred to yet may be locked before a head, since only its writer and the sweep know it.
    """

    def __init__(self, db: Database) -> None:
        self._db = db

    async def begin_object(
        self, session: PodSession, fence: Fence, size: int, record: RecordWrite | None
    ) -> Upload | int:
        run_id, object_id = UUID(fence.run_id), uuid7(time.time_ns() // 1_000_000, secrets.token_bytes(10))
        if record is not None:
            refused = await explain_fence(self._db, session, fence)
            if refused is None and (seq := await self._known_seq(run_id, record)) is not None:
                return seq
            why = await self._db.fetchrow(Q["explain_record"], run_id, record.key, record.kind, None)
            if refused or (why and why["known"]):
                raise refused or await why_left_out(self._db, run_id, record)
        key = f"{self._db.settings.object_storage_prefix}{self._db.cluster}/{object_id}"
        begun = await self._db.fetchrow(
            Q["begin_object"],
            run_id,
            fence.attempt,
            fence.token,
            session.pod_id,
            object_id,
            key,
            size,
            record is not None,
            WRITING_SECONDS,
            self._db.cluster,
        )
        if begun is None:
            raise await self._why_no_object(session, fence, record)
        return Upload(object_id, key, size)

    async def append_object(
        self, session: PodSession, fence: Fence, record: RecordWrite, upload: Upload, sha256: bytes
    ) -> int:
        run_id = UUID(fence.run_id)

        async def work(connection: Connection) -> int | None:
            if not await connection.fetch(Q["usable_objects"], [upload.object_id], False):
                raise UnavailableError("the object was swept before its record came: send the value again")
            seq: int | None = await connection.fetchval(
                Q["append_object"],
                run_id,
                fence.attempt,
                fence.token,
                session.pod_id,
                record.write_id,
                record.kind,
                record.key,
                record.types,
                record.fingerprint,
                upload.size,
                record.failed,
                upload.object_id,
                sha256,
            )
            return seq

        try:
            seq = await self._db.transaction(work)
        except asyncpg.UniqueViolationError:  # somebody wrote it while we waited for the head
            seq = None
        if seq is not None:
            return seq
        await self.abandon_object(upload.object_id)
        if (known := await self._known_seq(run_id, record)) is not None:
            return known
        raise await self._why_no_object(session, fence, record)

    async def _known_seq(self, run_id: UUID, record: RecordWrite) -> int | None:
        row = await self._db.fetchrow(Q["record_by_write"], run_id, record.write_id, record.key, record.kind)
        return int(row["seq"]) if row else None

    async def _why_no_object(self, session: PodSession, fence: Fence, record: RecordWrite | None) -> MilepostError:
        """Why there is no object, or no record, for this attempt."""
        refused = await explain_fence(self._db, session, fence)
        if refused is None and record is not None:
            return await why_left_out(self._db, UUID(fence.run_id), record)
        return refused or fenced(fence)

    async def object_stored(self, object_id: UUID, sha256: bytes) -> None:
        await self._db.fetch(Q["object_stored"], object_id, sha256)

    async def abandon_object(self, object_id: UUID) -> None:
        await self._db.fetch(Q["abandon_object"], object_id, SETTLING_SECONDS)

    async def object_of_record(self, fence: Fence, seq: int) -> StoredObject | None:
        return _stored(await self._db.fetchrow(Q["object_of_record"], UUID(fence.run_id), seq))

    async def object_of_result(self, run_id: UUID) -> StoredObject | None:
        return _stored(await self._db.fetchrow(Q["object_of_result"], run_id))

    async def unused_objects(self, limit: int) -> Sequence[Upload]:
        async def work(connection: Connection) -> Sequence[Row]:
            due = await connection.fetch(Q["due_objects"], self._db.cluster, limit)
            ids = [row["object_id"] for row in due]
            return await connection.fetch(Q["judge_objects"], ids, AGAIN_SECONDS) if ids else []

        rows = await self._db.transaction(work)
        return [Upload(as_uuid(row["object_id"]), row["key"], row["bytes"]) for row in rows if row["unused"]]

    async def objects_gone(self, object_ids: Sequence[UUID]) -> None:
        await self._db.fetch(Q["objects_gone"], list(object_ids))


async def refused_results(connection: Connection, named: dict[UUID, UUID]) -> dict[UUID, MilepostError]:
    """Per run, why the object that it names as its result can't be that. Those that can are locked."""
    rows = await connection.fetch(Q["usable_objects"], list(named.values()), True)
    usable = {(as_uuid(row["run_id"]), as_uuid(row["object_id"])) for row in rows}
    message = "no object {} was stored for a result of this run: send the result again"
    return {
        run_id: ConflictError("unknown-object", message.format(object_id))
        for run_id, object_id in named.items()
        if (run_id, object_id) not in usable
    }


def _stored(row: Row | None) -> StoredObject | None:
    return None if row is None else StoredObject(row["key"], row["bytes"], row["sha256"])
