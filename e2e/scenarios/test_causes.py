"""How attempts end, by cause: each is told apart, spends the budget it should, says what to do, and ends right."""

import json
from collections.abc import Iterator

import pytest

from e2e.harness.kubectl import Object, dig, objects
from e2e.harness.lab import COLD, Attempt, Lab, Run
from e2e.harness.recorder import Recorder, recording
from e2e.harness.release import Release
from e2e.harness.wait import eventually
from e2e.images.build import BuiltImage
from e2e.scenarios.judge import told

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

ONCE = {"maxAttempts": 1}
BRIEF = {"terminationGracePeriodSeconds": 1}
LIMIT = {"requests": {"cpu": "20m", "memory": "48Mi"}, "limits": {"cpu": "500m", "memory": "96Mi"}}
RAISING = {"maxAttempts": 3, "minSeconds": 0.2, "maxSeconds": 0.5, "onOOM": {"maxMemory": "384Mi"}}

HOG = """
import subprocess
import sys

from milepost import Context, task

EAT = "x = [bytearray(b'x') * 2**20 for _ in range(%d)]"


@task(id="hog")
async def main(ctx: Context, megabytes: int = 120, child: bool = False) -> str:
    if child:
        subprocess.run([sys.executable, "-c", EAT % megabytes], check=True)
    else:
        exec(EAT % megabytes)
    return "done"
"""

STUBBORN = """
import signal
import time

from milepost import Context, SyncContext, task


@task(id="stubborn")
def main(ctx: SyncContext) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ctx.step("begun", lambda: 1)
    while True:
        try:
            time.sleep(0.2)
            ctx.progress(0.5)
        except BaseException:
            pass
"""

WAITING = """
import time

from milepost import Context, task


@task(id="waiting")
async def main(ctx: Context, seconds: float = 60.0) -> str:
    await ctx.step("begun", lambda: 1)
    if ctx.run.attempt == 1:
        time.sleep(seconds)
    return "done"
"""

FILLER = """
import time

from milepost import Context, task


@task(id="filler")
async def main(ctx: Context) -> None:
    with open("/tmp/full", "wb") as file:
        for _ in range(80):
            file.write(bytes(2**20))
    time.sleep(90)
"""


@pytest.fixture
def seen(lab: Lab) -> Iterator[Recorder]:
    with recording(lab) as recorder:
        yield recorder


def gone(run: Run, attempt: Attempt, timeout: float = 40) -> None:
    """Nothing of the attempt's pod runs any more, and no slot is held for the run."""

    def over() -> bool:
        pods = run.lab.kubectl.items("pods", run.lab.namespace, f"milepost.dev/pod={attempt.pod_id}")
        return all(dig(pod, "status", "phase") in {"Succeeded", "Failed"} for pod in pods)

    eventually("the end of its pod", over, timeout, diagnose=run.diagnose)
    assert run.lab.sql.value(f"select token from run_heads where run_id = '{run.id}'") is None


@pytest.mark.parametrize("child", [False, True], ids=["main", "child"])
def test_out_of_memory_is_followed_by_more_memory(lab: Lab, child: bool) -> None:
    """96Mi are not enough, 192Mi are; the first attempt counts."""
    lab.task("hog", HOG, resources=LIMIT, retry=RAISING)
    run = lab.run("hog", given={"child": child})
    run.wait("Succeeded", timeout=120)
    first, second = run.attempts()
    # cgroup v2 kills all processes of the container together: then nobody is left to tell which one was too large
    allowed = {"ChildOOMKilled", "OOMKilled"} if child else {"OOMKilled"}
    assert first.reason in allowed, first
    assert (first.counted, first.infra, second.cause) == (True, False, "retry")
    told(run, str(first.reason), "attempt 2 has 192Mi after an OOM at 96Mi", "resources.limits.memory")
    pod = lab.kubectl.get("pod", str(second.pod), lab.namespace)
    (task,) = objects(dig(pod, "spec", "containers"))
    assert dig(task, "resources", "limits", "memory") == "192Mi"
    assert dig(task, "resources", "requests", "memory") == "96Mi", "in proportion"
    assert second.cold in {"memory", "first"}
    peak = max(int(str(second.evidence["peak_bytes"])), int(str(second.evidence["resident_bytes"])))
    assert child or 120 * 2**20 < peak < 192 * 2**20, second.evidence


def test_ephemeral_storage_over_its_limit(lab: Lab, seen: Recorder) -> None:
    lab.task("filler", FILLER, retry=ONCE, resources={"limits": {"ephemeral-storage": "20Mi", "memory": "256Mi"}})
    run = lab.run("filler")
    run.wait("Failed", timeout=90)
    (attempt,) = run.attempts()
    assert (attempt.reason, attempt.counted, attempt.infra) == ("EphemeralStorageExceeded", True, False), attempt
    told(run, "EphemeralStorageExceeded", "resources.limits.ephemeral-storage")
    seen.keep("storage", attempt.pod_id)


