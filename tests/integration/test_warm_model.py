"""A random life of warm pods on a real Postgres, step by step against a small model. Lives are bounded in number."""

import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest

from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.settings import Settings
from tests.integration.warm_model import MAX, TOTAL, World
from tests.seeds import SEED

LIVES = 4
DEEDS = 120


@pytest.fixture
async def stores(settings: Settings) -> AsyncIterator[list[PostgresStore]]:
    """Two replicas."""
    options = settings.model_copy(
        update={"warm_max": MAX, "warm_total": TOTAL, "infra_budget": 99, "lease_seconds": 600.0}
    )
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(PostgresStore.open(options)) for _ in range(2)]


async def test_warm_pods_do_what_the_model_says(
    stores: list[PostgresStore], record_property: Callable[[str, object], None]
) -> None:
    told: Counter[str] = Counter()
    for number in range(SEED, SEED + LIVES):
        world = World(stores, random.Random(number))
        for table in ("runs", "pods", "tasks", "task_versions"):
            await stores[0]._db.fetch(f"delete from {table}")
        try:
            await world.begin()
            await world.live(DEEDS)
        except BaseException as error:
            error.add_note(f"MILEPOST_TEST_SEED={number} lives it again")
            raise
        told += world.told
    record_property("deeds", dict(told))
    assert {k: v for k, v in (await stores[0].violations()).items() if v} == {}
