"""The control plane dies, sleeps or is upgraded in the middle of a run: it costs time, never work or an attempt."""

import threading

import pytest

from e2e.harness.faults import Nodes, Process, kill_component, leader, outage
from e2e.harness.lab import COLD, Lab, Run
from e2e.harness.release import NAMESPACE, Release
from e2e.harness.wait import eventually
from e2e.scenarios.judge import right, succeeded, untouched

pytestmark = [pytest.mark.cluster, pytest.mark.alone, pytest.mark.timeout(240)]


def running(lab: Lab, steps: int = 20) -> Run:
    """A run in the middle of its work."""
    lab.task()
    run = lab.run(given={"steps": steps})
    run.wait_steps(4)
    return run


def test_api_restarted(lab: Lab, release: Release) -> None:
    run = running(lab, steps=40)
    kill_component(release, "api")
    untouched(run, succeeded(run, steps=40))


def test_no_api_for_20_seconds(lab: Lab, release: Release) -> None:
    """Twice a lease without anybody to renew it: our own outage burns no attempt."""
    run = running(lab)
    outage(release, "api", 20)
    untouched(run, succeeded(run))


def test_database_restarted(lab: Lab, release: Release) -> None:
    run = running(lab, steps=40)
    kill_component(release, "postgres")
    untouched(run, succeeded(run, steps=40))


def test_no_database_for_20_seconds(lab: Lab, release: Release) -> None:
    run = running(lab)
    outage(release, "postgres", 20)
    untouched(run, succeeded(run))


def test_no_operator(lab: Lab, release: Release) -> None:
    """While it is away a run finishes, one is created and the object of a third is deleted; then it catches up."""
    first = running(lab)
    doomed = lab.run(given={"steps": 400})
    doomed.wait_steps(2)
    doomed_id = doomed.id
    release.scale("operator", 0)
    try:
        created = lab.run(given={"steps": 3, "seconds": 0.1})
        lab.kubectl.delete("run", doomed.name, lab.namespace, "--wait=false")
        first.wait_state("succeeded")
        assert first.phase not in {"", "Succeeded"}, "nobody is there to write it"
    finally:
        release.scale("operator", 1)
    untouched(first, succeeded(first, timeout=30))
    succeeded(created, steps=3)
    eventually(
        "the end of the run whose object was deleted",
        lambda: lab.sql.value(f"select state from runs where run_id = '{doomed_id}'") == "cancelled",
        60,
        diagnose=lab.diagnose,
    )


def test_two_operators(lab: Lab, release: Release, nodes: Nodes) -> None:
    """A frozen leader is replaced; when it wakes up it can launch nothing."""
    release.scale("operator", 2)
    frozen = ""
    pids: list[Process] = []
    try:
        frozen = eventually("a leader", lambda: _pod_of(release, leader(release)), 60, diagnose=release.diagnose)
        pids = nodes.freeze(NAMESPACE, frozen, "operator")
        eventually(
            "another leader",
            lambda: _pod_of(release, leader(release)) not in {"", frozen},
            60,
            diagnose=release.diagnose,
        )
        lab.task(warm=COLD)  # each run has to be launched: no pod that stays may spare the leaders that
        first = lab.run(given={"steps": 10})
        first.live()
        nodes.thaw(pids)
        pids = []
        epoch = lab.sql.value("select epoch from leadership")
        after = [lab.run(given={"steps": 3, "seconds": 0.1}) for _ in range(3)]
        for run in after:
            untouched(run, succeeded(run, steps=3))
        untouched(first, succeeded(first, steps=10))
        launched = f"select distinct epoch from pods where namespace = '{lab.namespace}'"
        assert [row["epoch"] for row in lab.sql.rows(launched)] == [epoch], "a deposed leader launched a pod"
        assert leader(release) != frozen
        jobs = lab.kubectl.items("jobs", lab.namespace)
        rows = lab.sql.value(f"select count(*) from pods where namespace = '{lab.namespace}'")
        assert len(jobs) <= int(str(rows)), "Jobs that no row asked for"
    finally:
        if pids:
            nodes.thaw(pids)
        release.scale("operator", 1)


def test_upgrade(lab: Lab, release: Release) -> None:
    """`helm upgrade` replaces every part of the control plane under a live run."""
    run = running(lab, steps=60)
    settings = release.values["settings"]
    assert isinstance(settings, dict)
    seconds = 14 if settings.get("progressSeconds") != 14 else 16
    upgrade = threading.Thread(target=release.upgrade, args=({"settings": {"progressSeconds": seconds}},))
    before = set(release.pod_names("api") + release.pod_names("operator"))
    upgrade.start()
    upgrade.join(200)
    assert not before & set(release.pod_names("api") + release.pod_names("operator")), "nothing was replaced"
    run.wait_state("succeeded", timeout=90)
    run.wait("Succeeded", timeout=30)
    untouched(run, right(run, steps=60))


def _pod_of(release: Release, identity: str) -> str:
    """Name of the operator pod that a holder's identity begins with; empty when there is none."""
    return next((name for name in release.pod_names("operator") if identity.startswith(name)), "")
