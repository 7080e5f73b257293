"""Object storage, and the rows that say what is in it.

The row comes before its object and goes after it, so that there is no object without a row; what refers to an object is
committed after it is whole, and goes before it.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol
from uuid import UUID

from milepost.wire.pod import Fence, RecordWrite
from milepost_operator.domain.objects import StoredObject, Upload
from milepost_operator.domain.runs import PodSession


class Objects(Protocol):
    """The rows. All raise UnavailableError when Postgres can't answer or commit."""

    async def begin_object(
        self, session: PodSession, fence: Fence, size: int, record: RecordWrite | None
    ) -> Upload | int:
        """Let an attempt write an object for a record, or for its result. A retransmission: the record's seq.

        ForbiddenError, ConflictError `fenced`, `settled`, `step-exists`, or RunLimitError.
        """

    async def append_object(
        self, session: PodSession, fence: Fence, record: RecordWrite, upload: Upload, sha256: bytes
    ) -> int:
        """Commit a record whose value is this object, which is whole. Its seq. Raises as `begin_object` does."""

    async def object_stored(self, object_id: UUID, sha256: bytes) -> None:
        """An object for a result is whole: a settling may name it."""

    async def abandon_object(self, object_id: UUID) -> None:
        """Nothing will refer to it."""

    async def object_of_record(self, fence: Fence, seq: int) -> StoredObject | None: ...

    async def object_of_result(self, run_id: UUID) -> StoredObject | None: ...


class ObjectSweep(Protocol):
    """Of objects that nothing refers to (any more), from any replica at any time."""

    async def unused_objects(self, limit: int) -> Sequence[Upload]:
        """Those to delete now: nothing can refer to them from here on. They come again unless they are told gone."""

    async def objects_gone(self, object_ids: Sequence[UUID]) -> None: ...


class Bucket(Protocol):
    """The storage. UnavailableError: not now; StorageError: not as it is configured."""

    async def put(self, key: str, size: int, pieces: AsyncIterator[bytes]) -> None:
        """Store an object of so many bytes. It is whole once this returns, and only then. What `pieces` raises is
        passed on.
        """

    async def get(self, key: str) -> AsyncIterator[bytes]:
        """Read an object, once it is known to be there. NotFoundError."""

    async def delete(self, key: str) -> None:
        """Have it gone; it may be gone already."""
