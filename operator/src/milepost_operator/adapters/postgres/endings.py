"""Ending an attempt inside a transaction: settle, a pod's death, a lapsed lease, a timeout and a cancel all end here.

Lock order: run, attempt, head.
"""

import random

import orjson

from milepost_operator.adapters.postgres.database import Connection, Database, Row, seconds, to_json
from milepost_operator.adapters.postgres.queries import Q
from milepost_operator.domain.runs import Ending, Retry
from milepost_operator.domain.settlement import Next, RunFacts, decide, verdict_of
from milepost_operator.domain.states import TERMINAL, Reason, RunState

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


async def lock_run(connection: Connection, run_id: object) -> Row | None:
    return await connection.fetchrow(Q["lock_run"], run_id)


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


async def end_attempt(
    db: Database,
    connection: Connection,
    run: Row,
    attempt: Row,
    ending: Ending,
    *,
    settled: bool,
    result: str | None = None,
) -> Next:
    """End the live attempt of a locked run and move the run on. `settled`: the pod's own word, with its `result`."""
    head = await connection.fetchrow(Q["head_for_ending"], run["run_id"])
    facts = RunFacts(
        cancel_requested=run["cancel_requested_at"] is not None,
        attempts_counted=run["attempts_counted"],
        infra_streak=run["infra_streak"],
        progressed=head["last_seq"] > attempt["resumed_after"],
        retry=retry_of(run["retry"]),
        infra_budget=db.settings.infra_budget,
    )
    following = decide(facts, ending, random.random())  # noqa: S311  jitter, not a secret
    await connection.execute(
        Q["end_attempt"],
        run["run_id"],
        attempt["attempt"],
        settled,
        ending.reason,
        ending.message,
        ending.counted,
        ending.infra,
        to_json(dict(ending.evidence)),
        verdict_of(ending, cancel_requested=facts.cancel_requested),
    )
    await connection.execute(Q["fence_off"], run["run_id"])
    succeeded = following.state is RunState.SUCCEEDED
    await connection.execute(
        Q["after_attempt"],
        run["run_id"],
        following.state,
        following.reason,
        following.message,
        following.attempts_counted,
        following.infra_streak,
        following.dead_lettered,
        _next_cause(attempt, ending),
        result if succeeded else None,
        None if succeeded or ending.error is None else to_json(dict(ending.error)),
        seconds(following.delay_seconds),
    )
    await connection.execute(Q["pod_to_closing"], attempt["pod_id"])
    await _tell(connection, run, attempt, ending, following)
    return following


def _next_cause(attempt: Row, ending: Ending) -> str:
    """An attempt that was put back before it began will be what it would have been."""
    if ending.reason is Reason.PAUSED:
        return str(attempt["cause"])
    if ending.hold or ending.reason is Reason.SUSPENDED:
        return "resume"
    return "infra" if ending.infra else "retry"


async def _tell(connection: Connection, run: Row, attempt: Row, ending: Ending, following: Next) -> None:
    number = attempt["attempt"]
    if following.reason is Reason.PAUSED:
        return  # one pause would be an Event for each run: the queue tells of it
    if following.state in TERMINAL:
        bad = following.state in {RunState.FAILED, RunState.TIMED_OUT, RunState.EXPIRED}
        message = f"attempt {number}: {following.reason}: {following.message}" if bad else following.message
        event = _FINISHED_EVENT[following.state]
        await add_event(connection, run["run_id"], event, message, warning=bad, terminal=True)
        return
    if following.state is RunState.SUSPENDED:
        await add_event(connection, run["run_id"], "RunSuspended", f"attempt {number} {ending.message}")
        return
    if following.state is RunState.HELD:
        message = f"attempt {number}: {following.message}"
        await add_event(connection, run["run_id"], "RunHeld", message, warning=True)
        return
    budget = (
        "infrastructure" if ending.infra else f"{following.attempts_counted} of {retry_of(run['retry']).max_attempts}"
    )
    wait = f"next in {following.delay_seconds:.1f} s" if following.delay_seconds else "next at once"
    message = f"attempt {number}: {ending.reason}: {ending.message} (counts: {budget}; {wait})"
    await add_event(connection, run["run_id"], "AttemptFailed", message, warning=True)
