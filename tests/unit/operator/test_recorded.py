"""Pods and Jobs as a real cluster showed them at their end (e2e/harness/recorder.py): each tells its cause."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from milepost_operator.domain.runs import Ending
from milepost_operator.domain.states import Reason
from milepost_operator.reconcile.ended import classify, vanished

RECORDED = Path(__file__).parent / "recorded"
LATER = datetime(2100, 1, 1, tzinfo=UTC)
USER, INFRA, FINAL = (True, False, False), (False, True, False), (False, False, True)

CAUSES = {
    "user-failure": (Reason.USER_FAILURE, USER, "exit code 3"),
    "out-of-memory": (Reason.OOM, USER, "at its limit of 96Mi"),
    "storage": (Reason.STORAGE, USER, "ephemeral"),
    "start-error": (Reason.START_ERROR, FINAL, "/no/such/program"),
    "image-pull": (Reason.IMAGE_PULL, FINAL, "milepost.local/nowhere:1"),
    "config-error": (Reason.CONFIG, FINAL, "nowhere"),
    "preempted": (Reason.PREEMPTED, INFRA, "preempt"),
    "drained": (Reason.DRAINED, INFRA, "Eviction API"),
    "deleted": (Reason.POD_LOST, INFRA, "by something else"),
}
WAITING = {"image-pull", "config-error"}
"""Recorded before their end."""
JOBS = {
    "drained": (Reason.EVICTED, INFRA),
    "preempted": (Reason.EVICTED, INFRA),
}
"""What is left to tell by when the pod has gone while nobody looked."""
SAMPLES = sorted(path.stem for path in RECORDED.glob("*.json"))


def sample(name: str) -> dict:
    return json.loads((RECORDED / f"{name}.json").read_text())


def test_every_sample_is_judged():
    assert SAMPLES
    assert set(SAMPLES) <= set(CAUSES)


@pytest.mark.parametrize("name", SAMPLES)
def test_a_pod_tells_its_cause(name):
    reason, kind, said = CAUSES[name]
    ending = classify(sample(name)["pod"], LATER, 60)
    assert isinstance(ending, Ending)
    assert (ending.reason, (ending.counted, ending.infra, ending.final)) == (reason, kind)
    assert said.lower() in ending.message.lower()


@pytest.mark.parametrize("name", [name for name in SAMPLES if name in JOBS])
def test_a_job_tells_what_its_pod_can_not_any_more(name):
    reason, kind = JOBS[name]
    ending = vanished(sample(name)["job"], None, bound=True)
    assert (ending.reason, (ending.counted, ending.infra, ending.final)) == (reason, kind)


@pytest.mark.parametrize("name", [name for name in SAMPLES if name not in WAITING])
def test_a_pod_that_is_gone_tells_the_same_as_long_as_it_is_remembered(name):
    ending = vanished(sample(name)["job"], sample(name)["pod"], bound=True)
    assert ending == classify(sample(name)["pod"], LATER, 60)


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_carry_nothing_of_the_machine(name):
    text = (RECORDED / f"{name}.json").read_text()
    assert "managedFields" not in text
    assert len(text) < 20_000
