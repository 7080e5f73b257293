"""Pods that wait, or are about to begin, are lost: the run starts elsewhere, and it costs no attempt."""

import json
import random
import signal
import time

import pytest

from e2e.harness import warm
from e2e.harness.faults import Nodes
from e2e.harness.kubectl import dig
from e2e.harness.lab import API_VERSION, Lab, wait_all
from e2e.harness.programs import PLACE
from e2e.harness.wait import eventually
from e2e.scenarios.judge import untouched
from e2e.scenarios.test_survive_pod import SIDECAR
from e2e.scenarios.test_warm import ended, place

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]


def waiting(lab: Lab, **spec: object) -> tuple[warm.Slot, dict[str, object]]:
    """A pod that waits, and what its run told of it."""
    lab.task("place", PLACE, **spec)
    told = place(lab)
    (slot,) = warm.settled(lab, "place")
    return slot, told


def closed(lab: Lab, slot: warm.Slot, timeout: float = 40) -> None:
    """Its row is closed, and its pod is gone or over."""

    def look() -> bool:
        found = lab.kubectl.find("pod", str(slot.pod), lab.namespace)
        over = found is None or dig(found, "status", "phase") in {"Succeeded", "Failed"}
        return over and warm.row_state(lab, slot) == "closed"

    eventually(f"the end of {slot.pod}", look, timeout, 0.5, lab.diagnose)


def elsewhere(lab: Lab, slot: warm.Slot) -> None:
    """A run that comes while its pod goes ends in another one. It costs no attempt, whatever the dying one began."""
    run = lab.run("place")
    told = ended(run)
    assert told["pod"] != slot.pod
    assert not any(attempt.counted for attempt in run.attempts()), run.attempts()
    closed(lab, slot)


def test_a_waiting_pod_is_lost(lab: Lab) -> None:
    """The next run comes once the loss was seen: it starts in a new pod, as if there had been none."""
    slot, told = waiting(lab)
    lab.kubectl.delete("pod", str(slot.pod), lab.namespace, "--grace-period=0", "--force", "--wait=false")
    closed(lab, slot)
    again = place(lab)
    assert again["pod"] != told["pod"]
    assert again["cold"] is not None


def test_a_run_comes_as_a_waiting_pod_is_lost(lab: Lab) -> None:
    slot, _ = waiting(lab)
    lab.kubectl.delete("pod", str(slot.pod), lab.namespace, "--grace-period=0", "--force", "--wait=false")
    elsewhere(lab, slot)


def test_a_run_comes_as_a_waiting_pods_container_is_killed(lab: Lab, nodes: Nodes) -> None:
    slot, _ = waiting(lab)
    nodes.kill(lab.namespace, str(slot.pod), "task")
    elsewhere(lab, slot)


def test_a_waiting_pod_is_drained(lab: Lab) -> None:
    """It has nothing to lose, so it ends long before its grace is over."""
    slot, told = waiting(lab, pod={"terminationGracePeriodSeconds": 60})
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": slot.pod, "namespace": lab.namespace},
    }
    path = f"/api/v1/namespaces/{lab.namespace}/pods/{slot.pod}/eviction"
    lab.kubectl.run("create", "--raw", path, "-f", "-", text_in=json.dumps(eviction))
    closed(lab, slot, timeout=15)
    assert place(lab)["pod"] != told["pod"]


def test_an_offer_that_nobody_hears_goes_back(lab: Lab, nodes: Nodes) -> None:
    """The sidecar stands still: its offer is taken back in seconds, and when it wakes up it has nothing to say."""
    slot, told = waiting(lab)
    pids = nodes.freeze(lab.namespace, str(slot.pod), SIDECAR)
    try:
        begun = time.monotonic()
        again = place(lab)
        took = time.monotonic() - begun
    finally:
        nodes.thaw(pids)
    assert (again["pod"] != told["pod"], again["cold"]) == (True, "returned")
    assert took < 20
    closed(lab, slot)


def test_an_offered_pod_is_killed(lab: Lab, nodes: Nodes) -> None:
    slot, told = waiting(lab)
    pids = [
        *nodes.freeze(lab.namespace, str(slot.pod), SIDECAR),
        *nodes.processes(lab.namespace, str(slot.pod), "task"),
    ]
    run = lab.run("place")
    eventually("the offer", lambda: warm.row_state(lab, slot) != "idle", 20, 0.1, lab.diagnose)
    nodes.signal(pids, signal.SIGKILL)
    run.wait("Succeeded")
    untouched(run, run.attempts())
    assert run.result_members()["pod"] != told["pod"]


def test_a_waiting_pods_sidecar_is_restarted(lab: Lab, nodes: Nodes) -> None:
    """It comes back to the parent that waits, and asks for work by itself."""
    slot, told = waiting(lab, warm={"seconds": 120})
    nodes.kill(lab.namespace, str(slot.pod), SIDECAR)

    def ready() -> bool:
        found = lab.kubectl.get("pod", str(slot.pod), lab.namespace)
        status = dig(found, "status", "initContainerStatuses", 0)
        return dig(status, "restartCount") == 1 and dig(status, "state", "running") is not None

    eventually("another sidecar", ready, 40, 0.3, lab.diagnose)
    eventually("its question", lambda: warm.sidecar_asks(lab, slot), 20, 0.3, lab.diagnose)
    again = place(lab)
    assert (again["pod"], again["cold"]) == (told["pod"], None)


def test_many_runs_while_pods_die(lab: Lab) -> None:
    """60 runs, at most four at a time; five times any pod of theirs is deleted, at work or not."""
    chance = random.Random(7)
    spec = {"concurrency": 4}
    lab.kubectl.apply(
        {"apiVersion": API_VERSION, "kind": "Queue", "metadata": {"name": "four"}, "spec": spec},
        namespace=lab.namespace,
    )
    lab.task("place", PLACE, queue="four", warm={"max": 3})
    runs = [lab.run("place", f"many-{number:02}", {"seconds": 0.5}) for number in range(20)]
    for turn in range(5):
        there = [slot for slot in warm.slots(lab) if slot.pod and slot.state != "closing"]
        if there:
            victim = str(chance.choice(there).pod)
            lab.kubectl.delete("pod", victim, lab.namespace, "--grace-period=0", "--force", "--wait=false")
        runs += [lab.run("place", f"more-{turn}-{number}", {"seconds": 0.2}) for number in range(8)]
    wait_all(runs, lambda state: state == "succeeded", 150)
    for run in runs:
        attempts = run.attempts()
        assert not any(attempt.counted for attempt in attempts), attempts
    served = lab.sql.rows(
        "select a.pod_id, count(*) n from attempts a join runs r using (run_id) "
        f"where r.namespace = '{lab.namespace}' group by 1 order by 2 desc"
    )
    assert int(str(served[0]["n"])) > 1, "no pod was used twice"
    eventually("no more than may wait", lambda: len(warm.slots(lab)) <= 3, 30, 0.5, lab.diagnose)
