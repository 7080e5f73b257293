"""Patterns of failure on a real cluster: a condition of the Task, an Event and a metric; a queue that pauses itself."""

import pytest

from e2e.harness.kubectl import dig
from e2e.harness.lab import API_VERSION, Lab, wait_all
from e2e.harness.wait import eventually
from e2e.scenarios.conditions import says

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

SLOW = """
import asyncio

from milepost import Context, task


@task(id="slow")
async def main(ctx: Context) -> None:
    await asyncio.Event().wait()
"""
FAILING = """
from milepost import Context, task


@task(id="failing")
async def main(ctx: Context) -> None:
    raise RuntimeError("no")
"""
FOUND = 100.0
"""Seconds: every Task is looked at each half minute."""


def holds(lab: Lab, task: str, kind: str) -> str:
    """Wait for a pattern's condition; its message. Its Event and its metric are there, too."""
    _, _, message = says(lab, task, kind, "True", FOUND)

    def event() -> bool:
        events = lab.kubectl.items("events", lab.namespace)
        about = [one for one in events if dig(one, "involvedObject", "kind") == "Task"]
        return any((one.get("reason"), one.get("type")) == (kind, "Warning") for one in about)

    eventually("its Event", event, 30, 0.5, lab.diagnose)
    labels = f'{{finding="{kind}",namespace="{lab.namespace}",task="{task}"}} 1.0'
    eventually(
        "its metric", lambda: any(labels in line for line in lab.release.metrics("operator")), 30, 0.5, lab.diagnose
    )
    return message


def test_timeouts_in_a_row_pause_the_queue(lab: Lab) -> None:
    queue = {"concurrency": 1, "pauseOn": ["TimeoutLoop"]}
    manifest = {"apiVersion": API_VERSION, "kind": "Queue", "metadata": {"name": "careful"}, "spec": queue}
    lab.kubectl.apply(manifest, namespace=lab.namespace)
    retry = {"maxAttempts": 3, "minSeconds": 0.2, "maxSeconds": 0.5}
    lab.task("slow", SLOW, queue="careful", retry=retry, timeouts={"attemptSeconds": 1})
    lab.run("slow").wait("Failed", timeout=90)
    assert "3 of 3 attempts" in holds(lab, "slow", "TimeoutLoop")
    later = lab.run("slow")
    answer = lab.release.api.call("GET", f"/v1/runs/{later.id}/why?namespace={lab.namespace}")
    assert answer.status == 200
    assert "paused" in str(answer.json())
    assert "TimeoutLoop" in str(answer.json())

    def shown() -> bool:
        return "TimeoutLoop" in lab.kubectl.run("get", "queues", "-n", lab.namespace, "-o", "wide")

    eventually("a queue that says why it is paused", shown, 30, 0.5, lab.diagnose)


def test_a_storm_of_retries_is_told(lab: Lab) -> None:
    retry = {"maxAttempts": 3, "minSeconds": 0.1, "maxSeconds": 0.2}
    lab.task("failing", FAILING, retry=retry)
    runs = [lab.run("failing") for _ in range(12)]
    wait_all(runs, lambda state: state == "failed", 120)
    message = holds(lab, "failing", "RetryStorm")
    assert "most by TaskFailed" in message
