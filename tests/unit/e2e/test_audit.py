"""Counting writes in an audit log."""

import json

from e2e.harness.audit import AuditLog, Write, ours, writes

OPERATOR = "system:serviceaccount:milepost-system:milepost-operator"


def line(
    *, user=OPERATOR, verb="patch", resource="runs", sub="status", namespace="demo", code=200, stage="ResponseComplete"
):
    reference = {"resource": resource, "namespace": namespace, "name": "x"} | ({"subresource": sub} if sub else {})
    entry = {"user": {"username": user}, "verb": verb, "objectRef": reference, "stage": stage}
    return json.dumps(entry | {"responseStatus": {"code": code}})


def test_reads_what_was_written():
    assert list(writes([line()])) == [Write(OPERATOR, "patch", "runs/status", "demo", "x")]


def test_leaves_out_reads_refusals_and_half_lines():
    lines = [line(verb="get"), line(code=409), line(stage="RequestReceived"), line()[:40], ""]
    assert list(writes(lines)) == []


def test_counts_only_our_accounts_in_the_namespace():
    lines = [
        line(),
        line(),
        line(verb="create", resource="jobs", sub="", code=201),
        line(user="kubernetes-admin"),
        line(user="system:serviceaccount:kube-system:job-controller"),
        line(namespace="milepost-system", resource="leases", sub=""),
    ]
    counted = ours(writes(lines), "milepost-system", "demo")
    assert counted == {("patch", "runs/status"): 2, ("create", "jobs"): 1}


def test_counts_from_the_mark_on(tmp_path):
    log = AuditLog(tmp_path / "audit.log")
    log.path.write_text(line() + "\n")
    log.mark()
    with log.path.open("a") as more:
        more.write(line(verb="delete") + "\n")
    assert [write.verb for write in log.since()] == ["delete"]
