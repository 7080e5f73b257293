"""A random life of the engine on a real Postgres, step by step against a small pure model; and proof that it can fail.

Lives have the session's seed and those after it; a life that failed tells its own. `MILEPOST_SHRINK=1` makes the deeds
that failed few, `MILEPOST_MODEL_SECONDS` makes it longer.
"""

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack

import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from milepost_operator.adapters.postgres.migrate import migrate
from milepost_operator.adapters.postgres.queries import Q
from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.domain.errors import MilepostError
from milepost_operator.settings import Settings
from tests.integration.conftest import _with_database
from tests.integration.engine_machine import Engine
from tests.integration.engine_rows import Rows
from tests.seeds import SEED

SECONDS = float(os.environ.get("MILEPOST_MODEL_SECONDS", "40"))
LEAST_DEEDS = 100
PROFILE = settings(
    max_examples=6,
    stateful_step_count=15,
    phases=[Phase.generate, Phase.shrink] if os.environ.get("MILEPOST_SHRINK") == "1" else [Phase.generate],
    deadline=None,
    database=None,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)
FENCED = "f.run_id = h.run_id and f.attempt = h.attempt and f.token = h.token and f.pod_id = h.pod_id"
PLANTED: dict[str, list[tuple[str, str, str]]] = {
    "records without a fence": [
        ("append", FENCED, "f.run_id = h.run_id"),
        ("append", "select h.run_id, h.attempt, h.token, h.pod_id", "select h.run_id, f.attempt, f.token, f.pod_id"),
        ("append_one", "and h.attempt = $2 and h.token = $3 and h.pod_id = $4", "and ($2, $3, $4) is not null"),
    ],
    "heartbeats without a fence": [
        ("beat", "and i.attempt = h.attempt and i.token = h.token and i.pod_id = h.pod_id", "")
    ],
    "an ended attempt keeps its token": [("end_attempts", "set token = null, pod_id = null", "set pod_id = null")],
    "an early signal is forgotten": [("resolve_waits", "where run_id = any($1) and taken_by is null", "where false")],
    "a signal is taken twice": [("resolve_waits", "set taken_by = d.wait_id", "set taken_by = null")],
    "a resume joins the queue at its end": [
        ("resume", "set state = 'queued',", "set state = 'queued', order_at = clock_timestamp(),")
    ],
    "sleep counts as the run's time": [("resume", "+ (clock_timestamp() - r.suspended_at)", "")],
    "a retry without its backoff": [("promote", "and ready_at <= clock_timestamp()", "")],
    "a suspension keeps the pod": [
        ("end_attempts", "where p.pod_id = e.pod_id", "where false and p.pod_id = e.pod_id")
    ],
    "a lease lapses though nobody could beat": [("overdue", "and p.up_since + $3 <= clock_timestamp()", "")],
    "queue TTL in a paused queue": [("expire_queued", "and q.name = r.queue and q.paused", "and false")],
}
SOON_FOUND = ("records without a fence", "heartbeats without a fence", "a retry without its backoff")
TRIED = list(PLANTED) if os.environ.get("MILEPOST_ALL_BUGS") == "1" else list(SOON_FOUND)
"""`make mutants` tries them all: some take the machine most of a minute to meet."""


@pytest.fixture(scope="module")
def engine(postgres_uri: str) -> Iterator[type[Engine]]:
    """Two replicas over a database of their own, whose commits do not wait for the disk."""
    options = Settings(
        database_url=_with_database(postgres_uri, "model"), database_pool=3, lease_seconds=60, beat_seconds=30,
        grace_seconds=60, infra_budget=2,
    )  # fmt: skip

    async def begin() -> AsyncExitStack:
        admin = await asyncpg.connect(postgres_uri)
        await admin.execute("create database model")
        for option in ("synchronous_commit = off", "plan_cache_mode = force_generic_plan"):
            await admin.execute(f"alter database model set {option}")
        await admin.close()
        await migrate(options)
        stack = AsyncExitStack()
        Engine.stores = [await stack.enter_async_context(PostgresStore.open(options)) for _ in range(2)]
        Engine.rows = Rows(Engine.stores[0])
        await Engine.rows.prepare()
        return stack

    with asyncio.Runner() as runner:
        Engine.runner = runner
        stack = runner.run(begin())
        yield Engine
        runner.run(stack.aclose())


def live(engine: type[Engine], number: int, profile: settings) -> None:
    try:
        run_state_machine_as_test(seed(number)(engine), settings=profile)
    except BaseException as error:
        error.add_note(f"MILEPOST_TEST_SEED={number} MILEPOST_SHRINK=1 lives it again, and looks for fewer deeds")
        raise


@pytest.mark.timeout(SECONDS + 120)
def test_the_engine_does_what_the_model_says(
    engine: type[Engine], record_property: Callable[[str, object], None]
) -> None:
    engine.told.clear()
    until, number = time.monotonic() + SECONDS, SEED
    while time.monotonic() < until:
        live(engine, number, PROFILE)
        number += 1
    record_property("deeds", dict(engine.told))
    assert engine.told["deeds"] >= LEAST_DEEDS


@pytest.mark.timeout(300)
@pytest.mark.parametrize("bug", TRIED)
def test_a_planted_bug_is_found(engine: type[Engine], bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, right, wrong in PLANTED[bug]:
        assert right in Q[name], "the query has changed: plant the bug anew"
        monkeypatch.setitem(Q, name, Q[name].replace(right, wrong))
    quick = settings(PROFILE, max_examples=200)
    with pytest.raises((AssertionError, MilepostError, asyncpg.PostgresError, ExceptionGroup)):
        live(engine, 1, quick)
