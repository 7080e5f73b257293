"""Port `Intake`: manifests and triggers become rows."""

import hashlib
import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Final
from uuid import UUID

from milepost_operator.adapters.postgres.control import sync_pause
from milepost_operator.adapters.postgres.database import Connection, Database, as_uuid, seconds, to_json
from milepost_operator.adapters.postgres.endings import add_event, end_attempt, finish_waiting, lock_run
from milepost_operator.adapters.postgres.queries import Q
from milepost_operator.domain.errors import ConflictError, NotFoundError
from milepost_operator.domain.ids import NAME_SUFFIX_BYTES, run_name, uuid7
from milepost_operator.domain.inputs import input_hash
from milepost_operator.domain.runs import DEFAULT_QUEUE, Created, Ending, NewRun, QueueIntake, TaskIntake
from milepost_operator.domain.states import TERMINAL, Reason, RunState

CANCEL_BATCH: Final = 20
"""Runs that are told to end in one transaction."""

_ADOPTED = (
    "this Run shows the {state} run of its name, task and input, which is not run again:"
    " to run it again, choose another name (metadata.generateName gives a fresh one each time)"
)


def _shape_hash(shape: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(shape, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class PostgresIntake:
    """Tasks, Queues and new runs."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def apply_task(self, task: TaskIntake) -> int:
        shape = dict(task.shape)

        async def work(connection: Connection) -> int:
            key = (self._db.cluster, task.namespace, task.name)
            await connection.execute("select pg_advisory_xact_lock(hashtextextended($1, 0))", "/".join(key))
            version: int = await connection.fetchval(
                Q["upsert_version"], *key, _shape_hash(shape), json.dumps(shape, ensure_ascii=False)
            )
            await connection.execute(
                Q["upsert_task"],
                *key,
                task.uid,
                task.generation,
                version,
                task.queue,
                to_json(asdict(task.retry)),
                to_json(asdict(task.timeouts)),
            )
            await connection.execute(Q["set_retention"], *key, to_json(dict(task.retention)))
            if task.queue == DEFAULT_QUEUE:
                await self._ensure_default_queue(connection, task.namespace)
            return version

        version = await self._db.transaction(work)
        self._db.wake("admit")
        return version

    async def remove_task(self, namespace: str, name: str, uid: str | None = None) -> None:
        async def work(connection: Connection) -> None:
            if not await connection.fetchval(Q["remove_task"], self._db.cluster, namespace, name, uid):
                return
            message = f"the Task {name} was deleted: apply it again, or delete the run"
            await connection.execute(Q["hold_waiting_of_task"], self._db.cluster, namespace, name, message)

        await self._db.transaction(work)
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
            )
            breaker = None if queue.breaker is None else to_json(asdict(queue.breaker))
            await connection.execute(
                Q["set_breaker_policy"], self._db.cluster, queue.namespace, queue.name, queue.generation, breaker
            )
            await sync_pause(self._db, connection, (self._db.cluster, queue.namespace, queue.name))

        await self._db.transaction(work)
        self._db.wake("admit")

    async def remove_queue(self, namespace: str, name: str, uid: str | None = None) -> None:
        async def work(connection: Connection) -> None:
            if name == DEFAULT_QUEUE:
                limit = self._db.settings.default_queue_concurrency
                await connection.execute(Q["reset_default_queue"], self._db.cluster, namespace, limit, uid)
                return
            if not await connection.fetchval(Q["remove_queue"], self._db.cluster, namespace, name, uid):
                return
            message = f"the Queue {name} was deleted: apply it again, or change the Task's queue"
            await connection.execute(Q["hold_waiting_of_queue"], self._db.cluster, namespace, name, message)

        await self._db.transaction(work)
        self._db.wake("admit", "project")

    async def create_run(self, run: NewRun) -> Created:
        async def work(connection: Connection) -> Created:
            existing = await self._existing(connection, run)
            return existing or await self._insert(connection, run)

        try:
            created = await self._db.transaction(work)
        except ConflictError as error:
            if run.intent_uid is None or error.code != "name-taken":
                raise
            # Another replica may have taken the same object in at this moment: then its run is there now.
            created = await self._db.transaction(work)
        if not created.duplicate:
            self._db.wake("admit")
        return created

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

    async def _ensure_default_queue(self, connection: Connection, namespace: str) -> None:
        limit = self._db.settings.default_queue_concurrency
        await connection.execute(Q["default_queue"], self._db.cluster, namespace, limit)

    async def _existing(self, connection: Connection, run: NewRun) -> Created | None:
        """The run that this trigger already made, by the CR's uid or by the name it carries."""
        if run.intent_uid is None:
            return None
        if made := await self._by_intent(connection, run):
            return made
        row = await connection.fetchrow(Q["run_to_adopt"], self._db.cluster, run.namespace, run.adopt_run_id, run.name)
        if row is None:
            return None
        if row["task"] != run.task or row["input_hash"] != input_hash(run.input):
            raise ConflictError(
                "name-taken",
                f"the run {row['name']} of this namespace exists with another task or input: choose another name"
                " (metadata.generateName gives a fresh one each time)",
            )
        if row["name"] == run.name:  # a copy under another name is a duplicate, and takes no run from its object
            await connection.execute(Q["adopt_run"], row["run_id"], run.intent_uid)
            if RunState(row["state"]) in TERMINAL:
                await add_event(connection, row["run_id"], "RunAdopted", _ADOPTED.format(state=row["state"]))
        return Created(as_uuid(row["run_id"]), row["name"], RunState(row["state"]), duplicate=True)

    async def _by_intent(self, connection: Connection, run: NewRun) -> Created | None:
        row = await connection.fetchrow(Q["run_by_intent"], self._db.cluster, run.intent_uid)
        return row and Created(as_uuid(row["run_id"]), row["name"], RunState(row["state"]), duplicate=True)

    async def _insert(self, connection: Connection, run: NewRun) -> Created:
        run_id = uuid7(time.time_ns() // 1_000_000, secrets.token_bytes(10))
        name = run.name or run_name(run.task, secrets.token_bytes(NAME_SUFFIX_BYTES))
        digest = input_hash(run.input)
        if run.idempotency_key is not None:
            owner = await self._claim_key(connection, run, run_id, name, digest)
            if owner:
                return owner
        policy = await connection.fetchrow(Q["task_policy"], self._db.cluster, run.namespace, run.task)
        state, reason, message = RunState.QUEUED, None, None
        if policy is None:
            state, reason = RunState.HELD, Reason.TASK_NOT_FOUND
            message = f"no Task {run.task} in namespace {run.namespace}: apply it, or delete the run"
        elif policy["queue_found"] is None:
            state, reason = RunState.HELD, Reason.QUEUE_NOT_FOUND
            message = f"no Queue {policy['queue']} in namespace {run.namespace}: apply it, or change the Task's queue"
        inserted = await connection.fetchval(
            Q["insert_run"],
            run_id,
            self._db.cluster,
            run.namespace,
            name,
            run.task,
            policy["queue"] if policy else DEFAULT_QUEUE,
            state,
            reason,
            message,
            run.input,
            digest,
            list(run.tags),
            run.idempotency_key,
            policy["retry"] if policy else None,
            policy["timeouts"] if policy else None,
            run.origin,
            run.intent_uid,
        )
        if inserted is None:
            # two leaders at a hand-over may take in one CR at the same moment: the other one was first
            if made := await self._by_intent(connection, run):
                return made
            raise ConflictError("name-taken", f"a run {name} exists in namespace {run.namespace}: choose another name")
        await connection.execute(Q["insert_head"], run_id)
        return Created(run_id, name, state, duplicate=False)

    async def _claim_key(
        self, connection: Connection, run: NewRun, run_id: UUID, name: str, digest: bytes
    ) -> Created | None:
        """None: the key is ours now. Else the run that owns it."""
        key = (self._db.cluster, run.namespace, run.task, run.idempotency_key)
        lifetime = seconds(self._db.settings.idempotency_seconds)
        if await connection.fetchval(Q["claim_key"], *key, run_id, name, digest, lifetime):
            return None
        owner = await connection.fetchrow(Q["key_owner"], *key)
        if owner["input_hash"] != digest:
            raise ConflictError(
                "idempotency-mismatch",
                f"idempotencyKey {run.idempotency_key!r} belongs to run {owner['run_name']}, which has another input:"
                " use another key, or the same input",
            )
        return Created(as_uuid(owner["run_id"]), owner["run_name"], RunState(owner["state"]), duplicate=True)

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
