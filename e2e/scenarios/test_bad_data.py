"""Data that nobody should send: refused with a clear answer, nothing lost, nobody else hurt."""

import json
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from e2e.harness import programs
from e2e.harness.faults import Nodes
from e2e.harness.kubectl import KubectlError, Object, dig, objects, stream
from e2e.harness.lab import Lab, run_manifest
from e2e.harness.release import NAMESPACE
from e2e.harness.wait import eventually
from e2e.images.build import BuiltImage
from e2e.scenarios.judge import untouched

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

UNKEPT = {"not-json", "nan", "nul", "surrogate", "big-int", "not-utf-8", "too-deep"}
MISUSE = Path(__file__).with_name("misuse.py")


def test_local_protocol_misused(lab: Lab, images: Mapping[str, BuiltImage]) -> None:
    """What a container of any language may send to its sidecar by mistake."""
    script = MISUSE.read_text()
    lab.task("misuse", image=images["runner"].ref, command=["python3", "-c", script])
    run = lab.run("misuse")
    run.wait("Succeeded")
    said = run.result_members()
    statuses = {name: int(str(dig(answer, 0))) for name, answer in said.items()}
    assert {name: statuses[name] for name in UNKEPT} == dict.fromkeys(UNKEPT, 422)
    assert statuses["too-large"] == 413
    assert 400 <= statuses["long-key"] < 500
    assert 400 <= statuses["no-key"] < 500
    assert statuses["absent"] == 404
    assert statuses["nowhere"] == 404
    assert statuses["wrong-method"] in {404, 405}
    assert 400 <= statuses["progress-of-two"] < 500
    assert statuses["first-step"] == 200
    assert said["second-step"] == [409, "step-exists"]
    assert 400 <= statuses["next"] < 500
    assert statuses["restored"] == 200
    untouched(run, run.attempts())


def test_input_too_large_for_kubectl(lab: Lab) -> None:
    """64 KB is the most an object in etcd may carry; it is refused, or visibly not accepted, and never cut."""
    lab.task("quick", programs.QUICK)
    large = run_manifest("quick", "large", {"text": "x" * 70_000})
    said = _refusal(lab, large)
    if said:
        assert "65536" in said or "64" in said, said
        return

    def refused() -> object:
        conditions = objects(dig(lab.kubectl.get("run", "large", lab.namespace), "status", "conditions") or [])
        return next((one for one in conditions if one["type"] == "Accepted" and one["status"] == "False"), None)

    condition = eventually("Accepted=False", refused, 30, diagnose=lab.diagnose)
    assert "65536" in str(condition), condition


def _refusal(lab: Lab, manifest: Object) -> str:
    """What kubectl says when it refuses to create the object; empty when it creates it."""
    try:
        lab.kubectl.create(manifest, namespace=lab.namespace)
    except KubectlError as error:
        return error.stderr
    return ""


def test_poisonous_objects(lab: Lab) -> None:
    """Objects made to upset the operator harm nobody but themselves."""
    lab.task("quick", programs.QUICK)
    deep: object = 1
    for _ in range(90):
        deep = [deep]
    inputs = {
        "deep": deep,
        "huge-number": 2**70,
        "tiny": 5e-324,
        "nul": "a\x00b",
        "keys": {"": 1, "a.b/c": 2, "__proto__": 3},
    }
    for name, given in inputs.items():
        lab.run("quick", name=f"poison-{name}", given=given)
    lab.kubectl.run(
        "create",
        "-n",
        lab.namespace,
        "-f",
        "-",
        text_in=stream(
            [_annotated("no-uuid", "not a uuid"), _annotated("stranger", "0" * 8 + "-0000-4000-8000-" + "0" * 12)]
        ),
    )
    healthy = lab.run("quick", name="healthy")
    healthy.wait("Succeeded", timeout=40)
    ends = {run.name: run.wait(timeout=40) for run in lab.runs(*(f"poison-{name}" for name in inputs if name != "nul"))}
    assert set(ends.values()) <= {"Succeeded", "Failed"}, ends
    restarts = [dig(pod, "status", "containerStatuses", 0, "restartCount") for pod in lab.release.pods("operator")]
    assert restarts == [0] * len(restarts), "the operator died of it"


