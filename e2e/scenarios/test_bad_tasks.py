"""Tasks that can't run: each run ends, or waits, with a reason that says what a person has to mend."""

import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from e2e.harness import programs
from e2e.harness.lab import Lab, Run
from e2e.harness.wait import eventually
from e2e.images.build import BuiltImage
from e2e.images.oci import File, Image, layer, write_archive

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

FOREIGN = "milepost.local/foreign-machine:1"
RUNNER = "RUNNER"
POSTGRES = "POSTGRES"
ONCE = {"maxAttempts": 1}


@dataclass(frozen=True)
class Case:
    """A Task's spec (RUNNER and POSTGRES stand for our images), and how its run has to end."""

    spec: Mapping[str, object]
    reasons: Collection[str]
    said: str = ""
    source: str | None = None
    attempts: int = 1
    final: Mapping[str, object] = field(default_factory=dict)


def command(*words: str, image: str = RUNNER, **spec: object) -> dict[str, object]:
    return {"image": image, "command": list(words), "retry": ONCE, **spec}


SECRET_ENV = [{"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "nowhere", "key": "password"}}}]
FAILS: dict[str, Case] = {
    "no-such-image": Case(
        command("true", image="milepost.local/nowhere:1"), {"ImagePullFailed"}, "milepost.local/nowhere"
    ),
    "no-such-command": Case(command("/no/such/program"), {"StartError"}, "/no/such/program"),
    "foreign-machine": Case(command("/hello", image=FOREIGN), {"StartError", "TaskFailed"}, "exec format"),
    "does-not-import": Case({}, {"ConfigError"}, "a_module_that_is_nowhere", programs.NO_IMPORT),
    "not-a-task": Case({}, {"ConfigError"}, "no task", programs.NOT_A_TASK),
    "no-such-module": Case({"image": RUNNER, "entrypoint": "nowhere:main"}, {"ConfigError"}, "nowhere"),
    "no-such-function": Case({"entrypoint": "main:nothing"}, {"ConfigError"}, "nothing", programs.QUICK),
    "missing-secret": Case({"env": SECRET_ENV}, {"ConfigError"}, "nowhere", programs.QUICK),
    "missing-account": Case(
        {"pod": {"serviceAccountName": "nobody"}}, {"PodCreationRefused"}, "nobody", programs.QUICK
    ),
    "needs-root": Case(
        command("sh", "-c", "touch /etc/written-as-root", image=POSTGRES), {"TaskFailed", "ProcessCrashed"}, ""
    ),
    "result-too-large": Case({}, {"TaskFailed", "FatalError"}, "1048576", programs.TOO_LARGE_RESULT),
    "input-does-not-fit": Case({}, {"TaskFailed", "FatalError", "ConfigError"}, "input", programs.QUICK),
}
INPUTS: dict[str, object] = {"input-does-not-fit": {"no": "such parameter"}}


@pytest.fixture(scope="module")
def failing(shared_lab: Lab, images: Mapping[str, BuiltImage]) -> dict[str, Run]:
    """All of them at once: together they take as long as the slowest."""
    with tempfile.TemporaryDirectory() as scratch:
        archive = Path(scratch) / "foreign.tar"
        write_archive(archive, [Image((FOREIGN,), (layer([File("hello", foreign_program())]),))])
        shared_lab.platform.cluster.load_images(archive)
    known = {RUNNER: images["runner"].ref, POSTGRES: images["postgres"].ref}
    runs = {}
    for name, case in FAILS.items():
        spec = {"retry": ONCE, **case.spec}
        if "image" in spec:
            spec["image"] = known.get(str(spec["image"]), spec["image"])
        shared_lab.task(name, case.source or "", **spec)
        runs[name] = shared_lab.run(name, given=INPUTS.get(name))
    return runs


@pytest.mark.parametrize("name", FAILS)
def test_fails_with_a_reason(failing: dict[str, Run], name: str) -> None:
    case, run = FAILS[name], failing[name]
    run.wait("Failed", timeout=90)
    row = run.row()
    assert row["reason"] in case.reasons, row
    assert case.said in str(row["message"]), row
    assert run.status("reason") == row["reason"]
    assert len(run.attempts()) == case.attempts, run.attempts()


def test_root_image_runs_without_root(shared_lab: Lab, images: Mapping[str, BuiltImage]) -> None:
    """An image that would run as root is run as somebody else; most do not mind."""
    shared_lab.task("rootless", "", **command("sh", "-c", 'test "$(id -u)" = 65532', image=images["postgres"].ref))
    shared_lab.run("rootless").wait("Succeeded")


def test_values_no_json_can_hold(shared_lab: Lab) -> None:
    """Refused in the task, at once, with the place in the value; the checkpoint before it stays."""
    shared_lab.task("bad-values", programs.BAD_VALUES)
    run = shared_lab.run("bad-values")
    run.wait("Succeeded")
    said = run.result_members()
    assert said.pop("restored") == "True"
    assert [name for name, text in said.items() if text == "taken"] == [], said
    for name, place in {
        "instance": "$.db",
        "nan": "$.x[1]",
        "nul": "$.text",
        "big-int": "$.n",
        "too-large": "$.big",
    }.items():
        assert place in str(said[name]), said[name]
    assert "Connection" in str(said["instance"])


def test_missing_task_is_waited_for(shared_lab: Lab) -> None:
    run = shared_lab.run("later")
    run.wait("Held")
    assert run.status("reason") == "TaskNotFound"
    assert "later" in str(run.status("message"))
    shared_lab.task("later", programs.QUICK)
    run.wait("Succeeded")


def test_unknown_queue_is_waited_for(shared_lab: Lab) -> None:
    shared_lab.task("queued", programs.QUICK, queue="soon")
    run = shared_lab.run("queued")
    run.wait("Held")
    assert run.status("reason") == "QueueNotFound"
    assert "soon" in str(run.status("message"))
    queue = {"apiVersion": "milepost.dev/v1beta1", "kind": "Queue", "metadata": {"name": "soon"}}
    shared_lab.kubectl.apply({**queue, "spec": {"concurrency": 1}}, namespace=shared_lab.namespace)
    run.wait("Succeeded")


def test_too_big_for_any_node(shared_lab: Lab) -> None:
    """Waits and says why; a cancel ends it."""
    huge = {"requests": {"memory": "900Gi"}, "limits": {"memory": "900Gi"}}
    shared_lab.task("huge", programs.QUICK, resources=huge)
    run = shared_lab.run("huge")
    eventually("the reason why it waits", lambda: run.row()["reason"] == "Unschedulable", 40, diagnose=run.diagnose)
    shared_lab.kubectl.patch("run", run.name, {"spec": {"cancel": True}}, shared_lab.namespace)
    run.wait("Cancelled", timeout=40)


def foreign_program() -> bytes:
    """The header of an ELF program for a machine that nobody has any more (a DEC Alpha)."""
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    return header + (2).to_bytes(2, "little") + (0x9026).to_bytes(2, "little") + bytes(44) + bytes(4096)
