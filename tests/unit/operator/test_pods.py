"""Decisions about open pods rows."""

from datetime import UTC, datetime, timedelta

import pytest

from milepost_operator.domain.runs import OpenPod
from milepost_operator.domain.states import Reason
from milepost_operator.manifests.job import SIDECAR_CONTAINER, TASK_CONTAINER
from milepost_operator.reconcile.pods import Confirm, Delete, End, Sight, decide

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def running(seconds: float) -> dict[str, object]:
    since = (NOW - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
    state = {"running": {"startedAt": since}}
    return {
        "metadata": {"name": "mp-a-x", "uid": "u"},
        "status": {
            "phase": "Running",
            "containerStatuses": [{"name": TASK_CONTAINER, "state": state}],
            "initContainerStatuses": [{"name": SIDECAR_CONTAINER, "state": state}],
        },
    }


@pytest.mark.parametrize(
    ("state", "unheard", "runs", "ends"),
    [
        ("created", 300, 300, True),
        ("created", 300, 20, False),  # it waited for its node or image until a moment ago
        ("created", 20, 300, False),  # the api was down until a moment ago
        ("bound", 0, 300, False),
    ],
)
def test_a_sidecar_that_is_not_heard_of_frees_its_slot(state: str, unheard: float, runs: float, ends: bool) -> None:
    row = OpenPod("a", "team", state, "job", None, None, 1, 300.0, 0, unheard)
    job = {"metadata": {"name": "mp-a", "uid": "job"}}
    actions = decide(row, Sight(job, [running(runs)], fresh=True), NOW, 60.0)
    assert [type(a) for a in actions] == ([End, Delete] if ends else [])
    if ends:
        end = actions[0]
        assert isinstance(end, End)
        assert (end.ending.reason, end.ending.infra) == (Reason.SIDECAR_LOST, True)


def test_nothing_is_concluded_of_a_living_pod_from_the_watches_alone() -> None:
    """They may be minutes behind: it may have pulled its image since."""
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}
    pod = running(300) | {"metadata": {"name": "mp-a-x", "uid": "u", "creationTimestamp": "2025-12-31T00:00:00Z"}}
    pod["status"] = {"phase": "Pending", "containerStatuses": [{"name": TASK_CONTAINER, "state": waiting}]}
    row = OpenPod("a", "team", "bound", "job", "u", None, 1, 300.0, 0)
    job = {"metadata": {"name": "mp-a", "uid": "job"}}
    assert [type(a) for a in decide(row, Sight(job, [pod]), NOW, 60.0)] == [Confirm]
    assert [type(a) for a in decide(row, Sight(job, [pod], fresh=True), NOW, 60.0)] == [End, Delete]
