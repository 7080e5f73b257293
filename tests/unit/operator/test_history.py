from collections.abc import Sequence
from uuid import UUID, uuid4

from milepost_operator.domain.errors import ForbiddenError, UnavailableError
from milepost_operator.reconcile.history import BATCH, HistoryLimits
from milepost_operator.reconcile.project import Bucket
from tests.fakes.kube import FakeCluster


class Surplus:
    def __init__(self, cluster: FakeCluster, count: int) -> None:
        self.rows: list[tuple[UUID, str, str, str]] = []
        for n in range(count):
            uid = cluster.put("runs", {"metadata": {"name": f"r{n}"}})["metadata"]["uid"]
            self.rows.append((uuid4(), "team", f"r{n}", uid))

    async def surplus_crs(self, limit: int) -> Sequence[tuple[UUID, str, str, str]]:
        return self.rows[:limit]

    async def cr_deleted(self, run_ids: Sequence[UUID]) -> None:
        self.rows = [row for row in self.rows if row[0] not in run_ids]


def limits(store: Surplus, cluster: FakeCluster) -> HistoryLimits:
    return HistoryLimits(store, cluster, Bucket(10_000.0, 10_000.0))


async def test_surplus_objects_are_deleted_batch_after_batch() -> None:
    cluster = FakeCluster()
    store = Surplus(cluster, BATCH + 3)
    await limits(store, cluster).turn()
    assert (cluster.of("runs"), store.rows) == ([], [])


async def test_an_object_made_again_under_the_name_stays() -> None:
    cluster = FakeCluster()
    store = Surplus(cluster, 1)
    cluster.remove("runs", "team", "r0")
    cluster.put("runs", {"metadata": {"name": "r0"}})
    await limits(store, cluster).turn()
    assert len(cluster.of("runs")) == 1
    assert store.rows == []


async def test_what_can_not_be_deleted_is_kept_for_the_next_turn_and_hinders_no_other() -> None:
    for error in (ForbiddenError("no"), UnavailableError("not now")):
        cluster = FakeCluster()
        store = Surplus(cluster, 3)
        cluster.fail["delete_object"] = [error]
        await limits(store, cluster).turn()
        assert len(store.rows) == len(cluster.of("runs")) == 1
