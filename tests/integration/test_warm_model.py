"""A random life of warm pods on a real Postgres, step by step against a small model. Lives are bounded in number."""

import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest

from milepost_operator.adapters.postgres.queries import Q
from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.domain.errors import MilepostError
from milepost_operator.settings import Settings
from tests.integration.warm_model import MAX, TOTAL, World
from tests.seeds import SEED

LIVES = 2
DEEDS = 160
TABLES = ("runs", "pods", "tasks", "task_versions")

PLANTED: dict[str, list[tuple[str, str, str]]] = {
    "the pod that waited longest first": [("hand_over", "order by p.rested_at desc", "order by p.rested_at")],
    "a pod of another version": [
        ("hand_over", "p.task, p.version, p.memory_class, k.key", "p.task, p.memory_class, k.key"),
        ("hand_over", "using (namespace, task, version, memory_class,", "using (namespace, task, memory_class,"),
        ("hand_over", "p.task, p.version, r.memory_class, k.key", "p.task, r.memory_class, k.key"),
    ],
    "a pod of another template": [("hand_over", "and p.template_hash is not distinct from l.template_hash", "")],
    "what comes back keeps its head": [
        ("take_back", "b.attempt\n)\nupdate pods", "b.attempt and false\n)\nupdate pods")
    ],
    "a launcher that does not look": [("lines", "coalesce(m.n, 0) as warm", "0 as warm")],
    "a launched pod keeps the attempt that it lost": [
        ("hand_over", "o.instead and o.state <> 'wanted'", "o.instead and false")
    ],
    "a pod that is there loses its attempt": [
        ("hand_over", "'creating', 'created')", "'creating', 'created', 'bound')")
    ],
    "a Job that may not be there is counted on": [
        ("hand_over", "o.state = 'created' and o.by_key is not true", "o.by_key is not true")
    ],
    "a pod that lost its attempt does not ask for another": [
        ("rest_to_idle", "state = 'bound' and ahead and run_id is null", "false")
    ],
}


@pytest.fixture
async def stores(settings: Settings) -> AsyncIterator[list[PostgresStore]]:
    """Two replicas."""
    options = settings.model_copy(
        update={"warm_max": MAX, "warm_total": TOTAL, "infra_budget": 99, "lease_seconds": 600.0}
    )
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(PostgresStore.open(options)) for _ in range(2)]


async def lives(stores: list[PostgresStore]) -> Counter[str]:
    """What was done in them."""
    told: Counter[str] = Counter()
    for number in range(SEED, SEED + LIVES):
        world = World(stores, random.Random(number))
        for table in TABLES:
            await stores[0]._db.fetch(f"delete from {table}")
        try:
            await world.begin()
            await world.live(DEEDS)
        except BaseException as error:
            error.add_note(f"MILEPOST_TEST_SEED={number} lives it again")
            raise
        told += world.told
    return told


async def test_warm_pods_do_what_the_model_says(
    stores: list[PostgresStore], record_property: Callable[[str, object], None]
) -> None:
    record_property("deeds", dict(await lives(stores)))
    assert {k: v for k, v in (await stores[0].violations()).items() if v} == {}


@pytest.mark.skipif(os.environ.get("MILEPOST_ALL_BUGS") != "1", reason="make mutants tries them")
@pytest.mark.parametrize("bug", PLANTED)
async def test_a_planted_bug_is_found(stores: list[PostgresStore], bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text, instead in PLANTED[bug]:
        assert text in Q[name], (name, text)
        monkeypatch.setitem(Q, name, Q[name].replace(text, instead))
    with pytest.raises((AssertionError, MilepostError, LookupError, ValueError)):
        await lives(stores)
