"""Ending an attempt inside a transaction: settle, a pod's death, a lapsed lease, a timeout and a cancel all end here.

Lock order: run, attempt, head; of several runs in the order of their ids.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from uuid import UUID

import orjson

from milepost_operator.adapters.postgres.database import Connection, Database, Row, as_uuid, seconds, to_json
from milepost_operator.adapters.postgres.queries import Q
from milepost_operator.domain.causes import explained
from milepost_operator.domain.errors import BusyError
from milepost_operator.domain.runs import Ending, Retry
from milepost_operator.domain.settlement import Next, RunFacts, decide, verdict_of
from milepost_operator.domain.states import OUT_OF_MEMORY, TERMINAL, Reason, RunState
from milepost_operator.domain.warm import PodFacts, WarmPolicy, policy_of, retires
from milepost_operator.manifests.resources import memory_limit

_FINISHED_EVENT = {
    RunState.SUCCEEDED: "RunSucceeded",
    RunState.FAILED: "RunFailed",
    RunState.CANCELLED: "RunCancelled",
    RunState.TIMED_OUT: "RunTimedOut",
    RunState.EXPIRED: "RunExpired",
}


def retry_of(text: str | None) -> Retry:
    """The policy that was copied onto the run."""
    return Retry(**orjson.loads(text)) if text else Retry()


def retry_json(retry: Retry) -> str:
    """As rows keep it. What is not set is left out: the release before this one knows no more names than it has."""
    return to_json({name: value for name, value in asdict(retry).items() if value is not None})


async def lock_run(connection: Connection, run_id: object) -> Row | None:
    return await connection.fetchrow(Q["lock_run"], run_id)


async def lock_free_run(connection: Connection, run_id: object) -> Row | None:
    """As one of `lock_runs`; None: somebody else has it locked, or it is gone."""
    return await connection.fetchrow(Q["lock_free_runs"], [run_id])


async def lock_runs(
    connection: Connection, run_ids: Sequence[UUID], *, wait: bool
) -> tuple[dict[UUID, Row], Mapping[UUID, BusyError]]:
    """Lock these runs; those that are there but locked by somebody else, unless `wait`, are told apart."""
    rows = await connection.fetch(Q["lock_runs" if wait else "lock_free_runs"], run_ids)
    locked = {as_uuid(row["run_id"]): row for row in rows}
    left = [run_id for run_id in run_ids if run_id not in locked]
    if wait or not left:
        return locked, {}
    there = [as_uuid(row["run_id"]) for row in await connection.fetch(Q["runs_there"], left)]
    return locked, {run_id: BusyError(f"another transaction has run {run_id} locked") for run_id in there}


async def add_event(
    connection: Connection,
    run_id: object,
    reason: str,
    message: str,
    *,
    warning: bool = False,
    terminal: bool = False,
) -> None:
    await connection.execute(Q["add_event"], run_id, reason, message, warning, terminal)


async def finish_waiting(connection: Connection, run: Row, state: RunState, reason: str, message: str) -> None:
    """End a run that holds no attempt."""
    await connection.execute(Q["finish_waiting_run"], run["run_id"], state, reason, message)
    event = _FINISHED_EVENT[state]
    await add_event(connection, run["run_id"], event, message, warning=state is not RunState.CANCELLED, terminal=True)


@dataclass(frozen=True, slots=True)
class Ended:
    """The live attempt of a locked run that ends, with its rows. `settled`: by the pod's own word, with its `result`;
    then the attempt's row is one of `attempts_for_ending`, which says whether the pod stays.

    `last_seq`: of the run's newest record.
    """

    run: Row
    attempt: Row
    last_seq: int
    ending: Ending
    settled: bool
    result: str | None = None


async def end_attempt(
    db: Database, connection: Connection, run: Row, attempt: Row, ending: Ending, *, settled: bool
) -> Next:
    """End the live attempt of one locked run, as `end_attempts`."""
    head = await connection.fetchrow(Q["head_for_ending"], run["run_id"])
    (following,) = await end_attempts(db, connection, [Ended(run, attempt, head["last_seq"], ending, settled=settled)])
    return following


async def end_attempts(db: Database, connection: Connection, ended: Sequence[Ended]) -> list[Next]:
    """End live attempts of locked runs and move the runs on; what follows for each."""
    limits = await _memory_limits(db, connection, ended)
    followings = [_decide(db, one, limits) for one in ended]
    rows = [
        (*_row(one, following), _retired(db, one) if one.settled else "lost", following.memory_class)
        for one, following in zip(ended, followings, strict=True)
    ]
    await connection.execute(Q["end_attempts"], *(list(column) for column in zip(*rows, strict=True)))
    return followings


async def _memory_limits(db: Database, connection: Connection, ended: Sequence[Ended]) -> Mapping[UUID, int]:
    """Bytes of memory that those attempts had which ran out of it, by their runs."""
    short = [one for one in ended if one.ending.reason in OUT_OF_MEMORY]
    if not short:
        return {}
    keys = [one.run["run_id"] for one in short], [one.attempt["attempt"] for one in short]
    rows = await connection.fetch(Q["memory_of_attempts"], *keys)
    defaults = db.settings.task_requests, db.settings.task_limits
    return {
        as_uuid(row["run_id"]): memory_limit(orjson.loads(row["resources"] or "{}"), *defaults, row["memory_class"])
        for row in rows
    }


def _decide(db: Database, one: Ended, limits: Mapping[UUID, int]) -> Next:
    facts = RunFacts(
        cancel_requested=one.run["cancel_requested_at"] is not None,
        attempts_counted=one.run["attempts_counted"],
        infra_streak=one.run["infra_streak"],
        progressed=one.last_seq > one.attempt["resumed_after"],
        retry=retry_of(one.run["retry"]),
        infra_budget=db.settings.infra_budget,
        attempt=one.attempt["attempt"],
        memory_class=one.run["memory_class"],
        memory_limit=limits.get(as_uuid(one.run["run_id"]), 0),
    )
    return decide(facts, one.ending, random.random())  # noqa: S311  jitter, not a secret


def _retired(db: Database, one: Ended) -> str | None:
    """Why the pod of a settled attempt ends with it; None: it stays."""
    row = one.attempt
    facts = PodFacts(
        asks=bool(row["reusable"]),
        runs=(row["pod_runs"] or 0) + 1,
        age_seconds=row["pod_age"] or 0.0,
        current=row["current"],
        keeps=row["keeps"],
    )
    return retires(warm_policy(db, row["warm"]), facts, one.ending)


def warm_policy(db: Database, told: str | None) -> WarmPolicy:
    """What becomes of the pods of a Task whose column `warm` is `told`."""
    settings = db.settings
    return policy_of(
        orjson.loads(told or "{}"),
        seconds=settings.warm_seconds,
        most=settings.warm_max,
        total=settings.warm_total,
        least=settings.warm_min,
        predict=settings.warm_predict,
    )


def _row(one: Ended, following: Next) -> tuple[object, ...]:
    """The arguments of `end_attempts` for one attempt, in their order, but the last two."""
    ending, succeeded = one.ending, following.state is RunState.SUCCEEDED
    cancelled = one.run["cancel_requested_at"] is not None
    return (
        one.run["run_id"],
        one.attempt["attempt"],
        one.settled,
        ending.reason,
        ending.message,
        ending.counted,
        ending.infra,
        to_json(dict(ending.evidence)),
        verdict_of(ending, cancel_requested=cancelled),
        following.state,
        following.reason,
        following.message,
        following.attempts_counted,
        following.infra_streak,
        following.dead_lettered,
        _next_cause(one.attempt, ending),
        one.result if succeeded else None,
        None if succeeded or ending.error is None else to_json(dict(ending.error)),
        seconds(following.delay_seconds),
        *_event(one, following),
    )


def _next_cause(attempt: Row, ending: Ending) -> str:
    """An attempt that was put back before it began will be what it would have been."""
    if ending.reason is Reason.PAUSED:
        return str(attempt["cause"])
    if ending.hold or ending.reason in {Reason.SUSPENDED, Reason.STEP_BACKOFF}:
        return "resume"
    return "infra" if ending.infra else "retry"


def _event(one: Ended, following: Next) -> tuple[str | None, str | None, bool, bool]:
    """What is told of it: reason, message, whether it is a warning, whether it ends the run."""
    number, ending = one.attempt["attempt"], one.ending
    cause = explained(following.reason if following.state in TERMINAL else ending.reason)
    advice = f". {cause.advice}" if cause and cause.advice else ""
    if following.reason is Reason.PAUSED:
        return None, None, False, False  # one pause would be an Event for each run: the queue tells of it
    if following.state in TERMINAL:
        bad = following.state in {RunState.FAILED, RunState.TIMED_OUT, RunState.EXPIRED}
        message = f"attempt {number}: {following.reason}: {following.message}{advice}" if bad else following.message
        return _FINISHED_EVENT[following.state], message, bad, True
    if following.state is RunState.SUSPENDED:
        return "RunSuspended", f"attempt {number} {ending.message}", False, False
    if following.state is RunState.HELD:
        return "RunHeld", f"attempt {number}: {following.message}", True, False
    if following.reason is Reason.STEP_BACKOFF:
        wait = f"{following.delay_seconds:.0f} s, counts for nothing"
        return "StepBackoff", f"attempt {number} ended to wait ({wait}): {ending.message}", False, False
    budget = (
        "infrastructure"
        if ending.infra
        else f"{following.attempts_counted} of {retry_of(one.run['retry']).max_attempts}"
    )
    wait = f"next in {following.delay_seconds:.1f} s" if following.delay_seconds else "next at once"
    return (
        "AttemptFailed",
        f"attempt {number}: {ending.reason}: {following.message} (counts: {budget}; {wait}){advice}",
        True,
        False,
    )