def test_preempted_by_a_pod_of_higher_priority(lab: Lab, seen: Recorder, images: dict[str, BuiltImage]) -> None:
    node, free = roomy(lab)
    asks = {"requests": {"cpu": f"{free * 5 // 10}m", "memory": "32Mi"}, "limits": {"cpu": "2", "memory": "128Mi"}}
    there: Object = {"kubernetes.io/hostname": node}
    lab.task("waiting", WAITING, resources=asks, pod=BRIEF | {"nodeSelector": there}, warm=COLD)
    run = lab.run("waiting")
    eventually("its first record", run.records, 40, diagnose=run.diagnose)
    name = f"first-{lab.namespace}"[:60].strip("-")
    lab.kubectl.apply(
        {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}, "value": 9000}
    )
    try:
        lab.kubectl.apply(sleeper("rival", images["runner"].ref, name, free * 8 // 10, there), namespace=lab.namespace)
        eventually(
            "the end of the first attempt", lambda: run.attempts()[0].state == "ended", 40, diagnose=run.diagnose
        )
        first = run.attempts()[0]
        seen.keep("preempted", first.pod_id)
        assert (first.reason, first.counted, first.infra) == ("Preempted", False, True), first
    finally:
        lab.kubectl.delete("pod", "rival", lab.namespace, "--grace-period=0", "--force")
        lab.kubectl.delete("priorityclass", name)
    run.wait("Succeeded")
    assert run.attempts()[1].cause == "infra"
    assert run.attempts()[1].resumed_after == 1
    told(run, str(first.reason), "infrastructure")


def roomy(lab: Lab) -> tuple[str, int]:
    """The node with the most CPU that no pod has asked for, and how much that is."""
    free = {
        str(dig(node, "metadata", "name")): millicores(str(dig(node, "status", "allocatable", "cpu")))
        for node in lab.kubectl.items("nodes")
        if not dig(node, "spec", "taints")
    }
    for pod in lab.kubectl.items("pods", None, ""):
        node = str(dig(pod, "spec", "nodeName"))
        if node in free and dig(pod, "status", "phase") in {"Pending", "Running"}:
            for part in ("containers", "initContainers"):
                for one in objects(dig(pod, "spec", part) or []):
                    free[node] -= millicores(str(dig(one, "resources", "requests", "cpu") or "0"))
    return max(free.items(), key=lambda one: one[1])


def millicores(text: str) -> int:
    return int(text[:-1]) if text.endswith("m") else int(float(text) * 1000)


def sleeper(name: str, image: str, priority: str, cpu: int, selector: Object) -> Object:
    """A pod of nobody's that asks for CPU and does nothing."""
    container = {
        "name": "sleep",
        "image": image,
        "command": ["sleep", "300"],
        "resources": {"requests": {"cpu": f"{cpu}m", "memory": "16Mi"}},
    }
    spec = {"priorityClassName": priority, "terminationGracePeriodSeconds": 0, "containers": [container]}
    spec["nodeSelector"] = selector
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def test_timeout_of_a_task_that_ignores_everything(lab: Lab) -> None:
    lab.task("stubborn", STUBBORN, retry=ONCE, timeouts={"attemptSeconds": 3}, warm=COLD)
    run = lab.run("stubborn")
    run.wait("Failed", timeout=90)
    (attempt,) = run.attempts()
    assert (attempt.reason, attempt.counted) == ("AttemptTimeout", True), attempt
    told(run, "AttemptTimeout", "timeouts.attemptSeconds")
    gone(run, attempt)


def test_cancel_of_a_task_that_ignores_everything(lab: Lab) -> None:
    """Its grace (5 s), then the process, then the pod."""
    lab.task("stubborn", STUBBORN, warm=COLD)
    run = lab.run("stubborn")
    eventually("its first record", run.records, 40, diagnose=run.diagnose)
    attempt = run.live()
    lab.kubectl.patch("run", run.name, {"spec": {"cancel": True}}, lab.namespace)
    run.wait("Cancelled", timeout=30)
    gone(run, attempt)


def test_cancel_of_a_command_that_ignores_sigterm(lab: Lab, images: dict[str, BuiltImage]) -> None:
    program = ["python3", "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(300)"]
    image = images["runner"].ref
    lab.task("deaf", image=image, command=program, pod={"terminationGracePeriodSeconds": 2}, retry=ONCE)
    run = lab.run("deaf")
    attempt = run.live()
    lab.kubectl.patch("run", run.name, {"spec": {"cancel": True}}, lab.namespace)
    run.wait("Cancelled", timeout=30)
    gone(run, attempt)


def test_pods_that_end_by_themselves(lab: Lab, seen: Recorder, images: dict[str, BuiltImage]) -> None:
    """Shapes that the other scenarios judge, kept as samples: what fails, what can't start, what waits."""
    image = images["runner"].ref
    eat = "x = [bytearray(b'x') * 2**20 for _ in range(4096)]"
    cases: dict[str, tuple[dict[str, object], str]] = {
        "user-failure": ({"image": image, "command": ["sh", "-c", "exit 3"]}, "TaskFailed"),
        "out-of-memory": ({"image": image, "command": ["python3", "-c", eat], "resources": LIMIT}, "OOMKilled"),
        "start-error": ({"image": image, "command": ["/no/such/program"]}, "StartError"),
        "image-pull": ({"image": "milepost.local/nowhere:1", "command": ["true"]}, "ImagePullFailed"),
        "config-error": ({"image": image, "command": ["true"], "env": [SECRET]}, "ConfigError"),
    }
    runs = {}
    for name, (spec, _) in cases.items():
        lab.task(name, retry=ONCE, **spec)
        runs[name] = lab.run(name)
    for name, (_, reason) in cases.items():
        runs[name].wait("Failed", timeout=60)
        (attempt,) = runs[name].attempts()
        # one that waits is kept as it waits: in the end it only shows that it goes
        seen.keep(name, attempt.pod_id, _troubled if name in {"image-pull", "config-error"} else None)
        assert attempt.reason == reason, attempt
    told(runs["start-error"], "StartError", "the program must be there")
    told(runs["out-of-memory"], "OOMKilled", "killed at its limit of 96Mi")


def _troubled(pod: Object) -> bool:
    """The task's container waits, not for its turn, and nobody has asked for its end."""
    waiting = dig(pod, "status", "containerStatuses", 0, "state", "waiting", "reason")
    asked = dig(pod, "metadata", "deletionTimestamp")
    return asked is None and waiting not in {None, "PodInitializing", "ContainerCreating"}


SECRET = {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "nowhere", "key": "password"}}}


