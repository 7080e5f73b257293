"""Objects are lost, restored or applied again: the rows know better, and nothing runs twice."""

from functools import partial

import pytest

from e2e.harness.kubectl import Object, dig, stream
from e2e.harness.lab import API_VERSION, Lab, Run, run_manifest
from e2e.harness.wait import eventually, stays
from e2e.scenarios.judge import succeeded, untouched

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

RUN_ID = "milepost.dev/run-id"


def trigger(lab: Lab, given: object) -> Run:
    """Create a run over HTTP."""
    body = {"task": "steps", "namespace": lab.namespace, "input": given}
    answer = lab.release.api.call("POST", "/v1/runs", body)
    assert answer.status == 201, answer
    return Run(lab, str(answer.field("name")))


def test_projections_deleted(lab: Lab) -> None:
    """Objects that show runs made over HTTP come back, and deleting them cancels nothing."""
    lab.task()
    runs = [trigger(lab, {"steps": 25}) for _ in range(3)]
    for run in runs:
        run.wait("Running")
    uids = {run.name: dig(run.manifest(), "metadata", "uid") for run in runs}
    assert all(dig(run.manifest(), "spec", "runID") == run.id for run in runs)
    lab.kubectl.run("delete", "runs.milepost.dev", "--all", "-n", lab.namespace)
    for run in runs:
        eventually(f"a new object for {run.name}", partial(_made_anew, lab, run, uids[run.name]), 30, 0.2, lab.diagnose)
    for run in runs:
        untouched(run, succeeded(run, steps=25))


def test_applied_again(lab: Lab) -> None:
    """`kubectl apply` of the same manifests once more is no second run."""
    lab.task()
    manifest = run_manifest("steps", "once", {"steps": 3, "seconds": 0.1})
    lab.kubectl.apply(manifest, namespace=lab.namespace)
    run = Run(lab, "once")
    succeeded(run, steps=3)
    lab.task()
    lab.kubectl.apply(manifest, namespace=lab.namespace)
    stays("one run and no more", lambda: _runs(lab) == 1 and run.phase == "Succeeded", 3)
    untouched(run, succeeded(run, steps=3))


def test_restored_from_backup(lab: Lab) -> None:
    """Objects saved from the cluster, lost and created anew are adopted by the rows they name."""
    lab.task()
    named = lab.run(name="saved", given={"steps": 3, "seconds": 0.1})
    succeeded(named, steps=3)
    saved = [_as_backup(lab.kubectl.get("task", "steps", lab.namespace)), _as_backup(named.manifest())]
    assert dig(saved[1], "metadata", "annotations", RUN_ID) == named.id
    for kind, name in (("run", "saved"), ("task", "steps")):
        lab.kubectl.delete(kind, name, lab.namespace)
    lab.kubectl.run("create", "-n", lab.namespace, "-f", "-", text_in=stream(saved))
    eventually("the restored object's status", lambda: named.phase == "Succeeded", 30, diagnose=lab.diagnose)
    stays("one run and no more", lambda: _runs(lab) == 1, 3)
    untouched(named, succeeded(named, steps=3))
    again = lab.run(name="after-restore", given={"steps": 3, "seconds": 0.1})
    succeeded(again, steps=3)


def test_deleted_while_live(lab: Lab) -> None:
    """Deleting the object of a run made with kubectl is its cancellation."""
    lab.task()
    run = lab.run(given={"steps": 200})
    run.wait_steps(2)
    lab.kubectl.delete("run", run.name, lab.namespace, "--wait=false")
    run.wait_state("cancelled", timeout=40)
    assert run.repeats() == []


def _made_anew(lab: Lab, run: Run, old: object) -> bool:
    return dig(lab.kubectl.find("run", run.name, lab.namespace), "metadata", "uid") not in {None, old}


def _runs(lab: Lab) -> int:
    return int(str(lab.sql.value(f"select count(*) from runs where namespace = '{lab.namespace}'")))


def _as_backup(found: Object) -> Object:
    """What backup tools keep of an object."""
    metadata = found["metadata"]
    assert isinstance(metadata, dict)
    kept = {key: metadata[key] for key in ("name", "namespace", "labels", "annotations") if key in metadata}
    return {"apiVersion": API_VERSION, "kind": found["kind"], "metadata": kept, "spec": found["spec"]}
