"""What runs wait for, told in their objects: the code alone, once it held, and seldom. Numbers are told on request."""

from typing import Final

from milepost_operator.adapters.postgres.database import Database, as_uuid, seconds
from milepost_operator.adapters.postgres.queries import Q
from milepost_operator.adapters.postgres.queueviews import PostgresQueueReads
from milepost_operator.domain.errors import NotFoundError

HELD_SECONDS: Final = 10.0


class PostgresWaiting:
    """The duty that looks why runs wait."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def show_waiting(self, limit: int, held_seconds: float = HELD_SECONDS) -> int:
        due = await self._db.fetch(Q["take_to_note"], self._db.cluster, limit)
        codes = [(row["run_id"], await self._code(row["run_id"])) for row in due]
        known = [(run_id, code) for run_id, code in codes if code]
        if known:
            await self._db.fetch(Q["note_waits"], [run_id for run_id, _ in known], [code for _, code in known])
        shown = await self._db.fetch(Q["show_waits"], self._db.cluster, limit, seconds(held_seconds))
        if shown:
            self._db.wake("project")
        return len(shown)

    async def _code(self, run_id: object) -> str | None:
        try:
            why = await PostgresQueueReads(self._db).why(as_uuid(run_id))
        except NotFoundError:
            return None  # retention was quicker
        return why.code if why else None
