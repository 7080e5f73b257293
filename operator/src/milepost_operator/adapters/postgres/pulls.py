"""Port `Pulls`: which images are pulled ahead, and how far that is."""

from collections.abc import Sequence

import orjson

from milepost_operator.adapters.postgres.database import Connection, Database, Row
from milepost_operator.adapters.postgres.queries import Q
from milepost_operator.domain.errors import DeposedError
from milepost_operator.domain.pulls import PullNote, PullOrder


class PostgresPulls:
    """Rows of pulls; the leader's alone."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def open_pulls(self, epoch: int, limit: int, *, more: bool) -> Sequence[PullOrder]:
        cluster = self._db.cluster

        async def work(connection: Connection) -> Sequence[Row]:
            await _require(connection, cluster, epoch)
            if more:
                await connection.execute(Q["new_pulls"], cluster)
            rows: Sequence[Row] = await connection.fetch(Q["open_pulls"], cluster, limit)
            return rows

        return [
            PullOrder(
                row["pull_id"],
                row["namespace"],
                row["task"],
                row["version"],
                row["state"],
                orjson.loads(row["shape"]),
                row["current"],
                row["age_seconds"],
                orjson.loads(row["network"]) if row["network"] else None,
            )
            for row in await self._db.transaction(work)
        ]

    async def note_pull(self, epoch: int, pull_id: str, note: PullNote) -> None:
        async def work(connection: Connection) -> None:
            await _require(connection, self._db.cluster, epoch)
            await connection.execute(
                Q["note_pull"], self._db.cluster, pull_id, note.state, note.nodes, note.reason, note.message
            )

        await self._db.transaction(work)


async def _require(connection: Connection, cluster: str, epoch: int) -> None:
    current = await connection.fetchval(Q["check_epoch"], cluster)
    if current != epoch:
        raise DeposedError(f"epoch {epoch} is over, {current} leads")
