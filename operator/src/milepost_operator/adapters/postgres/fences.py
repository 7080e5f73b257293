"""An attempt's right to write: what a statement compares with the run's head, and why it did not hold."""

from collections.abc import Sequence
from uuid import UUID

from milepost.wire.pod import Fence
from milepost_operator.adapters.postgres.database import Database
from milepost_operator.adapters.postgres.queries import Q
from milepost_operator.domain.errors import ConflictError, ForbiddenError, MilepostError
from milepost_operator.domain.runs import PodSession

Columns = tuple[list[UUID], list[int], list[int], list[str]]


def columns(fences: Sequence[tuple[PodSession, Fence]]) -> Columns:
    """Runs, attempts, tokens and pods: the first arguments of every statement that is fenced."""
    return (
        [UUID(fence.run_id) for _, fence in fences],
        [fence.attempt for _, fence in fences],
        [fence.token for _, fence in fences],
        [session.pod_id for session, _ in fences],
    )


def fenced(fence: Fence) -> ConflictError:
    """What an attempt is told that is not the run's any more."""
    return ConflictError("fenced", f"attempt {fence.attempt} of run {fence.run_id} may no longer write")


async def explain_fence(db: Database, session: PodSession, fence: Fence) -> MilepostError | None:
    """Why a pod may not write for this attempt; None: it may."""
    row = await db.fetchrow(Q["explain_fence"], UUID(fence.run_id), fence.attempt, fence.token)
    if row is None or row["pod_id"] != session.pod_id:
        return ForbiddenError(f"attempt {fence.attempt} of run {fence.run_id} is not of this pod")
    if row["settled"]:
        return ConflictError("settled", f"attempt {fence.attempt} is settled: nothing more can be written")
    return None if row["current"] else fenced(fence)
