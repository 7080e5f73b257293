"""The store for what runs tell while they run. As all ports, see ports.store."""

from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

from milepost.wire.pod import StreamRequest
from milepost_operator.domain.errors import MilepostError
from milepost_operator.domain.runs import Chunk, PodSession


class Streams(Protocol):
    """A run's stream: chunks, numbered from 1 in the order of their commits."""

    async def append_chunks(
        self, requests: Sequence[tuple[PodSession, StreamRequest]]
    ) -> Sequence[list[int] | MilepostError]:
        """Commit chunks of many sidecars; per request their positions, or as `PodStore.append`, or TooLargeError."""

    async def chunks(self, run_id: UUID, after: int, limit: int) -> Sequence[Chunk]:
        """The next chunks after a position: at most `limit`, about 1 MiB, and at least one if there is any."""

    async def told(self, asked: Sequence[tuple[UUID, int]]) -> Sequence[tuple[UUID, int]]:
        """Those of some runs and positions that have a chunk after it, or tell no more."""
