"""The projector against a cluster that refuses."""

from collections.abc import Sequence
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import cast
from uuid import UUID, uuid4

from milepost_operator.domain.errors import ForbiddenError, UnavailableError
from milepost_operator.domain.runs import Projection, RunEvent
from milepost_operator.ports.kube import Objects
from milepost_operator.ports.store import Projections
from milepost_operator.reconcile.project import Bucket, Projector
from tests.unit.operator.runs import view


class Failing:
    """Sixty runs are due; the first fifty-five can't be shown now."""

    def __init__(self) -> None:
        self.due_now = {n: Projection(view(UUID(int=n)), "cr", 1, []) for n in range(60)}

    async def due(self, limit: int, _progress: float) -> Sequence[Projection]:
        return list(self.due_now.values())[:limit]

    async def projected(self, run_id: UUID, *_: object) -> None:
        del self.due_now[run_id.int]

    async def patch_status(self, _plural: str, _namespace: str, _name: str, patch: dict[str, dict[str, str]]) -> object:
        if UUID(patch["status"]["runID"]).int < 55:
            raise UnavailableError("not now")
        return {}


async def test_runs_that_can_not_be_shown_now_hold_no_others_up() -> None:
    failing = Failing()
    bucket = Bucket(rate=1e9)
    await Projector(cast("Projections", failing), cast("Objects", failing), bucket, progress_seconds=15).turn()
    assert set(failing.due_now) == set(range(55))


class Store:
    """One run that is due until it is projected."""

    def __init__(self, one: Projection) -> None:
        self.one: Projection | None = one
        self.upto = 0

    async def due(self, _limit: int, _progress: float) -> Sequence[Projection]:
        return [self.one] if self.one else []

    async def projected(self, _run: object, _rev: int, _uid: str | None, upto: int, _shown: object) -> None:
        self.one, self.upto = None, upto


async def test_a_refused_event_does_not_keep_its_run_due_for_ever() -> None:
    """A namespace that is being deleted takes no Events: fifty such runs would keep all others from being shown."""
    event = RunEvent(3, "RunAdmitted", "admitted", False, datetime.now(UTC))
    store = Store(Projection(view(uuid4()), "cr", 1, [event]))

    async def patch_status(*_: object) -> object:
        return {}

    async def create_event(_event: object) -> None:
        raise ForbiddenError("the namespace is being terminated")

    objects = SimpleNamespace(patch_status=patch_status, create_event=create_event)
    projector = Projector(cast("Projections", store), cast("Objects", objects), Bucket(), progress_seconds=15)
    await projector.turn()
    assert (store.one, store.upto) == (None, 3)
