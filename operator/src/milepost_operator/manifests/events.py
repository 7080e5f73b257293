"""Transitions of runs as Kubernetes Events."""

from typing import Final

from milepost_operator.crds.common import API_VERSION
from milepost_operator.domain.runs import RunEvent, RunView
from milepost_operator.manifests import names
from milepost_operator.manifests.raw import Manifest
from milepost_operator.manifests.run_cr import stamp

COMPONENT: Final = "milepost"
_MAX_MESSAGE: Final = 1000


def build_event(view: RunView, event: RunEvent, cr_uid: str) -> Manifest:
    """The Event of one transition. Its name is the transition's, so writing it twice makes no second one."""
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": names.event_name(view.name, str(view.run_id), event.seq),
            "namespace": view.namespace,
        },
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": "Run",
            "name": view.name,
            "namespace": view.namespace,
            "uid": cr_uid,
        },
        "type": "Warning" if event.warning else "Normal",
        "reason": event.reason[:128],
        "message": names.clipped(event.message, _MAX_MESSAGE),
        "firstTimestamp": stamp(event.at),
        "lastTimestamp": stamp(event.at),
        "count": 1,
        "source": {"component": COMPONENT},
        "reportingComponent": COMPONENT,
        "reportingInstance": COMPONENT,
    }
