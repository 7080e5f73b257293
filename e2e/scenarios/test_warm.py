"""Pods that stay after a run: the next one starts in the same pod, in a process that knows nothing of the last."""

from functools import partial

import pytest

from e2e.harness import warm
from e2e.harness.faults import kill_component
from e2e.harness.kubectl import dig
from e2e.harness.lab import COLD, Lab, Run
from e2e.harness.platform import ROOT
from e2e.harness.programs import PLACE
from e2e.harness.wait import eventually, stays
from e2e.scenarios.judge import untouched
from e2e.scenarios.test_pod_tokens import Subject

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

LEAKS = ROOT / "tests/leaks.py"


def place(lab: Lab, key: str | None = None) -> dict[str, object]:
    """Run the Task `place` once, to its end: what it told of where it ran, with its run. `key`: of concurrency."""
    run = lab.run("place", concurrencyKey=key) if key else lab.run("place")
    told = ended(run)
    untouched(run, run.attempts())
    return told


def ended(run: Run) -> dict[str, object]:
    """What a run of the Task `place` told, with itself and why its first attempt needed a new pod."""
    run.wait("Succeeded")
    return {**run.result_members(), "run": run, "cold": run.attempts()[0].cold}


def test_the_next_run_takes_the_same_pod(lab: Lab) -> None:
    """One import, two processes; the Task's object tells of it."""
    lab.task("place", PLACE)
    first = place(lab)
    assert first["cold"] == "first"
    (waiting,) = warm.settled(lab, "place")
    assert waiting.pod == first["pod"]
    second = place(lab)
    assert (second["pod"], second["cold"]) == (first["pod"], None)
    assert second["imported"] == first["imported"], "the module was imported again"
    assert second["process"] != first["process"]
    shown = partial(_status, lab)
    expected = {"idle": 1, "busy": 0, "hits": 1, "misses": 1, "coldReason": "first"}
    eventually("the Task's pods in its status", lambda: shown() == expected, 60, 1.0, lab.diagnose)
    columns = lab.kubectl.run("get", "tasks", "-n", lab.namespace).splitlines()[0].split()
    assert {"WARM", "BUSY"} <= set(columns)


def _status(lab: Lab) -> object:
    return dig(lab.kubectl.get("task", "place", lab.namespace), "status", "warm")


@pytest.mark.alone
def test_no_operator_is_needed_for_it(lab: Lab) -> None:
    """A waiting pod gets its run from the api alone: nobody writes to Kubernetes on the way."""
    lab.task("place", PLACE)
    first = place(lab)
    warm.settled(lab, "place")
    lab.release.scale("operator", 0)
    try:
        body = {"task": "place", "namespace": lab.namespace, "name": "alone"}
        assert lab.release.api.call("POST", "/v1/runs", body).status == 201
        run = Run(lab, "alone")
        assert run.end() == "succeeded"
        assert run.result_members()["pod"] == first["pod"]
    finally:
        lab.release.scale("operator", 1)
    untouched(run, run.attempts())
    run.wait("Succeeded")


def test_nothing_leaks(lab: Lab) -> None:
    """Whatever a run leaves behind, in memory, files, processes: the next one in its pod finds what the first found."""
    lab.task("leaks", LEAKS.read_text())
    first = lab.run("leaks", given={"leak_all": True})
    first.wait("Succeeded")
    warm.settled(lab, "leaks")
    second = lab.run("leaks")
    second.wait("Succeeded")
    assert warm.pods_of([second]) == warm.pods_of([first]), "another pod: nothing was tried"
    found, clean = second.result_members(), first.result_members()
    assert found.pop("trace") != clean.pop("trace"), "one trace for two attempts"
    assert found == clean


def test_a_failed_run_leaves_its_pod_to_the_next(lab: Lab) -> None:
    """An exception of the user's says nothing against the pod; running out of memory does."""
    lab.task("fails", FAILS, retry={"maxAttempts": 1})
    ends = []
    for how in ("raise", "return", "hog", "return"):
        run = lab.run("fails", given={"how": how})
        run.wait("Succeeded" if how == "return" else "Failed")
        ends.append(run.attempts()[0])
        if how != "hog":
            warm.settled(lab, "fails")
    raised, after_raise, hog, after_hog = ends
    assert after_raise.pod == raised.pod
    assert (hog.pod, hog.reason) == (raised.pod, "OOMKilled")
    assert after_hog.pod != hog.pod
    assert after_hog.cold is not None


def test_who_may_reuse_a_pod(lab: Lab) -> None:
    """`never`, or no seconds: nobody, and the pod ends at once; `key`: runs of the same concurrency key."""
    for nobody in ({"reuse": "never"}, COLD):
        lab.task("place", PLACE, warm=nobody)
        assert place(lab)["cold"] == "off"
        warm.none_left(lab, "place")
    lab.task("place", PLACE, warm={"reuse": "key"})
    ours = place(lab, "ours")
    warm.settled(lab, "place")
    theirs = place(lab, "theirs")
    assert (theirs["cold"], theirs["pod"] != ours["pod"]) == ("key", True)
    warm.settled(lab, "place", 2)
    again = place(lab, "ours")
    assert (again["cold"], again["pod"]) == (None, ours["pod"])


