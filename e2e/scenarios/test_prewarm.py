"""Pods that are there before their runs, images that are pulled ahead, and what a Task's conditions tell of both."""

from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from e2e.harness import warm
from e2e.harness.kubectl import as_object, dig
from e2e.harness.lab import Lab
from e2e.harness.programs import PLACE
from e2e.harness.wait import eventually, stays
from e2e.scenarios.conditions import condition, says
from e2e.scenarios.judge import untouched

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

NOT_FORK_SAFE = """
import threading

from milepost import Context, task

threading.Thread(target=threading.Event().wait, name="exporter", daemon=True).start()


@task(id="threads")
async def main(ctx: Context) -> str:
    return "done"
"""


def test_the_first_run_after_the_apply_is_a_hit_and_the_minimum_comes_back(lab: Lab) -> None:
    """Two pods are there before any run; one is killed, and there are two again."""
    lab.task("place", PLACE, warm={"min": 2})
    first, second = warm.settled(lab, "place", 2, timeout=60)
    assert says(lab, "place", "Prewarmed", "True")[1] == "Kept"
    run = lab.run("place")
    run.wait("Succeeded")
    (attempt,) = run.attempts()
    assert (attempt.cold, attempt.pod in {first.pod, second.pod}) == (None, True)
    untouched(run, run.attempts())
    gone = next(slot for slot in warm.settled(lab, "place", 2) if slot.pod != attempt.pod)
    lab.kubectl.run("delete", "pod", str(gone.pod), "-n", lab.namespace, "--wait=false")
    eventually("the end of its row", lambda: warm.row_state(lab, gone) == "closed", 30, diagnose=lab.diagnose)
    kept = warm.settled(lab, "place", 2, timeout=60)
    assert gone.pod not in {slot.pod for slot in kept}
    stays("two pods and no more", lambda: len(warm.slots(lab, "place")) == 2, 6)


def test_a_new_version_is_ready_before_its_runs(lab: Lab) -> None:
    lab.task("place", PLACE, warm={"min": 1})
    (old,) = warm.settled(lab, "place", timeout=60)
    lab.task("place", PLACE.replace('"pod":', '"new": 1, "pod":'), warm={"min": 1})
    eventually("the old pod's end", lambda: warm.row_state(lab, old) == "closed", 30, diagnose=lab.diagnose)
    (new,) = warm.settled(lab, "place", timeout=60)
    run = lab.run("place")
    run.wait("Succeeded")
    assert run.result_members()["new"] == 1
    assert (run.attempts()[0].cold, run.attempts()[0].pod) == (None, new.pod)
    lab.kubectl.run("delete", "task", "place", "-n", lab.namespace)
    warm.none_left(lab, "place")


def test_a_pod_is_ready_before_the_slot(lab: Lab) -> None:
    """A schedule's next slot is a minute ahead at most: its run finds a pod, though none ran before."""
    slot = (datetime.now(UTC) + timedelta(seconds=50)).replace(second=0, microsecond=0) + timedelta(minutes=1)
    cron = f"{slot.minute} {slot.hour} * * *"
    lab.task("place", PLACE, warm={"predict": True}, schedules=[{"name": "once", "cron": cron}])
    waiting = warm.settled(lab, "place", 1, timeout=130)
    assert datetime.now(UTC) < slot, "it is ready only after its slot"
    query = f"select name from runs where namespace = '{lab.namespace}' and origin = 'schedule'"
    name = eventually("the slot's run", lambda: lab.sql.value(query), 90, 0.5, lab.diagnose)
    (run,) = lab.runs(str(name))
    run.wait("Succeeded")
    assert [(one.cold, one.pod) for one in run.attempts()] == [(None, waiting[0].pod)]


def test_pods_that_cant_start_back_off_and_the_task_says_why(lab: Lab) -> None:
    """A module that can't be imported: no loop of Jobs, and no run is needed to see it."""
    lab.task("broken", "import nothing_of_that_name", warm={"min": 2})
    _, reason, message = says(lab, "broken", "Prewarmed", "False", 60)
    assert (reason, "nothing_of_that_name" in message) == ("Trouble", True)
    jobs = partial(lab.kubectl.items, "jobs", lab.namespace)
    stays("a few Jobs at most", lambda: len(jobs()) <= 4, 15)
    lab.task("broken", PLACE, warm={"min": 2})
    warm.settled(lab, "broken", 2, timeout=60)
    says(lab, "broken", "Prewarmed", "True")


def test_a_restart_ends_pods_and_makes_no_version(lab: Lab) -> None:
    """One that waits goes at once, one at work when its run is over."""
    lab.task("place", PLACE)
    busy = lab.run("place", given={"seconds": 8})
    live = busy.live()
    lab.run("place").wait("Succeeded")
    (idler,) = eventually("a pod that waits", lambda: warm.idle(lab, "place"), 30, 0.3, lab.diagnose)
    lab.kubectl.run(
        "annotate", "task", "place", "-n", lab.namespace, f"milepost.dev/restartedAt={datetime.now(UTC):%FT%TZ}"
    )
    eventually("the end of what waits", lambda: warm.row_state(lab, idler) == "closed", 30, diagnose=lab.diagnose)
    assert busy.phase == "Running", "a run was disturbed"
    busy.wait("Succeeded")
    untouched(busy, busy.attempts())
    warm.none_left(lab, "place")
    after = lab.run("place")
    after.wait("Succeeded")
    assert after.attempts()[0].pod not in {live.pod, idler.pod}
    assert dig(lab.kubectl.get("task", "place", lab.namespace), "status", "version") == 1


def test_an_import_that_cant_be_shared_is_told(lab: Lab) -> None:
    lab.task("threads", NOT_FORK_SAFE)
    lab.run("threads").wait("Succeeded")
    _, reason, message = says(lab, "threads", "NotForkSafe", "True")
    assert (reason, "thread exporter" in message) == ("ImportLeaves", True)
    lab.task("threads", PLACE)
    gone = lambda: condition(lab, "threads", "NotForkSafe") is None  # noqa: E731
    eventually("nothing told of the new version", gone, 40, 0.5, lab.diagnose)


def test_images_are_pulled_when_a_task_is_applied(lab: Lab) -> None:
    """The result is a condition, good or bad; nothing of the pull is left, and no run pays for one that fails."""
    runner = as_object(dig(lab.release.values, "image", "runner"))
    lab.task("there", image=f"{runner['repository']}:{runner['tag']}", entrypoint="place:main")
    _, reason, message = says(lab, "there", "ImagePulled", "True", 90)
    assert (reason, "version 1" in message) == ("Pulled", True)
    lab.task("missing", image="milepost.invalid/nothing:1", entrypoint="place:main")
    eventually(
        "the node's word for it",
        lambda: (condition(lab, "missing", "ImagePulled") or ("", "", ""))[1] in {"ErrImagePull", "ImagePullBackOff"},
        60,
        0.5,
        lab.diagnose,
    )
    lab.kubectl.run("delete", "task", "missing", "-n", lab.namespace)
    eventually("the end of all pulls", lambda: not lab.kubectl.items("jobs", lab.namespace), 40, 0.5, lab.diagnose)
