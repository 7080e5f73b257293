"""The Job that pulls a version's image before its runs come: small pods, one a node, that do nothing.

They have the Task's place and pull secrets, and nothing else of it: no environment, no volumes, no credential.
"""

from typing import Final

from milepost_operator.domain.pulls import PullOrder
from milepost_operator.manifests import names
from milepost_operator.manifests.job import (
    SHARED_GID,
    TASK_CONTAINER,
    TASK_UID,
    TTL_SECONDS,
    PodSettings,
    hardened,
    placed,
)
from milepost_operator.manifests.raw import Manifest, number, part, text

DEADLINE_SECONDS: Final = 600
NOTHING: Final = ("python3", "-I", "-S", "-c", "")
"""What the image of a task with an entrypoint can always run, since our runner is such a program."""
NO_PROGRAM: Final = ("/milepost-pulls-this-image-and-runs-nothing",)
"""An image of any other kind need not have a shell: that this can't be started tells that the image is there."""
_RESOURCES: Final = {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"cpu": "100m", "memory": "64Mi"}}


def job_name(pull_id: str) -> str:
    """Name of the Job of a pull."""
    return f"mp-pull-{pull_id}"


def build_pull_job(order: PullOrder, settings: PodSettings, nodes: int) -> Manifest:
    """A pod on each of so many nodes, where there are as many; each is tried once."""
    own = part(order.shape, "pod")
    labels = {
        names.MANAGED_BY: names.MANAGER,
        names.PULL_LABEL: order.pull_id,
        names.TASK_LABEL: names.label_value(order.task),
        names.VERSION_LABEL: str(order.version),
    }
    annotations = {names.CLUSTER_ANNOTATION: settings.cluster}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": job_name(order.pull_id),
            "namespace": order.namespace,
            "labels": labels,
            "annotations": annotations,
        },
        "spec": {
            "completionMode": "Indexed",
            "completions": nodes,
            "parallelism": nodes,
            "backoffLimitPerIndex": 0,
            "activeDeadlineSeconds": DEADLINE_SECONDS,
            "ttlSecondsAfterFinished": TTL_SECONDS,
            "template": {
                "metadata": {"labels": {**part(own, "labels"), **labels}, "annotations": annotations},
                "spec": {
                    "restartPolicy": "Never",
                    "automountServiceAccountToken": False,
                    "enableServiceLinks": False,
                    "terminationGracePeriodSeconds": 0,
                    "securityContext": {
                        "runAsNonRoot": True,
                        "runAsUser": number(own, "runAsUser") or TASK_UID,
                        "fsGroup": number(own, "fsGroup") or SHARED_GID,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "topologySpreadConstraints": [_apart(order)],
                    "containers": [_container(order, settings)],
                    **placed(own),
                },
            },
        },
    }


def _apart(order: PullOrder) -> Manifest:
    return {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {names.PULL_LABEL: order.pull_id}},
    }


def _container(order: PullOrder, settings: PodSettings) -> Manifest:
    return {
        "name": TASK_CONTAINER,
        "image": text(order.shape, "image"),
        "imagePullPolicy": settings.image_pull_policy,
        "command": list(NO_PROGRAM if part(order.shape).get("command") else NOTHING),
        "resources": _RESOURCES,
        "securityContext": hardened(read_only=True),
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