def test_a_new_version_retires_the_pods_of_the_old(lab: Lab) -> None:
    lab.task("place", PLACE)
    old = place(lab)
    (waiting,) = warm.settled(lab, "place")
    lab.task("place", PLACE.replace('"pod":', '"new": 1, "pod":'))
    eventually("the old pod's end", lambda: warm.row_state(lab, waiting) == "closed", 30, diagnose=lab.diagnose)
    new = place(lab)
    assert new["new"] == 1
    assert new["pod"] != old["pod"]
    assert new["cold"] in {"version", "first"}


def test_limits_of_what_waits(lab: Lab) -> None:
    """No more pods wait than the Task allows, none longer than it says, and those that go end well."""
    lab.task("place", PLACE, warm={"max": 2, "seconds": 15})
    runs = [lab.run("place", given={"seconds": 4}) for _ in range(4)]
    for run in runs:
        run.wait("Succeeded")
    assert len(set(warm.pods_of(runs))) == 4, "four at once have four pods"
    warm.settled(lab, "place", 2)
    warm.none_left(lab, "place", 40)
    jobs = lab.kubectl.items("jobs", lab.namespace)
    eventually("the Jobs' ends", lambda: all(_over(job) for job in lab.kubectl.items("jobs", lab.namespace)), 30)
    failed = [job for job in lab.kubectl.items("jobs", lab.namespace) if dig(job, "status", "failed")]
    assert failed == [], "a pod that had nothing to do ended with an error"
    assert len(jobs) == 4


def _over(job: dict[str, object]) -> bool:
    return bool(
        dig(job, "status", "succeeded") or dig(job, "status", "failed") or dig(job, "metadata", "deletionTimestamp")
    )


def test_a_pod_takes_so_many_runs_and_no_more(lab: Lab) -> None:
    lab.task("place", PLACE, warm={"maxRuns": 2})
    pods = []
    for number in range(3):
        pods.append(place(lab)["pod"])
        warm.none_left(lab, "place") if number == 1 else warm.settled(lab, "place")
    assert pods[0] == pods[1] != pods[2]


@pytest.mark.alone
def test_the_least_recently_used_go_first(lab: Lab) -> None:
    """Where all Tasks together keep too many, the one that has not run for the longest time gives its pod."""
    total = dig(lab.release.values, "settings", "warmTotal") or 50
    lab.release.upgrade({"settings": {"warmTotal": 2}})
    try:
        for name in ("place-a", "place-b", "place-c"):
            lab.task(name, PLACE)
            lab.run(name).wait("Succeeded")
            if name != "place-c":
                warm.settled(lab, name)
        kept = {"place-b", "place-c"}
        eventually("the newest two", lambda: {s.task for s in warm.slots(lab)} == kept, 30, 0.3, lab.diagnose)
        stays("two pods", lambda: len(warm.slots(lab)) <= 2, 3)
    finally:
        lab.release.upgrade({"settings": {"warmTotal": total}})


def test_waiting_pods_yield_to_a_quota(lab: Lab) -> None:
    """A namespace that may have one pod: the one that waits makes room for another Task's run."""
    meta = {"name": "one-pod", "namespace": lab.namespace}
    lab.kubectl.apply({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": meta, "spec": {"hard": {"pods": "1"}}})
    lab.task("place", PLACE)
    place(lab)
    (waiting,) = warm.settled(lab, "place")
    lab.task("other", PLACE)
    run = lab.run("other")
    run.wait("Succeeded", timeout=120)  # whoever makes pods of Jobs tries again ever later
    untouched(run, run.attempts())
    assert warm.row_state(lab, waiting) == "closed"


def test_a_finished_run_is_shut_while_its_pod_works_on(lab: Lab) -> None:
    """The pod's session is still good, and writes for the run that it has now alone."""
    lab.task("place", PLACE)
    first = place(lab)
    run = first["run"]
    assert isinstance(run, Run)
    warm.settled(lab, "place")
    second = lab.run("place", given={"seconds": 8})
    attempt = second.live()
    assert attempt.pod == first["pod"]
    of_now = Subject(lab, second, attempt.pod_id, str(attempt.pod))
    session = str(of_now.session(of_now.projected()).field("token"))
    refused = Subject(lab, run, attempt.pod_id, str(attempt.pod)).write(session)
    assert (refused.status, refused.field("code")) in {(409, "settled"), (409, "fenced")}
    assert of_now.write(session, key="allowed").status == 200
    second.wait("Succeeded")


@pytest.mark.alone
def test_a_restarted_api_finds_its_pods_again(lab: Lab) -> None:
    lab.task("place", PLACE)
    first = place(lab)
    warm.settled(lab, "place")
    kill_component(lab.release, "api")
    # who does not ask the new one is taken for dead when it is given work
    eventually("the waiting pods' questions", lambda: warm.all_asked(lab), 30, 1.0, lab.diagnose)
    assert place(lab)["pod"] == first["pod"]


FAILS = """
from milepost import Context, task


@task(id="fails")
async def main(ctx: Context, how: str) -> int:
    if how == "raise":
        raise ValueError("as asked")
    return len([bytearray(b"x") * 2**20 for _ in range(4096)]) if how == "hog" else 0
"""
