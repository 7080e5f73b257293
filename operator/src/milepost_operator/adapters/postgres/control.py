"""Port `Control`: queues are paused and resized, runs bumped, under the lock that admissions take.

Lock order: queue, run, attempt, head.
"""

from uuid import UUID

from milepost_operator.adapters.postgres.database import Connection, Database, Row, as_uuid
from milepost_operator.adapters.postgres.endings import Ended, end_attempts, lock_run, lock_runs
from milepost_operator.adapters.postgres.queries import Q
from milepost_operator.domain.errors import ConflictError, NotFoundError
from milepost_operator.domain.runs import Ending
from milepost_operator.domain.states import Reason, RunState

Key = tuple[str, str, str]
"""Cluster, namespace and name of a queue."""


class PostgresControl:
    """What people change while the engine runs."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def pause_queue(self, namespace: str, name: str, who: str, reason: str = "") -> int:
        key = (self._db.cluster, namespace, name)

        async def work(connection: Connection) -> int:
            await _locked(connection, key)
            await connection.execute(Q["pause_queue"], *key, who, reason)
            return await sync_pause(self._db, connection, key)

        put_back = await self._db.transaction(work)
        self._db.wake("launch", "project")
        return put_back

    async def resume_queue(self, namespace: str, name: str) -> None:
        key = (self._db.cluster, namespace, name)

        async def work(connection: Connection) -> None:
            queue = await _locked(connection, key)
            if queue["paused_by"] is None and queue["spec_paused"]:
                message = f"queue {name} is paused by its manifest: apply the Queue with spec.paused false"
                raise ConflictError("paused-by-manifest", message)
            await connection.execute(Q["unpause_queue"], *key)
            await sync_pause(self._db, connection, key)

        await self._db.transaction(work)
        self._db.wake("admit")

    async def change_queue(self, namespace: str, name: str, who: str, concurrency: int | None) -> None:
        if not await self._db.fetchrow(Q["override_queue"], self._db.cluster, namespace, name, who, concurrency):
            raise _missing(namespace, name)
        self._db.wake("admit")

    async def bump_run(self, run_id: UUID) -> None:
        async def work(connection: Connection) -> None:
            run = await lock_run(connection, run_id)
            if run is None:
                raise NotFoundError(f"no run {run_id}")
            if not await connection.fetchval(Q["bump_run"], run_id):
                message = f"run {run['name']} is {run['state']}: only a run that is queued can be bumped"
                raise ConflictError("not-waiting", message)

        await self._db.transaction(work)
        self._db.wake("admit")


async def sync_pause(db: Database, connection: Connection, key: Key) -> int:
    """Stop or start a queue as its row now says, in the transaction that changed the row. Returns the runs put back."""
    queue = await _locked(connection, key)
    stopped = queue["paused_by"] is not None or queue["spec_paused"]
    if stopped and queue["held_since"] is None:
        await connection.execute(Q["stop_queue"], *key)
        return await _put_back(db, connection, key)
    if not stopped and queue["held_since"] is not None:
        await connection.execute(Q["start_queue"], *key, queue["now"])
    return 0


async def _put_back(db: Database, connection: Connection, key: Key) -> int:
    """Runs whose attempt has not started are queued again, in their old place. A pod that starts meanwhile is before us
    at the lock of its run, or finds its attempt ended: exactly one of both happens. All runs are locked before any is
    queued, which takes the lock of its key.
    """
    ending = Ending(Reason.PAUSED, f"queue {key[2]} was paused before it started", counted=False, started=False)
    found = [as_uuid(row["run_id"]) for row in await connection.fetch(Q["reserved_runs"], *key)]
    locked, _ = await lock_runs(connection, found, wait=True)
    runs = {run_id: run for run_id, run in locked.items() if run["state"] == RunState.ADMITTED}
    numbers = [run["attempt"] for run in runs.values()]
    attempts = await connection.fetch(Q["attempts_for_ending"], list(runs), numbers)
    ended = [
        Ended(runs[as_uuid(attempt["run_id"])], attempt, attempt["last_seq"], ending, settled=False)
        for attempt in attempts
        if attempt["state"] == "reserved"
    ]
    if ended:
        await end_attempts(db, connection, ended)
    return len(ended)


async def _locked(connection: Connection, key: Key) -> Row:
    queue = await connection.fetchrow(Q["lock_queue_to_change"], *key)
    if queue is None:
        raise _missing(*key[1:])
    return queue


def _missing(namespace: str, name: str) -> NotFoundError:
    return NotFoundError(f"no Queue {name} in namespace {namespace}")
