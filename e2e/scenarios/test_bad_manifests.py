"""What kubectl refuses before anything is stored: the answer names the field and says what would be right."""

from collections.abc import Mapping

import pytest

from e2e.harness.kubectl import KubectlError
from e2e.harness.lab import API_VERSION, Lab, run_manifest, task_manifest
from e2e.harness.programs import QUICK

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]

Spec = Mapping[str, object]

TASKS: dict[str, tuple[Spec, str]] = {
    "typo": ({"entrypiont": "main:main"}, "entrypiont"),
    "negative-limit": ({"resources": {"limits": {"memory": "-1Gi"}}}, "above 0"),
    "limit-no-quantity": ({"resources": {"limits": {"memory": "lots"}}}, "limits"),
    "request-above-limit": ({"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}}, "limit"),
    "no-attempts": ({"retry": {"maxAttempts": 0}}, "maxAttempts"),
    "shrinking-backoff": ({"retry": {"factor": 0.5}}, "factor"),
    "backoff-reversed": ({"retry": {"minSeconds": 10, "maxSeconds": 5}}, "maxSeconds"),
    "no-time": ({"timeouts": {"attemptSeconds": 0}}, "attemptSeconds"),
    "image-and-source": ({"image": "docker.io/library/x:1", "source": {"inline": QUICK}}, "exactly one"),
    "command-and-entrypoint": (
        {"image": "docker.io/library/x:1", "command": ["x"], "entrypoint": "a:b"},
        "exclude each other",
    ),
    "reserved-variable": ({"env": [{"name": "MILEPOST_TOKEN", "value": "x"}]}, "reserved"),
    "root-user": ({"pod": {"runAsUser": 0}}, "runAsUser"),
    "host-path": ({"pod": {"volumes": [{"name": "host", "hostPath": {"path": "/"}}]}}, "hostPath"),
    "host-network": ({"pod": {"hostNetwork": True}}, "hostNetwork"),
    "bad-queue-name": ({"queue": "Not A Name"}, "queue"),
    "warm-before-it-began": ({"warm": {"seconds": -1}}, "warm.seconds"),
    "warm-for-whom": ({"warm": {"reuse": "tenant"}}, "warm.reuse"),
}


@pytest.mark.parametrize("case", TASKS)
def test_task_refused(shared_lab: Lab, case: str) -> None:
    spec, said = TASKS[case]
    with pytest.raises(KubectlError) as refusal:
        shared_lab.kubectl.apply(task_manifest(f"bad-{case}", QUICK, **spec), namespace=shared_lab.namespace)
    assert said.lower() in refusal.value.stderr.lower()
    assert shared_lab.kubectl.find("task", f"bad-{case}", shared_lab.namespace) is None


def test_queue_refused(shared_lab: Lab) -> None:
    queue = {"apiVersion": API_VERSION, "kind": "Queue", "metadata": {"name": "none"}, "spec": {"concurrency": 0}}
    with pytest.raises(KubectlError, match="concurrency"):
        shared_lab.kubectl.apply(queue, namespace=shared_lab.namespace)


def test_run_names_a_row(shared_lab: Lab) -> None:
    """Only the operator may say which run an object shows."""
    forged = run_manifest("quick", "forged", runID="00000000-0000-0000-0000-000000000000")
    with pytest.raises(KubectlError):
        shared_lab.kubectl.create(forged, namespace=shared_lab.namespace)


@pytest.fixture(scope="module")
def done(shared_lab: Lab) -> str:
    shared_lab.task("quick", QUICK)
    run = shared_lab.run("quick", given={"n": 1}, tags=["one"])
    return run.name


EDITS: dict[str, Spec] = {
    "task": {"task": "another"},
    "input": {"input": {"n": 2}},
    "tags": {"tags": ["two"]},
    "key": {"idempotencyKey": "late"},
    "row": {"runID": "00000000-0000-0000-0000-000000000000"},
}


@pytest.mark.parametrize("field", EDITS)
def test_run_edited(shared_lab: Lab, done: str, field: str) -> None:
    """A run is what it was created as; only `cancel` may still be set."""
    with pytest.raises(KubectlError):
        shared_lab.kubectl.patch("run", done, {"spec": EDITS[field]}, shared_lab.namespace)
    shared_lab.kubectl.patch("run", done, {"spec": {"cancel": True}}, shared_lab.namespace, "--dry-run=server")
