"""Port `QueueReads`: queues as people see them, and why a run waits. What is read is bounded whatever the backlog."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

import orjson

from milepost_operator.adapters.postgres.breaker import breaker_of, policy_of
from milepost_operator.adapters.postgres.database import Database, Row
from milepost_operator.adapters.postgres.endings import retry_of
from milepost_operator.adapters.postgres.queries import Q
from milepost_operator.domain.breaker import Phase
from milepost_operator.domain.errors import NotFoundError
from milepost_operator.domain.queues import MAX_DEPTH_COUNTED, BreakerView, Override, QueueView
from milepost_operator.domain.states import RunState
from milepost_operator.domain.why import (
    MAX_AHEAD,
    Facts,
    Pause,
    PodFacts,
    QueueFacts,
    RateUse,
    Usage,
    WaitOn,
    Why,
    decide,
)


class PostgresQueueReads:
    """What is in the queues, and why."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def get_queue(self, namespace: str, name: str) -> QueueView:
        rows = await self._db.fetch(Q["queue_views"], self._db.cluster, namespace, name, MAX_DEPTH_COUNTED)
        if not rows:
            raise NotFoundError(f"no Queue {name} in namespace {namespace}")
        return _view(rows[0])

    async def list_queues(self, namespace: str | None) -> Sequence[QueueView]:
        rows = await self._db.fetch(Q["queue_views"], self._db.cluster, namespace, None, MAX_DEPTH_COUNTED)
        return [_view(row) for row in rows]

    async def why(self, run_id: UUID) -> Why | None:
        run = await self._db.fetchrow(Q["why_run"], run_id)
        if run is None:
            raise NotFoundError(f"no run {run_id}")
        return decide(await self._facts(run))

    async def _facts(self, run: Row) -> Facts:
        state = RunState(run["state"])
        place: Row = None
        semaphores: list[Usage] = []
        waits: Sequence[Row] = ()
        if state is RunState.QUEUED and run["queue_found"]:
            place = await self._db.fetchrow(Q["why_place"], run["run_id"], MAX_AHEAD)
            semaphores = await self._semaphores(run)
        elif state is RunState.SUSPENDED:
            waits = await self._db.fetch(Q["why_waits"], run["run_id"])
        held = timedelta(seconds=self._db.settings.held_seconds)
        return Facts(
            now=run["now"],
            state=state,
            task=run["task"],
            queue_name=run["queue"],
            queue=_queue(run, place) if run["queue_found"] else None,
            noted=run["reason"],
            message=run["message"],
            ready_at=run["ready_at"],
            held_until=run["held_at"] + held if run["held_at"] else None,
            attempt=run["attempt"],
            next_cause=run["next_cause"],
            counted=run["attempts_counted"],
            max_attempts=retry_of(run["retry"]).max_attempts,
            bumped=run["bumped_at"] is not None,
            pod=PodFacts(run["pod_state"], run["pod_since"]) if run["pod_state"] else None,
            waits=[WaitOn(w["kind"], w["name"], w["until"]) for w in waits],
            cancel_deadline_at=run["cancel_deadline_at"],
            concurrency_key=run["concurrency_key"],
            key=_usage(run["concurrency_key"], run["key_concurrency"], place, "key_running"),
            task_use=_usage(run["task"], run["task_limit"], place, "task_running"),
            global_use=_usage("", place["global_limit"] if place else None, place, "global_running"),
            ahead=place["ahead"] if place else 0,
            semaphores=semaphores,
            rates=_rates(run, place),
        )

    async def _semaphores(self, run: Row) -> list[Usage]:
        asked = orjson.loads(run["semaphores"]) if run["semaphores"] else []
        if not asked:
            return []
        units = {one["name"]: one.get("units") or 1 for one in asked}
        rows = await self._db.fetch(Q["why_semaphores"], run["cluster"], run["namespace"], list(units))
        return [Usage(r["name"], r["most"], r["most"] - r["room"], min(units[r["name"]], r["most"])) for r in rows]


def _view(row: Row) -> QueueView:
    policy, breaker = policy_of(row["breaker"]), breaker_of(row)
    override = row["override_concurrency"]
    return QueueView(
        namespace=row["namespace"],
        name=row["name"],
        depth=row["depth"],
        running=row["running"],
        limit=row["concurrency"] if override is None else override,
        spec_limit=row["concurrency"],
        override=None if override is None else Override(override, row["override_by"], row["override_at"]),
        oldest_at=row["oldest_at"],
        pause=_pause(row),
        rate=_rate(row["rate"], row["rate_free_at"]),
        rate_used=row["rate_used"],
        breaker=BreakerView(policy, breaker.phase, len(breaker.failures), breaker.passed, breaker.since, breaker.until)
        if policy
        else None,
    )


def _queue(run: Row, place: Row) -> QueueFacts:
    phase = run["breaker_phase"]
    return QueueFacts(
        name=run["queue"],
        limit=run["queue_limit"],
        running=place["running"] if place else 0,
        pause=_pause(run),
        open_until=run["breaker_until"] if phase == Phase.OPEN and run["breaker"] else None,
        probe_room=run["probe_room"] if phase == Phase.HALF_OPEN and run["breaker"] else None,
        probing=place["probing"] if place else 0,
    )


def _pause(row: Row) -> Pause | None:
    if not row["paused"]:
        return None
    if row["paused_by"] is None:
        return Pause(row["held_since"])
    return Pause(row["paused_at"], row["paused_by"], row["pause_reason"])


def _rate(text: str | None, free_at: datetime | None, *, key: bool = False) -> RateUse | None:
    if text is None:
        return None
    rate = orjson.loads(text)
    return RateUse(rate["limit"], rate["periodSeconds"], free_at, key)


def _rates(run: Row, place: Row) -> list[RateUse]:
    if not place or run["next_cause"] not in {"first", "retry"}:
        return []  # what goes on after a wait or a loss needs no token
    found = (_rate(run["rate"], place["rate_at"]), _rate(run["key_rate"], place["key_rate_at"], key=True))
    return [rate for rate in found if rate and rate.free_at]


def _usage(name: str, limit: int | None, place: Row, column: str) -> Usage | None:
    """None: there is no such limit, or nothing was counted."""
    if limit is None or not place or place[column] is None:
        return None
    return Usage(name, limit, place[column])
