"""What pods say of the end of their attempts: many at once, each by its own fence.

Lock order: runs, then attempts and heads, each in the order of the runs' ids.
"""

from collections.abc import Mapping, Sequence
from uuid import UUID

from milepost.wire.pod import Fence, SettleRequest
from milepost_operator.adapters.postgres.database import Connection, Database, Row, as_uuid
from milepost_operator.adapters.postgres.endings import Ended, end_attempts, lock_runs
from milepost_operator.adapters.postgres.fences import fenced
from milepost_operator.adapters.postgres.objects import refused_results
from milepost_operator.adapters.postgres.queries import Q
from milepost_operator.adapters.postgres.suspension import put_waits, strange_wait
from milepost_operator.domain.errors import ForbiddenError, MilepostError
from milepost_operator.domain.runs import PodSession
from milepost_operator.domain.settlement import ending_of
from milepost_operator.domain.states import Reason, RunState
from milepost_operator.domain.suspension import suspended

Settling = tuple[PodSession, SettleRequest]


async def settle_attempts(
    db: Database, connection: Connection, requests: Sequence[Settling], *, wait: bool = True
) -> list[str | MilepostError]:
    """Per request the state of its run, or why it is refused. Not `wait`: a run that is locked is BusyError."""
    answers: dict[int, str | MilepostError] = {}
    waiting = dict(enumerate(requests))
    while waiting:  # of one run's requests (a retransmission) one at a time
        turn: dict[UUID, int] = {}
        for index, (_, request) in waiting.items():
            turn.setdefault(UUID(request.fence.run_id), index)
        answers |= await _settle_runs(db, connection, {index: waiting.pop(index) for index in turn.values()}, wait=wait)
    return [answers[index] for index in range(len(requests))]


async def _settle_runs(
    db: Database, connection: Connection, requests: dict[int, Settling], *, wait: bool
) -> dict[int, str | MilepostError]:
    """At most one request of each run."""
    numbers = {UUID(request.fence.run_id): request.fence.attempt for _, request in requests.values()}
    runs, busy = await lock_runs(connection, list(numbers), wait=wait)
    rows = await connection.fetch(Q["attempts_for_ending"], list(runs), [numbers[run_id] for run_id in runs])
    attempts = {as_uuid(row["run_id"]): row for row in rows}
    answers: dict[int, str | MilepostError] = {}
    ended: dict[UUID, Ended] = {}
    asked = {run_id: request for run_id, (_, request) in zip(numbers, requests.values(), strict=True)}
    results = {run_id: UUID(q.result_object) for run_id, q in asked.items() if q.result_object}
    unusable = await refused_results(connection, results) if results else {}
    for run_id, (index, (session, request)) in zip(numbers, requests.items(), strict=True):
        run, attempt = runs.get(run_id), attempts.get(run_id)
        answer = busy.get(run_id) or _refused(run, attempt, session, request.fence)
        if answer is None:
            answer = unusable.get(run_id)
        if answer is None and request.outcome == "suspended":
            answer = await strange_wait(connection, run_id, request)
        if answer is not None:
            answers[index] = answer
        elif attempt is not None:
            ending = suspended(request) if request.outcome == "suspended" else ending_of(request)
            ended[run_id] = Ended(run, attempt, attempt["last_seq"], ending, True, request.result)
    if ended:
        states = await _end(db, connection, ended, asked, results)
        answers |= {index: states[run_id] for run_id, index in zip(numbers, requests, strict=True) if run_id in states}
    return answers


async def _end(
    db: Database,
    connection: Connection,
    ended: Mapping[UUID, Ended],
    asked: Mapping[UUID, SettleRequest],
    results: Mapping[UUID, UUID],
) -> dict[UUID, RunState]:
    """The runs' states after it. `results`: the objects that hold them, where they are large."""
    endings = [one.ending for one in ended.values()]
    if any(e.reason is Reason.SUSPENDED for e in endings) and any(e.infra for e in endings):
        await connection.execute(Q["tell_keys"], list(ended))
    followings = await end_attempts(db, connection, list(ended.values()))
    states = {run_id: following.state for run_id, following in zip(ended, followings, strict=True)}
    kept = [run_id for run_id, state in states.items() if state is RunState.SUCCEEDED and run_id in results]
    if kept:
        await connection.execute(Q["keep_results"], kept, [results[run_id] for run_id in kept])
    asleep = {run_id: asked[run_id] for run_id, state in states.items() if state is RunState.SUSPENDED}
    woken = await put_waits(connection, asleep) if asleep else set()
    return states | dict.fromkeys(woken, RunState.QUEUED)


def _refused(run: Row | None, attempt: Row | None, session: PodSession, fence: Fence) -> str | MilepostError | None:
    """None when the attempt is the live one of its run; the run's state when this was settled before."""
    if run is None or attempt is None or attempt["pod_id"] != session.pod_id:
        return ForbiddenError(f"attempt {fence.attempt} of run {fence.run_id} is not of this pod")
    if attempt["token"] != fence.token:
        return fenced(fence)
    if attempt["state"] == "ended" and attempt["settled"]:
        return str(run["state"])
    return None if attempt["state"] == "running" else fenced(fence)
