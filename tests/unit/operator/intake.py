"""Objects of a fake cluster, taken in by a fake store."""

from datetime import UTC, datetime

import pytest

from milepost_operator.reconcile.intake import ObjectIntake
from milepost_operator.reconcile.network import TaskNetworks
from tests.fakes.crd_samples import queue
from tests.fakes.kube import FakeCluster
from tests.unit.operator.store import FakeStore

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def store():
    return FakeStore()


@pytest.fixture
def cluster():
    return FakeCluster()


@pytest.fixture
def intake(store, cluster):
    return ObjectIntake(store, cluster, TaskNetworks(store, cluster, None, ()), clock=lambda: NOW, max_input_bytes=1000)


def conditions(cluster, plural):
    (found,) = cluster.of(plural)
    return {c["type"]: (c["status"], c["reason"]) for c in found["status"]["conditions"]}


async def seen(intake, cluster):
    """The event that the status of the one Task brings."""
    (shown,) = cluster.of("tasks")
    await intake.on_task(shown, deleted=False)


def etl(concurrency=2):
    return queue({"concurrency": concurrency}) | {"metadata": {"name": "etl"}}
