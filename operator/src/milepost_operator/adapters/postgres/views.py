"""Ports `Projections` and `Reads`: rows as the projector, the API and people see them."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import orjson

from milepost_operator.adapters.postgres.database import Database, Row, as_uuid, seconds
from milepost_operator.adapters.postgres.endings import retry_of
from milepost_operator.adapters.postgres.migrate import SchemaError, migrations
from milepost_operator.adapters.postgres.queries import Q
from milepost_operator.domain.errors import NotFoundError
from milepost_operator.domain.runs import AttemptView, Projection, RunEvent, RunView
from milepost_operator.domain.states import RunState


class PostgresProjections:
    """What the projector writes and what it has written."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def due(self, limit: int, progress_seconds: float) -> Sequence[Projection]:
        behind = await self._db.fetch(Q["due"], self._db.cluster, limit, seconds(progress_seconds))
        if not behind:
            return []
        rows = await self._db.fetch(Q["view_columns"] + "\nwhere r.run_id = any($1)", [r["run_id"] for r in behind])
        return [Projection(_view(row), row["cr_uid"], row["projected_rev"], await self._events(row)) for row in rows]

    async def projected(
        self, run_id: UUID, rev: int, cr_uid: str | None, events_upto: int, shown: RunView | None = None
    ) -> None:
        progress = (shown.last_seq, shown.progress) if shown else (None, None)
        await self._db.fetch(Q["projected"], run_id, rev, cr_uid, events_upto, *progress)

    async def lost_crs(self, present: Sequence[str], before: datetime) -> int:
        await self._db.fetch(Q["forget_absent_crs"], self._db.cluster, list(present), before)
        return len(await self._db.fetch(Q["lost_crs"], self._db.cluster, list(present), before))

    async def _events(self, row: Row) -> Sequence[RunEvent]:
        events = await self._db.fetch(Q["new_events"], row["run_id"], row["events_upto"])
        return [RunEvent(e["seq"], e["reason"], e["message"], e["warning"], e["at"]) for e in events]


class PostgresReads:
    """Runs by name and by id."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def get_run(self, namespace: str, run: str) -> RunView:
        conditions = "r.cluster = $1 and r.namespace = $2 and r.name = $3"
        key: object = run
        try:
            key = UUID(run)
            conditions = "r.cluster = $1 and r.namespace = $2 and r.run_id = $3"
        except ValueError:
            pass  # not an id: a name
        row = await self._db.fetchrow(f"{Q['view_columns']}\nwhere {conditions}", self._db.cluster, namespace, key)
        if row is None:
            raise NotFoundError(f"no run {run} in namespace {namespace}")
        return _view(row)

    async def get_attempts(self, run_id: UUID) -> Sequence[AttemptView]:
        rows = await self._db.fetch(Q["attempts_of"], run_id)
        return [
            AttemptView(
                r["attempt"],
                r["cause"],
                r["state"],
                r["reason"],
                r["message"],
                r["counted"],
                r["pod_id"],
                r["resumed_after"],
                r["started_at"],
                r["ended_at"],
                orjson.loads(r["evidence"]),
            )
            for r in rows
        ]

    async def ready(self) -> None:
        row = await self._db.fetchrow(Q["schema_version"])
        known = len(migrations())
        if row is None or (row["number"] or 0) < known:
            raise SchemaError(f"the schema is at {row and row['number']}, this release needs {known}: run migrate")


def _view(row: Row) -> RunView:
    return RunView(
        run_id=as_uuid(row["run_id"]),
        namespace=row["namespace"],
        name=row["name"],
        task=row["task"],
        queue=row["queue"],
        state=RunState(row["state"]),
        reason=row["reason"],
        message=row["message"],
        rev=row["rev"],
        attempt=row["attempt"],
        attempts_counted=row["attempts_counted"],
        max_attempts=retry_of(row["retry"]).max_attempts,
        version=row["version"],
        origin=row["origin"],
        intent_uid=row["intent_uid"],
        tags=list(row["tags"]),
        idempotency_key=row["idempotency_key"],
        pod_id=row["pod_id"],
        pod_name=row["pod_name"],
        last_seq=row["last_seq"],
        last_key=row["last_key"],
        resumed_after=row["resumed_after"],
        progress=row["progress"],
        progress_message=row["progress_message"],
        input=row["input"],
        result=row["result"],
        error=orjson.loads(row["error"]) if row["error"] else None,
        dead_lettered=row["dead_lettered"],
        created_at=row["created_at"],
        ready_at=row["ready_at"],
        admitted_at=row["admitted_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        origin_run=row["origin_run"] and as_uuid(row["origin_run"]),
        origin_seq=row["origin_seq"],
        redriven_by=row["redriven_by"] and as_uuid(row["redriven_by"]),
        result_bytes=row["result_bytes"],
    )
