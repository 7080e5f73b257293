"""Port `WarmReads`: what waits for work, and how often that was of use."""

from collections.abc import Mapping, Sequence
from typing import Final

from milepost_operator.adapters.postgres.database import Database
from milepost_operator.adapters.postgres.queries import Q
from milepost_operator.domain.warm_views import WarmView

NEWEST_RUNS: Final = 200
SINCE_SECONDS: Final = 3600.0
"""Hits and misses are those of a Task's newest runs within this."""


class PostgresWarmReads:
    """Read alone; what it costs does not grow with the history."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def warm_view(self, namespace: str | None) -> Sequence[WarmView]:
        rows = await self._db.fetch(Q["warm_views"], self._db.cluster, namespace, NEWEST_RUNS, SINCE_SECONDS)
        return [WarmView(**row) for row in rows]

    async def pods_by_state(self) -> Mapping[str, int]:
        rows = await self._db.fetch(Q["pods_by_state"], self._db.cluster)
        return {row["state"]: row["pods"] for row in rows}
