"""The process of a task dies before and after every write, and between commit and acknowledgement, on the true path.

All of these run for one death. Other deaths (in the middle of what follows, with the sidecar, or the sidecar alone) and
two in a row are samples here; `make crash-points` runs all, and samples of two and three.
"""

import logging
import os
import random
from collections.abc import AsyncIterator

import pytest

from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.settings import Settings
from tests.crashpoints.judge import faults
from tests.crashpoints.kill import MODES
from tests.crashpoints.rig import Case, Cluster, cluster, once, several, undisturbed
from tests.integration.test_pod_processes import port  # noqa: F401  # a fixture
from tests.seeds import SEED

SAMPLES = int(os.environ.get("MILEPOST_CRASH_SAMPLES", "0"))
"""Of two and of three deaths, for each task; 0: the short run."""
TASKS = os.environ.get("MILEPOST_CRASH_TASKS", "")
"""A part of the names of tasks: only those."""
SHORT_MODES = ("before", "sent", "unread")


@pytest.fixture
async def store(settings: Settings) -> AsyncIterator[PostgresStore]:
    roomy = settings.model_copy(update={"default_queue_concurrency": 10_000, "lease_seconds": 30.0})
    async with PostgresStore.open(roomy) as opened:
        yield opened
        assert {k: v for k, v in (await opened.violations()).items() if v} == {}


@pytest.fixture
async def pods(store: PostgresStore, port: int) -> AsyncIterator[Cluster]:  # noqa: F811
    async with cluster(store, port) as running:
        yield running


def planned(model: Case, rng: random.Random) -> list[Case]:
    if SAMPLES:
        return [*once(model, rng), *several(model, rng, 2, SAMPLES), *several(model, rng, 3, SAMPLES)]
    others = once(model, rng, [mode for mode in MODES if mode not in SHORT_MODES])
    return [*once(model, rng, SHORT_MODES), *rng.sample(others, 2), *several(model, rng, 2, 1)]


@pytest.mark.timeout(3600 if SAMPLES else 600)
async def test_crash_at_every_point(pods: Cluster):
    rng = random.Random(SEED)
    models = [model for model in undisturbed() if TASKS in model.shape]
    await pods.run(models)
    broken = [fault for model in models for fault in faults(model, model)]
    assert broken == [], "\n".join(broken)
    cases = [(model, case) for model in models for case in planned(model, rng)]
    await pods.run([case for _, case in cases])
    broken = [fault for model, case in cases for fault in faults(case, model)]
    assert broken == [], "\n".join(broken)
    told = f"{len(cases)} disturbed runs of {len(models)} tasks, {sum(case.attempts for _, case in cases)} pods"
    logging.getLogger(__name__).info(told)