def test_pods_that_others_end(lab: Lab, seen: Recorder) -> None:
    """A drain's eviction and a deletion by hand are told apart; neither costs one of the task's attempts."""
    lab.task("waiting", WAITING, pod={"terminationGracePeriodSeconds": 2}, warm=COLD)
    drained, deleted = lab.run("waiting"), lab.run("waiting")
    for run in (drained, deleted):
        eventually("its first record", run.records, 40, diagnose=run.diagnose)
    evict(lab, str(drained.live().pod))
    lab.kubectl.delete("pod", str(deleted.live().pod), lab.namespace, "--wait=false")
    for run, reason, sample in ((drained, "Drained", "drained"), (deleted, "PodLost", "deleted")):
        run.wait("Succeeded")
        first, second = run.attempts()
        seen.keep(sample, first.pod_id)
        assert (first.reason, first.counted, first.infra) == (reason, False, True), first
        assert (second.cause, second.resumed_after) == ("infra", 1)
        told(run, str(first.reason), "infrastructure")


def evict(lab: Lab, pod: str) -> None:
    meta = {"name": pod, "namespace": lab.namespace}
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": meta}
    path = f"/api/v1/namespaces/{lab.namespace}/pods/{pod}/eviction"
    lab.kubectl.run("create", "--raw", path, "-f", "-", text_in=json.dumps(eviction))


EATS_WHEN_TOLD = """
import os, time
while not os.path.exists("/tmp/eat"):
    time.sleep(0.1)
x = [bytearray(b"x") * 2**20 for _ in range(4096)]
"""


@pytest.mark.alone
def test_causes_while_no_operator_is_there(lab: Lab, release: Release, images: dict[str, BuiltImage]) -> None:
    """An OOM and an eviction that nobody watched are told by what Kubernetes keeps."""
    program = ["python3", "-c", EATS_WHEN_TOLD]
    lab.task("hog", image=images["runner"].ref, command=program, resources=LIMIT, retry=ONCE)
    lab.task("waiting", WAITING, pod={"terminationGracePeriodSeconds": 1}, warm=COLD)
    hog, waiting = lab.run("hog"), lab.run("waiting")
    evicted, hungry = waiting.live(), hog.live()
    release.scale("operator", 0)
    try:
        evict(lab, str(evicted.pod))
        lab.kubectl.execute(str(hungry.pod), lab.namespace, "task", "touch", "/tmp/eat")
        eventually(
            "an evicted pod that is gone", lambda: lab.kubectl.find("pod", str(evicted.pod), lab.namespace) is None, 40
        )
        eventually("the OOM", lambda: _phase(lab, str(hungry.pod)) == "Failed", 40)
    finally:
        release.scale("operator", 1)
    hog.wait("Failed", timeout=60)
    (attempt,) = hog.attempts()
    assert (attempt.reason, attempt.counted) == ("OOMKilled", True), attempt
    waiting.wait("Succeeded", timeout=60)
    first = waiting.attempts()[0]
    assert first.infra, first
    assert first.reason in {"Evicted", "Drained", "LeaseExpired"}, first


def _phase(lab: Lab, pod: str) -> object:
    return dig(lab.kubectl.find("pod", pod, lab.namespace), "status", "phase")
