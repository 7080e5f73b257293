"""The process of a task dies before and after every write, and between commit and acknowledgement, on the true path.

All of it runs here for one death; two and three are samples (MILEPOST_CRASH_SAMPLES of each task, MILEPOST_CRASH_SEED).
"""

import asyncio
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.settings import Settings
from tests.crashpoints.judge import faults
from tests.crashpoints.rig import Cluster, cluster, once, several, undisturbed
from tests.integration.test_pod_processes import port  # noqa: F401  # a fixture

SEED = int(os.environ.get("MILEPOST_CRASH_SEED", "1"))
SAMPLES = int(os.environ.get("MILEPOST_CRASH_SAMPLES", "2"))


@pytest.fixture
async def store(settings: Settings) -> AsyncIterator[PostgresStore]:
    roomy = settings.model_copy(update={"default_queue_concurrency": 1000, "lease_seconds": 30.0})
    async with PostgresStore.open(roomy) as opened:
        yield opened
        assert {k: v for k, v in (await opened.violations()).items() if v} == {}


@pytest.fixture
async def pods(store: PostgresStore, port: int) -> AsyncIterator[Cluster]:  # noqa: F811
    async with cluster(store, port) as running:
        yield running


@pytest.mark.timeout(600)
async def test_crash_at_every_point(pods: Cluster):
    rng = random.Random(SEED)
    models = undisturbed()
    await pods.run(models)
    broken = [fault for model in models for fault in faults(model, model)]
    assert broken == [], "\n".join(broken)
    cases = [(model, case) for model in models for case in once(model, rng)]
    cases += [(model, case) for model in models for kills in (2, 3) for case in several(model, rng, kills, SAMPLES)]
    await pods.run([case for _, case in cases])
    broken = [fault for model, case in cases for fault in faults(case, model)]
    print(f"{len(cases)} runs, {sum(case.attempts for _, case in cases)} pods")
    assert broken == [], "\n".join(broken)
