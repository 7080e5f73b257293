"""Port `Streams`: what runs tell while they run, fenced in the statement that writes."""

from collections.abc import Sequence
from uuid import UUID

from milepost.wire.pod import StreamRequest
from milepost_operator.adapters.postgres.database import Database
from milepost_operator.adapters.postgres.fences import columns, explain_fence, fenced
from milepost_operator.adapters.postgres.queries import Q
from milepost_operator.domain.errors import MilepostError, TooLargeError
from milepost_operator.domain.runs import Chunk, PodSession


class PostgresStreams:
    """Chunks, in order."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def append_chunks(
        self, requests: Sequence[tuple[PodSession, StreamRequest]]
    ) -> Sequence[list[int] | MilepostError]:
        flat = [(i, s, q.fence, c) for i, (s, q) in enumerate(requests) for c in q.chunks]
        rows = await self._db.fetch(
            Q["append_chunks"],
            *columns([(session, fence) for _, session, fence, _ in flat]),
            [c.write_id for *_, c in flat],
            [c.value for *_, c in flat],
            [len(c.value.encode()) for *_, c in flat],
            list(range(len(flat))),
            self._db.settings.max_stream_bytes,
        )
        answers: list[list[int] | MilepostError] = [[] for _ in requests]
        for row in sorted(rows, key=lambda r: int(r["ord"])):
            index, session, fence, chunk = flat[row["ord"]]
            if isinstance(answer := answers[index], MilepostError):
                continue
            position = row["position"]
            if position is None and row["held"]:
                known = await self._db.fetchrow(Q["chunk_by_write"], UUID(fence.run_id), chunk.write_id)
                position = known["position"] if known else None
            if position is not None:
                answer.append(int(position))
            elif row["held"]:
                answers[index] = self._full()
            else:
                answers[index] = await explain_fence(self._db, session, fence) or fenced(fence)
        return answers

    def _full(self) -> TooLargeError:
        limit = self._db.settings.max_stream_bytes
        return TooLargeError("stream-full", f"a run's stream has at most {limit} bytes (MILEPOST_MAX_STREAM_BYTES)")

    async def chunks(self, run_id: UUID, after: int, limit: int) -> Sequence[Chunk]:
        rows = await self._db.fetch(Q["chunks_page"], run_id, after, limit)
        return [Chunk(row["position"], row["attempt"], row["value"], row["created_at"]) for row in rows]

    async def told(self, asked: Sequence[tuple[UUID, int]]) -> Sequence[tuple[UUID, int]]:
        rows = await self._db.fetch(Q["told"], [run_id for run_id, _ in asked], [after for _, after in asked])
        return [asked[row["ord"] - 1] for row in rows]
