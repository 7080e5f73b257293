"""Values in object storage."""

from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Upload:
    """An object of `size` bytes whose row is there, under this key of the bucket."""

    object_id: UUID
    key: str
    size: int


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object that something refers to. `sha256`: of all its `size` bytes."""

    key: str
    size: int
    sha256: bytes