def _annotated(name: str, run_id: str) -> dict[str, object]:
    made = dict(run_manifest("quick", name))
    return {**made, "metadata": {"name": name, "annotations": {"milepost.dev/run-id": run_id}}}


def test_bodies_of_the_public_api(lab: Lab) -> None:
    lab.task("quick", programs.QUICK)
    api = lab.release.api
    base = {"task": "quick", "namespace": lab.namespace}
    bad: dict[str, tuple[object, int]] = {
        "not-json": (b"{nope", 422),
        "nan": (b'{"task": "quick", "input": NaN}', 422),
        "array": ([], 422),
        "unknown-field": ({**base, "inptu": 1}, 422),
        "no-task": ({"namespace": lab.namespace}, 422),
        "name": ({**base, "name": "Not A Name"}, 422),
        "big-int": (json.dumps({**base, "input": 2**70}).encode(), 422),
        "nul": ({**base, "input": "a\x00b"}, 422),
        "surrogate": (json.dumps({**base, "input": "\ud800"}).encode(), 422),
        "too-large": ({**base, "input": "x" * 1_100_000}, 413),
    }
    answers = {name: api.call("POST", "/v1/runs", body) for name, (body, _) in bad.items()}
    assert {name: answer.status for name, answer in answers.items()} == {
        name: status for name, (_, status) in bad.items()
    }
    for name, answer in answers.items():
        assert answer.headers["content-type"].startswith("application/problem+json"), name
        assert answer.field("code"), name
    assert lab.sql.value(f"select count(*) from runs where namespace = '{lab.namespace}'") == 0


@pytest.mark.alone
def test_database_full(lab: Lab, nodes: Nodes) -> None:
    """No room for records: 503, nothing acknowledged, no attempt burnt; with room again the run goes on."""
    pod = ("milepost-postgres-0", "postgres")
    server = min(nodes.processes(NAMESPACE, *pod))
    small = "/tmp/small"
    nodes.in_mounts(server, "mkdir", "-p", small)
    nodes.in_mounts(server, "mount", "-t", "tmpfs", "-o", "size=24m,uid=999,gid=999,mode=0700", "tmpfs", small)
    try:
        lab.sql.run(f"create tablespace small location '{small}'; alter table records set tablespace small;")
        lab.task("bulky", BULKY)
        run = lab.run("bulky", given={"records": 30, "kilobytes": 100})
        run.wait_steps(2)
        nodes.in_mounts(server, "sh", "-c", f"dd if=/dev/zero of={small}/ballast bs=64k 2>/dev/null; true")
        stuck = f"select count(*) from records where run_id = '{run.id}'"
        before = eventually("a full disk", lambda: _same_twice(lab, stuck), 40, 1.5, run.diagnose)
        assert int(before) < 30
        nodes.in_mounts(server, "rm", f"{small}/ballast")
        run.wait("Succeeded", timeout=60)
        untouched(run, run.attempts())
        assert run.repeats() == []
        assert lab.sql.value(stuck) == 30
    finally:
        # whatever else fails: a table that is lost with its file system would fail all that comes after
        try:
            nodes.in_mounts(server, "rm", "-f", f"{small}/ballast")
        finally:
            lab.sql.run("alter table records set tablespace pg_default; drop tablespace if exists small;")
        nodes.in_mounts(server, "umount", small)


def _same_twice(lab: Lab, query: str) -> str | None:
    """The number of records, once it does not grow any more."""
    first = lab.sql.value(query)
    time.sleep(2)
    return str(first) if lab.sql.value(query) == first else None


BULKY = (
    programs.REPORT
    + """
import random


def bulk(ctx: Context, key: str, kilobytes: int) -> str:
    tell(ctx, "start", key)
    time.sleep(0.2)
    return random.Random(key).randbytes(kilobytes * 512).hex()


@task(id="bulky")
async def main(ctx: Context, records: int, kilobytes: int) -> int:
    for number in range(records):
        key = f"bulk-{number}"
        await ctx.step(key, bulk, ctx, key, kilobytes)
        tell(ctx, "acked", key)
    return records
"""
)
