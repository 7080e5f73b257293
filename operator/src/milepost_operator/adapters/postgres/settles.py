"""What pods say of the end of their attempts: many at once, each by its own fence.

Lock order: runs, then attempts and heads, each in the order of the runs' ids.
"""

from collections.abc import Sequence
from uuid import UUID

from milepost.wire.pod import Fence, SettleRequest
from milepost_operator.adapters.postgres.database import Connection, Database, Row, as_uuid
from milepost_operator.adapters.postgres.endings import Ended, end_attempts, lock_runs
from milepost_operator.adapters.postgres.fences import fenced
from milepost_operator.adapters.postgres.objects import refused_results
from milepost_operator.adapters.postgres.queries import Q
from milepost_operator.adapters.postgres.suspension import suspend
from milepost_operator.domain.errors import ForbiddenError, MilepostError
from milepost_operator.domain.runs import PodSession
from milepost_operator.domain.settlement import ending_of
from milepost_operator.domain.states import RunState

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
    ended: dict[int, Ended] = {}
    results = {
        run: UUID(q.result_object) for run, (_, q) in zip(numbers, requests.values(), strict=True) if q.result_object
    }
    unusable = await refused_results(connection, results) if results else {}
    for run_id, (index, (session, request)) in zip(numbers, requests.items(), strict=True):
        run, attempt = runs.get(run_id), attempts.get(run_id)
        answer = busy.get(run_id) or _refused(run, attempt, session, request.fence)
        if answer is None:
            answer = unusable.get(run_id)
        if answer is not None:
            answers[index] = answer
        elif request.outcome == "suspended":
            answers[index] = await _suspended(db, connection, run, attempt, request)
        elif attempt is not None:
            ended[index] = Ended(run, attempt, attempt["last_seq"], ending_of(request), True, request.result)
    if ended:
        followings = await end_attempts(db, connection, list(ended.values()))
        kept = {
            as_uuid(one.run["run_id"]): results[as_uuid(one.run["run_id"])]
            for one, following in zip(ended.values(), followings, strict=True)
            if following.state is RunState.SUCCEEDED and as_uuid(one.run["run_id"]) in results
        }
        if kept:
            await connection.execute(Q["keep_results"], list(kept), list(kept.values()))
        answers |= {index: following.state for index, following in zip(ended, followings, strict=True)}
    return answers


def _refused(run: Row | None, attempt: Row | None, session: PodSession, fence: Fence) -> str | MilepostError | None:
    """None when the attempt is the live one of its run; the run's state when this was settled before."""
    if run is None or attempt is None or attempt["pod_id"] != session.pod_id:
        return ForbiddenError(f"attempt {fence.attempt} of run {fence.run_id} is not of this pod")
    if attempt["token"] != fence.token:
        return fenced(fence)
    if attempt["state"] == "ended" and attempt["settled"]:
        return str(run["state"])
    return None if attempt["state"] == "running" else fenced(fence)


async def _suspended(
    db: Database, connection: Connection, run: Row, attempt: Row, request: SettleRequest
) -> str | MilepostError:
    try:
        return await suspend(db, connection, run, attempt, request)
    except MilepostError as error:  # told before anything is written: the others go on
        return error
