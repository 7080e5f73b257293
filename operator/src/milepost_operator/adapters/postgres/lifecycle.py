"""Port `Lifecycle`, less the cancels: new runs made of ended ones, and dead letters.

Lock order: the run that is copied, then what is inserted for the new one.
"""

import secrets
import time
from collections.abc import Sequence
from typing import Final, Literal
from uuid import UUID

from milepost_operator.adapters.postgres.database import Connection, Database, Row, as_uuid
from milepost_operator.adapters.postgres.endings import add_event, finish_waiting, lock_run
from milepost_operator.adapters.postgres.queries import Q
from milepost_operator.domain.errors import ConflictError, NotFoundError, PrunedError
from milepost_operator.domain.ids import NAME_SUFFIX_BYTES, run_name, uuid7
from milepost_operator.domain.lifecycle import Copied, Decision, Redriven
from milepost_operator.domain.states import TERMINAL, Reason, RunState

_PRUNED: Final = (
    "the records of run {name} were pruned, so that a copy would do everything again: create a run with its input"
)


class PostgresLifecycle:
    """One transaction for each run that is copied or leaves the dead letters."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def retry_run(self, run_id: UUID, who: str) -> Copied:
        async def work(connection: Connection) -> Copied:
            run = await connection.fetchrow(Q["run_to_copy"], self._db.cluster, run_id)
            if run is None:
                raise NotFoundError(f"no run {run_id}")
            if RunState(run["state"]) not in TERMINAL:
                message = f"run {run['name']} is {run['state']}: cancel it, or wait for its end, before a retry"
                raise ConflictError("not-ended", message)
            if run["dead_lettered"]:
                message = f"run {run['name']} is a dead letter: redrive it (POST /v1/dead-letters/redrive)"
                raise ConflictError("dead-letter", message)
            if await connection.fetchval(Q["records_pruned"], run_id):
                raise PrunedError(_PRUNED.format(name=run["name"]))
            if (live := await connection.fetchval(Q["live_copy"], run_id)) is not None:
                message = f"run {run['name']} goes on as run {live}, which has not ended: wait for it, or cancel it"
                raise ConflictError("already-retried", message)
            copied = await self._copy(connection, run, "retry")
            await add_event(connection, run_id, "RunRetried", f"retried as run {copied.name} by {who}")
            return copied

        copied = await self._db.transaction(work)
        self._db.wake("admit")
        return copied

    async def decide_change(self, run_id: UUID, decision: Decision, who: str) -> None:
        async def work(connection: Connection) -> None:
            run = await lock_run(connection, run_id)
            if run is None:
                raise NotFoundError(f"no run {run_id}")
            if run["state"] != RunState.HELD or run["reason"] != Reason.CODE_CHANGED:
                why = f", {run['reason']}" if run["reason"] else ""
                message = f"run {run['name']} is {run['state']}{why}: it waits for no decision on changed code"
                raise ConflictError("not-held", message)
            if decision == "fail":
                message = f"{run['message']} (decided by {who})"
                await finish_waiting(connection, run, RunState.FAILED, Reason.CODE_CHANGED, message)
                return
            await connection.execute(Q["go_on_after_change"], run_id, decision == "accept")
            told = "accepted" if decision == "accept" else "to be checked again"
            await add_event(connection, run_id, "ChangeDecided", f"changed code {told}: decided by {who}")

        await self._db.transaction(work)
        self._db.wake("admit", "project")

    async def redrive(self, namespace: str, runs: Sequence[str], who: str) -> Sequence[Redriven]:
        done = await self._each(namespace, runs, who, "redrive")
        self._db.wake("admit", "project")
        return done

    async def discard(self, namespace: str, runs: Sequence[str], who: str) -> Sequence[Redriven]:
        done = await self._each(namespace, runs, who, "discard")
        self._db.wake("project")
        return done

    async def _each(
        self, namespace: str, runs: Sequence[str], who: str, how: Literal["redrive", "discard"]
    ) -> Sequence[Redriven]:
        rows = await self._db.fetch(Q["named_runs"], self._db.cluster, namespace, list(runs))
        ids = {row["named"]: row["run_id"] for row in reversed(rows)}
        done = []
        for named in runs:
            if named not in ids:
                done.append(Redriven(named, "not-found"))
                continue

            async def work(connection: Connection, named: str = named) -> Redriven:
                return await self._leave(connection, named, ids[named], who, how)

            done.append(await self._db.transaction(work))
        return done

    async def _leave(
        self, connection: Connection, named: str, run_id: UUID, who: str, how: Literal["redrive", "discard"]
    ) -> Redriven:
        run = await connection.fetchrow(Q["run_to_copy"], self._db.cluster, run_id)
        if run is None:
            return Redriven(named, "not-found")
        if not run["dead_lettered"]:
            return Redriven(named, "not-a-dead-letter", run["redriven_by"] and as_uuid(run["redriven_by"]))
        if how == "discard":
            await connection.execute(Q["leave_dead_letters"], run_id, None, who)
            await add_event(connection, run_id, "DeadLetterDiscarded", f"discarded by {who}")
            return Redriven(named, "discarded")
        if await connection.fetchval(Q["records_pruned"], run_id):
            return Redriven(named, "records-pruned")
        if run["singleton_key"] is not None and (owner := await self._singleton_owner(connection, run)):
            return Redriven(named, "singleton-exists", as_uuid(owner["run_id"]), owner["name"])
        copied = await self._copy(connection, run, "redrive")
        await connection.execute(Q["leave_dead_letters"], run_id, copied.run_id, who)
        await add_event(connection, run_id, "DeadLetterRedriven", f"redriven as run {copied.name} by {who}")
        return Redriven(named, "redriven", copied.run_id, copied.name)

    async def _singleton_owner(self, connection: Connection, run: Row) -> Row | None:
        """The run that has not ended and has the singleton key of `run`."""
        key = (self._db.cluster, run["namespace"], run["task"], run["singleton_key"])
        return await connection.fetchrow(Q["singleton_owner"], *key)

    async def _copy(self, connection: Connection, run: Row, origin: Literal["retry", "redrive"]) -> Copied:
        run_id = uuid7(time.time_ns() // 1_000_000, secrets.token_bytes(10))
        name = run_name(run["task"], secrets.token_bytes(NAME_SUFFIX_BYTES))
        made = await connection.fetchrow(Q["copy_run"], run["run_id"], run_id, name, origin)
        if made is None and (owner := await self._singleton_owner(connection, run)):
            message = (
                f"run {owner['name']} has the singleton key {run['singleton_key']!r}: wait for its end, or cancel it"
            )
            raise ConflictError("singleton-exists", message)
        if made is None:
            raise ConflictError("name-taken", f"a run {name} exists: ask again")
        records: int = await connection.fetchval(Q["copy_head"], run["run_id"], run_id)
        if records:
            await connection.execute(Q["copy_records"], run["run_id"], run_id)
            await connection.execute(Q["copy_object_refs"], run["run_id"], run_id)
        return Copied(
            run_id=run_id,
            name=made["name"],
            namespace=made["namespace"],
            task=made["task"],
            state=RunState(made["state"]),
            origin_run=as_uuid(made["origin_run"]),
            origin_seq=made["origin_seq"],
            records=records,
        )
