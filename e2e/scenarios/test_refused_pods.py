"""Namespaces whose rules refuse the pod: the run says which rule, and ends after the grace that a person has."""

import uuid
from collections.abc import Iterator, Mapping

import pytest

from e2e.harness.kubectl import Object
from e2e.harness.lab import Lab, Run
from e2e.harness.programs import QUICK
from e2e.harness.wait import eventually, stays

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]


def quota(namespace: str) -> list[Object]:
    meta = {"name": "no-pods", "namespace": namespace}
    return [{"apiVersion": "v1", "kind": "ResourceQuota", "metadata": meta, "spec": {"hard": {"pods": "0"}}}]


def limits(namespace: str) -> list[Object]:
    meta = {"name": "tiny", "namespace": namespace}
    most = {"type": "Container", "max": {"memory": "16Mi"}}
    return [{"apiVersion": "v1", "kind": "LimitRange", "metadata": meta, "spec": {"limits": [most]}}]


def webhook(namespace: str) -> list[Object]:
    """An admission webhook that nobody answers for."""
    service = {"namespace": namespace, "name": "nobody", "path": "/"}
    hook = {
        "name": "nobody.example.org",
        "clientConfig": {"service": service},
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "failurePolicy": "Fail",
        "timeoutSeconds": 1,
    }
    kind = "ValidatingWebhookConfiguration"
    meta = {"name": f"nobody-{namespace}"}
    return [{"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": meta, "webhooks": [hook]}]


RULES = {"limit-range": (limits, "memory"), "webhook": (webhook, "webhook")}


@pytest.fixture(scope="module")
def refused(shared_lab: Lab) -> Iterator[Mapping[str, Run]]:
    """A namespace and a run for each rule, at once."""
    runs, labs = {}, []
    for name, (rule, _) in RULES.items():
        namespace = f"refused-{name}-{uuid.uuid4().hex[:5]}"
        lab = Lab.open(shared_lab.platform, shared_lab.release, shared_lab.counter, namespace)
        labs.append(lab)
        lab.kubectl.apply(*rule(namespace))
        lab.task("quick", QUICK)
        runs[name] = lab.run("quick")
    yield runs
    for lab in labs:
        lab.kubectl.delete("validatingwebhookconfiguration", f"nobody-{lab.namespace}")
        lab.kubectl.delete("namespace", lab.namespace, None, "--wait=false")


@pytest.mark.parametrize("rule", RULES)
def test_pod_refused(refused: Mapping[str, Run], rule: str) -> None:
    run = refused[rule]
    run.wait("Failed", timeout=90)
    row = run.row()
    assert row["reason"] == "PodCreationRefused", row
    assert RULES[rule][1] in str(row["message"]), row
    attempts = run.attempts()
    assert len(attempts) == 1, "a refused pod is one attempt that waits, not many"


def test_restricted_namespace_is_no_obstacle(lab: Lab) -> None:
    """Our pods fulfil the strictest of the pod security standards."""
    enforce = {
        "pod-security.kubernetes.io/enforce": "restricted",
        "pod-security.kubernetes.io/enforce-version": "latest",
    }
    meta = {"name": lab.namespace, "labels": enforce}
    lab.kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": meta})
    lab.task("quick", QUICK)
    lab.run("quick").wait("Succeeded")


def test_quota_is_waited_for(lab: Lab) -> None:
    """A quota may have room later, so the run waits beyond the grace, says why, and goes on by itself."""
    lab.kubectl.apply(*quota(lab.namespace))
    lab.task("quick", QUICK)
    run = lab.run("quick")
    eventually("the refusal", lambda: run.row()["reason"] == "PodCreationRefused", 40, 0.1, run.diagnose)
    stays("waiting for the quota", lambda: run.row()["reason"] == "PodCreationRefused", 8, 0.5)
    told = "what it waits for in its object, once that has held for 10 s"
    eventually(told, lambda: "exceeded quota" in str(run.status("message")), 30, diagnose=run.diagnose)
    assert run.phase == "Admitted"
    lab.kubectl.delete("resourcequota", "no-pods", lab.namespace)
    run.wait("Succeeded", timeout=90)
    assert len(run.attempts()) == 1, "a pod that waits is one attempt"
