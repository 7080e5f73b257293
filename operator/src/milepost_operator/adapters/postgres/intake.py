"""Port `Intake`: manifests become rows. Runs are made in `triggers`."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from milepost_operator.adapters.postgres.control import sync_pause
from milepost_operator.adapters.postgres.database import Connection, Database, seconds, to_json
from milepost_operator.adapters.postgres.endings import add_event, end_attempt, finish_waiting, lock_run, retry_json
from milepost_operator.adapters.postgres.queries import Q
from milepost_operator.adapters.postgres.schemas import schema_hash
from milepost_operator.domain.errors import NotFoundError
from milepost_operator.domain.runs import DEFAULT_QUEUE, Ending, QueueIntake, Rate, TaskIntake
from milepost_operator.domain.states import TERMINAL, Reason, RunState

_BEGINNING: Final = datetime(1970, 1, 1, tzinfo=UTC)
CANCEL_BATCH: Final = 20
"""Runs that are told to end in one transaction."""


def _shape_hash(shape: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(shape, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def rate_json(rate: Rate | None) -> str | None:
    """As the column `rate` holds it: {"limit", "periodSeconds", "algorithm", "burst"}."""
    if rate is None:
        return None
    made = {"limit": rate.limit, "periodSeconds": rate.period_seconds, "algorithm": rate.algorithm}
    return to_json(made if rate.burst is None else made | {"burst": rate.burst})


class PostgresIntake:
    """Tasks, Queues, and what becomes of Run objects."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def apply_task(self, task: TaskIntake) -> int:
        schemas = {
            name: (schema_hash(text), text)
            for name, text in (("inputSchema", task.input_schema), ("outputSchema", task.output_schema))
            if text is not None
        }
        shape = dict(task.shape) | {name: digest for name, (digest, _) in schemas.items()}

        async def work(connection: Connection) -> int:
            key = (self._db.cluster, task.namespace, task.name)
            await connection.execute("select pg_advisory_xact_lock(hashtextextended($1, 0))", "/".join(key))
            before = await connection.fetchrow(Q["lock_task"], *key)
            if before and before["uid"] == task.uid and before["generation"] > task.generation:
                return int(before["version"])
            if task.queue == DEFAULT_QUEUE:
                await self._ensure_default_queue(connection, task.namespace)
            for digest, text in sorted(schemas.values()):
                await connection.execute(Q["put_schema"], digest, text)
            version: int = await connection.fetchval(
                Q["upsert_version"], *key, _shape_hash(shape), json.dumps(shape, ensure_ascii=False)
            )
            semaphores = to_json([asdict(s) for s in task.semaphores]) if task.semaphores else None
            limits_before = (before["concurrency"], before["semaphores"]) if before else (None, None)
            if (task.concurrency, semaphores) != limits_before:
                await connection.execute(Q["lock_queues"], self._db.cluster, task.namespace)
            await connection.execute(
                Q["upsert_task"],
                *key,
                task.uid,
                task.generation,
                version,
                task.queue,
                retry_json(task.retry),
                to_json(asdict(task.timeouts)),
                task.concurrency,
                semaphores,
                task.on_change,
                shape.get("inputSchema"),
                task.versioning,
            )
            limits = [to_json(dict(told)) for told in (task.retention, task.record_limits, task.warm)]
            network = None if task.network is None else to_json(dict(task.network))
            await connection.execute(Q["set_limits"], *key, *limits, network, task.prepull)
            await connection.execute(Q["begin_checks"], *key)
            await connection.execute(Q["restart_pods"], *key, task.restart)
            return version

        version = await self._db.transaction(work)
        await self._unpin(task.namespace, task.name)
        self._db.wake("admit", "offer", "prewarm")
        return version

    async def _unpin(self, namespace: str, name: str) -> None:
        """Let the runs that wait hear that their Task wants its latest version from now on."""
        key = (self._db.cluster, namespace, name)
        if not (row := await self._db.fetchrow(Q["to_unpin"], *key)) or not row[0]:
            return
        await self._in_batches(Q["unpin_waiting"], *key)
        await self._db.fetch(Q["set_unpinned"], *key)

    async def remove_task(self, namespace: str, name: str, uid: str | None = None) -> None:
        await self._db.fetch(Q["remove_task"], self._db.cluster, namespace, name, uid)
        message = f"the Task {name} was deleted: apply it again, or delete the run"
        await self._in_batches(Q["hold_waiting_of_task"], self._db.cluster, namespace, name, message)
        self._db.wake("project")

    async def apply_queue(self, queue: QueueIntake) -> None:
        async def work(connection: Connection) -> None:
            await connection.execute(
                Q["upsert_queue"],
                self._db.cluster,
                queue.namespace,
                queue.name,
                queue.uid,
                queue.generation,
                queue.concurrency,
                queue.key_concurrency,
                rate_json(queue.rate),
                rate_json(queue.key_rate),
                queue.max_depth,
                queue.paused,
            )
            breaker = None if queue.breaker is None else to_json(asdict(queue.breaker))
            await connection.execute(
                Q["set_breaker_policy"], self._db.cluster, queue.namespace, queue.name, queue.generation, breaker
            )
            pause_on = sorted(queue.pause_on)
            await connection.execute(
                Q["set_pause_on"], self._db.cluster, queue.namespace, queue.name, queue.generation, pause_on
            )
            await sync_pause(self._db, connection, (self._db.cluster, queue.namespace, queue.name))

        await self._db.transaction(work)
        self._db.wake("admit")

    async def remove_queue(self, namespace: str, name: str, uid: str | None = None) -> None:
        async def reset(connection: Connection) -> None:
            limit = self._db.settings.default_queue_concurrency
            if await connection.fetchval(Q["reset_default_queue"], self._db.cluster, namespace, limit, uid):
                await sync_pause(self._db, connection, (self._db.cluster, namespace, name))

        if name == DEFAULT_QUEUE:
            await self._db.transaction(reset)
        else:
            await self._db.fetch(Q["remove_queue"], self._db.cluster, namespace, name, uid)
            message = f"the Queue {name} was deleted: apply it again, or change the Task's queue"
            await self._in_batches(Q["hold_waiting_of_queue"], self._db.cluster, namespace, name, message)
        self._db.wake("admit", "project")

    async def cancel_run(self, run_id: UUID, who: str) -> None:
        async def work(connection: Connection) -> None:
            if not await self._cancel(connection, run_id, who):
                raise NotFoundError(f"no run {run_id}")

        await self._db.transaction(work)
        self._db.wake("launch", "project")

    async def cancel_many(self, namespace: str, run_ids: Sequence[UUID], who: str) -> int:
        cancelled = 0
        for first in range(0, len(run_ids), CANCEL_BATCH):
            some = sorted(run_ids[first : first + CANCEL_BATCH])

            async def work(connection: Connection, some: Sequence[UUID] = some) -> int:
                open_ones = await connection.fetch(Q["cancellable"], self._db.cluster, namespace, some)
                for row in open_ones:
                    await self._cancel(connection, row["run_id"], who)
                return len(open_ones)

            cancelled += await self._db.transaction(work)
            self._db.wake("launch", "project")
        return cancelled

    async def forget_cr(self, namespace: str, name: str, cr_uid: str) -> None:
        async def work(connection: Connection) -> None:
            row = await connection.fetchrow(Q["run_of_cr"], self._db.cluster, namespace, cr_uid)
            if row is None:
                return
            live = row["state"] not in TERMINAL
            intent = row["intent_uid"] == cr_uid
            if live and intent:
                await self._cancel(connection, row["run_id"], f"deletion of Run {name}")
            await connection.execute(Q["forget_cr"], row["run_id"], live and not intent)

        await self._db.transaction(work)
        self._db.wake("launch", "project")

    async def known_intents(self, namespace: str | None) -> Sequence[tuple[str, str, str]]:
        rows = await self._db.fetch(Q["known_intents"], self._db.cluster, namespace)
        return [(r["namespace"], r["name"], r["intent_uid"]) for r in rows]

    async def known_manifests(self, namespace: str | None) -> Sequence[tuple[str, str, str, str]]:
        rows = await self._db.fetch(Q["known_manifests"], self._db.cluster, namespace)
        return [(r["plural"], r["namespace"], r["name"], r["uid"]) for r in rows]

    async def _in_batches(self, query: str, *arguments: str) -> None:
        """Each batch commits by itself; whoever calls again after a failure goes on with the rest."""
        after: tuple[datetime, UUID] | None = (_BEGINNING, UUID(int=0))
        while after is not None:
            row = await self._db.fetchrow(query, *arguments, *after)
            after = (row["created_at"], row["run_id"]) if row else None

    async def _ensure_default_queue(self, connection: Connection, namespace: str) -> None:
        limit = self._db.settings.default_queue_concurrency
        await connection.execute(Q["default_queue"], self._db.cluster, namespace, limit)

    async def _cancel(self, connection: Connection, run_id: UUID, who: str) -> bool:
        """Cancel a run that has not ended and was not told to; False: there is no such run."""
        run = await lock_run(connection, run_id)
        if run is None:
            return False
        if run["state"] in TERMINAL or run["state"] == RunState.CANCELLING:
            return True
        message = f"cancelled by {who}"
        if run["state"] == RunState.RUNNING:
            grace = seconds(self._db.settings.grace_seconds)
            await connection.execute(Q["begin_cancelling"], run_id, who, grace, message)
            await add_event(connection, run_id, "CancelRequested", message)
            return True
        await connection.execute(Q["mark_cancel"], run_id, who)
        if run["state"] != RunState.ADMITTED:
            await finish_waiting(connection, run, RunState.CANCELLED, Reason.CANCELLED, message)
            return True
        asked = await lock_run(connection, run_id)  # as it is now: asked to end
        attempt = await connection.fetchrow(Q["attempt_for_ending"], run_id, run["attempt"])
        ending = Ending(Reason.CANCELLED, message, counted=False, started=False)
        await end_attempt(self._db, connection, asked, attempt, ending, settled=False)
        return True
