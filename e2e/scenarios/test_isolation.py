"""What a task may not do: take more than its limits, disturb others, find a credential. All of it in a namespace that
enforces the strictest of the pod security standards.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from e2e.cluster.capabilities import POD_PIDS, Capability
from e2e.harness.kubectl import KubectlError, Object, dig, objects
from e2e.harness.lab import COLD, Lab, Run
from e2e.harness.release import NAME
from e2e.harness.release import NAMESPACE as SYSTEM
from e2e.harness.wait import eventually
from e2e.images.build import BuiltImage
from e2e.scenarios import bombs
from e2e.scenarios.conftest import skip_without
from e2e.scenarios.judge import succeeded, untouched

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

ONCE = {"maxAttempts": 1}
CPU = 0.5
"""Of a processor: the limit of Tasks here."""


@dataclass(frozen=True)
class Case:
    """A task that wants too much, and how its run ends."""

    source: str
    phase: str
    reason: str
    limits: Mapping[str, str]


USUAL = {"cpu": f"{CPU * 1000:.0f}m", "memory": "128Mi"}
CASES = {
    "forks": Case(bombs.FORKS, "Failed", "TaskFailed", USUAL | {"memory": "512Mi"}),
    "memory": Case(bombs.MEMORY, "Failed", "OOMKilled", USUAL),
    "disk": Case(bombs.DISK, "Failed", "EphemeralStorageExceeded", USUAL | {"ephemeral-storage": "32Mi"}),
    "spin": Case(bombs.SPIN, "Succeeded", "Succeeded", USUAL),
}


@pytest.fixture(scope="module")
def strict(shared_lab: Lab) -> Lab:
    enforce = {
        "pod-security.kubernetes.io/enforce": "restricted",
        "pod-security.kubernetes.io/enforce-version": "latest",
    }
    meta = {"name": shared_lab.namespace, "labels": enforce}
    shared_lab.kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": meta})
    return shared_lab


@dataclass(frozen=True)
class Blast:
    """All bombs at once, beside a neighbour at work. `restarts`: of the control plane's containers, before them."""

    runs: Mapping[str, Run]
    neighbour: Run
    restarts: Mapping[str, int]


def restarts(lab: Lab) -> dict[str, int]:
    found = {}
    for pod in lab.kubectl.items("pods", SYSTEM):
        for container in objects(dig(pod, "status", "containerStatuses") or []):
            found[f"{dig(pod, 'metadata', 'name')}/{container['name']}"] = int(str(container["restartCount"]))
    return found


@pytest.fixture(scope="module")
def blast(strict: Lab) -> Blast:
    skip_without(strict.platform, Capability.PIDS_LIMIT)
    before = restarts(strict)
    strict.task("neighbour")
    neighbour = strict.run("neighbour", given={"steps": 60})
    neighbour.wait_steps(1)
    for name, case in CASES.items():
        requests = {"cpu": "20m", "memory": "32Mi"}
        limited = {"requests": requests, "limits": case.limits}
        strict.task(name, case.source, resources=limited, retry=ONCE, warm=COLD)
    return Blast({name: strict.run(name) for name in CASES}, neighbour, before)


def test_the_namespace_enforces_its_standard(strict: Lab, images: Mapping[str, BuiltImage]) -> None:
    container = {"name": "main", "image": images["runner"].ref, "securityContext": {"privileged": True}}
    pod: Object = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "root"}, "spec": {"containers": [container]}}
    with pytest.raises(KubectlError, match="violates PodSecurity"):
        strict.kubectl.create(pod, namespace=strict.namespace)


@pytest.mark.parametrize("name", CASES)
def test_a_bomb_ends_for_its_own_reason(blast: Blast, name: str) -> None:
    case, run = CASES[name], blast.runs[name]
    run.wait(case.phase, timeout=150)
    row = run.row()
    attempts = run.attempts()
    assert (len(attempts), attempts[0].reason) == (1, case.reason), row
    assert attempts[0].infra is False
    assert row["attempts_counted"] == (case.phase == "Failed")


def test_a_fork_bomb_finds_the_limit_of_its_pod(blast: Blast) -> None:
    run = blast.runs["forks"]
    run.wait("Failed")
    words = str(run.row()["message"]).split()
    assert "no process more than" in " ".join(words), words
    assert 100 < int(words[words.index("than") + 1].rstrip(":")) <= POD_PIDS


