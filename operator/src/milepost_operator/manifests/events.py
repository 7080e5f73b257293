"""Transitions of runs, and what is found of Tasks, as Kubernetes Events."""

from datetime import datetime
from typing import Final

from milepost_operator.crds.common import API_VERSION
from milepost_operator.domain.findings import Kind, TaskFinding
from milepost_operator.domain.runs import RunEvent, RunView
from milepost_operator.manifests import names
from milepost_operator.manifests.raw import Manifest
from milepost_operator.manifests.run_cr import stamp

COMPONENT: Final = "milepost"
_MAX_MESSAGE: Final = 1000


def build_event(view: RunView, event: RunEvent, cr_uid: str) -> Manifest:
    """The Event of one transition. Its name is the transition's, so writing it twice makes no second one."""
    name = names.event_name(view.name, str(view.run_id), event.seq)
    about = _about("Run", view.namespace, view.name, cr_uid)
    return _event(name, about, event.reason, event.message, event.at, warning=event.warning)


def build_task_event(found: TaskFinding, cr_uid: str) -> Manifest:
    """The Event of a finding that began to hold; named after it, so that it is told once."""
    finding = found.finding
    name = names.event_name(found.task, f"{cr_uid}/{finding.kind}", int(found.since.timestamp()))
    about = _about("Task", found.namespace, found.task, cr_uid)
    warning = finding.kind is not Kind.MEMORY_PROPOSAL
    return _event(name, about, finding.kind, finding.message, found.since, warning=warning)


def _about(kind: str, namespace: str, name: str, uid: str) -> Manifest:
    return {"apiVersion": API_VERSION, "kind": kind, "name": name, "namespace": namespace, "uid": uid}


def _event(name: str, about: Manifest, reason: str, message: str, at: datetime, *, warning: bool) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": about["namespace"]},
        "involvedObject": about,
        "type": "Warning" if warning else "Normal",
        "reason": reason[:128],
        "message": names.clipped(message, _MAX_MESSAGE),
        "firstTimestamp": stamp(at),
        "lastTimestamp": stamp(at),
        "count": 1,
        "source": {"component": COMPONENT},
        "reportingComponent": COMPONENT,
        "reportingInstance": COMPONENT,
    }
