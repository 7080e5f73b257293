"""Port `NetworkReads`."""

from collections.abc import Sequence

import orjson

from milepost_operator.adapters.postgres.database import Database
from milepost_operator.adapters.postgres.queries import Q
from milepost_operator.ports.network import TaskNetwork


class PostgresNetworks:
    """What Tasks say of the network."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def task_networks(self, namespace: str | None) -> Sequence[TaskNetwork]:
        rows = await self._db.fetch(Q["task_networks"], self._db.cluster, namespace)
        return [
            TaskNetwork(row["namespace"], row["name"], orjson.loads(row["network"]) if row["network"] else None)
            for row in rows
        ]