def test_spinning_gets_the_processor_time_that_is_its(blast: Blast) -> None:
    """What is taken is bounded by the quota, so what is left to others is, too."""
    run = blast.runs["spin"]
    run.wait("Succeeded")
    assert float(str(run.result_members()["cpus"])) <= CPU * 1.2


def test_others_do_not_notice(strict: Lab, blast: Blast) -> None:
    """The neighbour goes on in its one attempt; the control plane and the node are well."""
    for name, case in CASES.items():
        blast.runs[name].wait(case.phase, timeout=150)
    untouched(blast.neighbour, succeeded(blast.neighbour, steps=60))
    now = restarts(strict)
    assert {name: now[name] for name in blast.restarts if name in now} == {
        name: count for name, count in blast.restarts.items() if name in now
    }
    for node in strict.kubectl.items("nodes"):
        conditions = {str(one["type"]): one["status"] for one in objects(dig(node, "status", "conditions"))}
        assert conditions.pop("Ready") == "True"
        assert set(conditions.values()) <= {"False"}, conditions


def test_nothing_is_left_of_the_bombs(strict: Lab, blast: Blast) -> None:
    for name, case in CASES.items():
        blast.runs[name].wait(case.phase, timeout=150)

    def over() -> bool:
        pods = strict.kubectl.items("pods", strict.namespace, "milepost.dev/task in (forks,memory,disk)")
        return all(dig(pod, "status", "phase") in {"Succeeded", "Failed"} for pod in pods)

    eventually("the end of their pods", over, 40, diagnose=strict.diagnose)


@dataclass(frozen=True)
class Theft:
    """What a task found that looked for all that is not its own. `victim`: the run that it would have liked to be."""

    victim: Run
    found: Mapping[str, object]


@pytest.fixture(scope="module")
def theft(strict: Lab) -> Theft:
    strict.task("victim")
    victim = strict.run("victim", given={"steps": 60})
    attempt = victim.live()
    known = strict.sql.rows(f"select token from attempts where run_id = '{victim.id}' and attempt = {attempt.number}")
    env = [
        {"name": "API", "value": f"{NAME}-api.{SYSTEM}.svc:8443"},
        {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}},
    ]
    strict.task("thief", bombs.THIEF, env=env)
    other = {"run_id": victim.id, "attempt": attempt.number, "token": known[0]["token"]}
    run = strict.run("thief", given=other)
    run.wait("Succeeded")
    strict.kubectl.patch("mrun", victim.name, {"spec": {"cancel": True}}, strict.namespace)
    return Theft(victim, run.result_members())


def test_a_thief_finds_nothing(strict: Lab, theft: Theft) -> None:
    """No credential, no other process, no way to more rights; and the api asks who it is."""
    found, victim = theft.found, theft.victim
    assert set(dict_of(found["tokens"]).values()) == {"FileNotFoundError"}
    assert found["files"] == ["/run/milepost/sidecar.sock"]
    assert found["secrets in env"] == []
    assert found["others' processes"] == []
    assert set(dict_of(found["parent"]).values()) == {"PermissionError"}
    assert found["status"] == {"CapEff": "0" * 16, "CapBnd": "0" * 16, "NoNewPrivs": "1", "Seccomp": "2"}
    assert found["root"] == found["user namespace"] == "PermissionError"
    assert all("done" not in str(one) for one in dict_of(found["write"]).values()), found["write"]
    assert set(dict_of(found["api"]).values()) == {"done: 401"}
    sidecar = dict_of(found["sidecar"])
    assert victim.id not in str(sidecar)
    assert "404" in str(sidecar["pod api"])
    assert "stolen" not in {
        row["key"] for row in strict.sql.rows(f"select key from records where run_id = '{victim.id}'")
    }


@pytest.mark.needs("network-policy")
def test_a_thief_does_not_reach_the_kubelet(theft: Theft) -> None:
    ports = dict_of(theft.found["kubelet"])
    assert ports.keys() == {"10250", "10255"}
    assert all("done" not in str(one) for one in ports.values()), ports


def dict_of(value: object) -> dict[str, object]:
    assert isinstance(value, dict)
    return value
