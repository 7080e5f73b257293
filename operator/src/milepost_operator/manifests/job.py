"""The Job of a pods row. Its shape is a contract with the sidecar and the runner (ARCHITECTURE, "The pod").

Nothing here is about a run: input, fencing token and command of an attempt travel through the sidecar.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from milepost.wire.local import AHEAD_ENV, SCRATCH_ENV, SOCKET, SOCKET_ENV
from milepost.wire.pod import AUDIENCE
from milepost_operator.domain.runs import PodOrder
from milepost_operator.manifests import names
from milepost_operator.manifests.raw import Manifest, Object, at, number, part, parts, text
from milepost_operator.manifests.resources import resources

TASK_CONTAINER: Final = "task"
SIDECAR_CONTAINER: Final = "milepost-sidecar"
RUNNER_COMMAND: Final = ("python3", "-m", "milepost.runner")
TASK_UID: Final = 65532
SIDECAR_UID: Final = 65530
SHARED_GID: Final = 65531
TTL_SECONDS: Final = 600
UNREACHABLE_SECONDS: Final = 30
TOKEN_SECONDS: Final = 3600
RUN_DIR: Final = "/run/milepost"
SCRATCH: Final = ("/tmp", RUN_DIR, "/dev/shm", "/dev/mqueue")  # noqa: S108 (of the pod)
TOKEN_DIR: Final = "/var/run/secrets/milepost"  # noqa: S105 (a directory)

_SIDECAR_RESOURCES: Final = {
    "requests": {"cpu": "10m", "memory": "32Mi"},
    "limits": {"cpu": "1", "memory": "64Mi"},
}
_PASSED: Final = (
    "serviceAccountName",
    "imagePullSecrets",
    "nodeSelector",
    "affinity",
    "runtimeClassName",
    "priorityClassName",
)
"""Settings of a Task's `pod` that go into the pod's spec as they are."""
_WISHES: Final = "preferredDuringSchedulingIgnoredDuringExecution"


@dataclass(frozen=True, slots=True)
class PodSettings:
    """What the installation says of every pod. `ca`: PEM of the api's CA; empty: the image's own trust."""

    runner_image: str
    sidecar_image: str
    api_url: str
    ca: str = ""
    cluster: str = "default"
    image_pull_policy: str = "IfNotPresent"
    requests: Mapping[str, str] = field(default_factory=lambda: {"cpu": "50m", "memory": "128Mi"})
    limits: Mapping[str, str] = field(default_factory=lambda: {"cpu": "1", "memory": "512Mi"})


def build_job(order: PodOrder, settings: PodSettings, avoided: Sequence[str] = ()) -> Manifest:
    """The Job of `order`: one pod, never retried by Kubernetes, without an owner. `avoided`: nodes that are not for it
    where there are others.
    """
    labels = {
        names.MANAGED_BY: names.MANAGER,
        names.POD_LABEL: order.pod_id,
        names.TASK_LABEL: names.label_value(order.task),
        names.VERSION_LABEL: str(order.version),
    }
    annotations = {names.CLUSTER_ANNOTATION: settings.cluster}
    own = part(order.shape, "pod")
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": names.job_name(order.pod_id),
            "namespace": order.namespace,
            "labels": labels,
            "annotations": annotations,
        },
        "spec": {
            "backoffLimit": 0,
            "completions": 1,
            "parallelism": 1,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": _failure_policy(),
            "ttlSecondsAfterFinished": TTL_SECONDS,
            "template": {
                "metadata": {
                    "labels": {**part(own, "labels"), **labels},
                    "annotations": {**part(own, "annotations"), **annotations},
                },
                "spec": _pod_spec(order, settings, own) | _avoiding(own, avoided),
            },
        },
    }


def template_hash(settings: PodSettings) -> str:
    """Names what is the same in all pods: a pod of another installation's making is not used again."""
    job = build_job(PodOrder("0" * 16, "", "", 0, "", {}, None), settings)
    return hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()[:16]


def _failure_policy() -> Manifest:
    """Leaves the evidence in the Job's Failed condition, for as long as the Job lives, also when the pod is gone."""
    return {
        "rules": [
            {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {
                "action": "FailJob",
                "onExitCodes": {"containerName": TASK_CONTAINER, "operator": "NotIn", "values": [0]},
            },
        ],
    }


def _pod_spec(order: PodOrder, settings: PodSettings, own: Object) -> Manifest:
    spec: Manifest = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": number(own, "terminationGracePeriodSeconds") or 30,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": number(own, "runAsUser") or TASK_UID,
            "fsGroup": number(own, "fsGroup") or SHARED_GID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "initContainers": [_sidecar(order, settings)],
        "containers": [_task(order, settings, own)],
        "volumes": _volumes(own),
    }
    return spec | placed(own)


def placed(own: Object) -> Manifest:
    """Where the Task's pods run, and as whom they pull."""
    tolerations = [*parts(own, "tolerations"), *_node_loss(own)]
    return {"tolerations": tolerations, **{key: own[key] for key in _PASSED if key in own}}


def _avoiding(own: Object, nodes: Sequence[str]) -> Manifest:
    """Prefer other nodes, beside what the Task prefers; with no other, these are better than none."""
    if not nodes:
        return {}
    elsewhere = [{"key": "metadata.name", "operator": "NotIn", "values": [node]} for node in nodes]
    affinity = part(own, "affinity")
    of_nodes = part(affinity, "nodeAffinity")
    wishes = [*parts(of_nodes, _WISHES), {"weight": 100, "preference": {"matchFields": elsewhere}}]
    return {"affinity": {**affinity, "nodeAffinity": {**of_nodes, _WISHES: wishes}}}


def _node_loss(own: Object) -> list[Manifest]:
    """Give a lost node up after 30 s, unless the Task tolerates it in its own way."""
    taken = {text(toleration, "key") for toleration in parts(own, "tolerations")}
    return [
        {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": UNREACHABLE_SECONDS}
        for key in ("node.kubernetes.io/unreachable", "node.kubernetes.io/not-ready")
        if key not in taken
    ]


def hardened(*, read_only: bool) -> Manifest:
    """What no container of ours may do, as the Pod Security Standard `restricted` asks."""
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": read_only,
        "runAsNonRoot": True,
    }


def _sidecar(order: PodOrder, settings: PodSettings) -> Manifest:
    """No probe: the runner waits for the socket itself, and a startup probe would cost a second."""
    reusable = not at(order.shape, "command")
    env = {
        "MILEPOST_API_URL": settings.api_url,
        "MILEPOST_CA": settings.ca,
        "MILEPOST_POD_ID": order.pod_id,
        "MILEPOST_REUSABLE": "true" if reusable else "",
        SOCKET_ENV: SOCKET,
        "MILEPOST_TOKEN_FILE": f"{TOKEN_DIR}/token",
    }
    return {
        "name": SIDECAR_CONTAINER,
        "image": settings.sidecar_image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": ["python3", "-I", "-m", "milepost.sidecar"],
        "restartPolicy": "Always",
        "env": [{"name": key, "value": value} for key, value in env.items() if value],
        "resources": _SIDECAR_RESOURCES,
        "securityContext": {**hardened(read_only=True), "runAsUser": SIDECAR_UID},
        "volumeMounts": [
            {"name": "milepost-run", "mountPath": RUN_DIR},
            {"name": "milepost-token", "mountPath": TOKEN_DIR, "readOnly": True},
        ],
    }


def _task(order: PodOrder, settings: PodSettings, own: Object) -> Manifest:
    env = {
        SOCKET_ENV: SOCKET,
        SCRATCH_ENV: ":".join(_scratch(own)),
        "HOME": "/tmp",  # noqa: S108 (an emptyDir of the pod)
        "TMPDIR": "/tmp",  # noqa: S108
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        **({AHEAD_ENV: "true"} if order.ahead else {}),
    }
    container: Manifest = {
        "name": TASK_CONTAINER,
        "image": _image(order, settings),
        "imagePullPolicy": settings.image_pull_policy,
        "command": at(order.shape, "command") or list(RUNNER_COMMAND),
        "env": [*parts(order.shape, "env"), *({"name": key, "value": value} for key, value in env.items())],
        "resources": resources(part(order.shape, "resources"), settings.requests, settings.limits, order.memory_class),
        "securityContext": hardened(read_only=own.get("readOnlyRootFilesystem") is not False),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "milepost-run", "mountPath": RUN_DIR},
            *([] if _own_tmp(own) else [{"name": "milepost-tmp", "mountPath": "/tmp"}]),  # noqa: S108
            *parts(own, "volumeMounts"),
        ],
    }
    if at(order.shape, "args"):
        container["args"] = at(order.shape, "args")
    if env_from := parts(order.shape, "envFrom"):
        container["envFrom"] = env_from
    return container


def _image(order: PodOrder, settings: PodSettings) -> str:
    """The image as the version's first pod resolved it, so that a moved tag makes no second meaning of a version."""
    image = text(order.shape, "image")
    if not image:
        return settings.runner_image
    if not order.image_digest:
        return image
    return order.image_digest if "@" in order.image_digest else f"{repository(image)}@{order.image_digest}"


def repository(image: str) -> str:
    """An image's name less its tag and digest."""
    name = image.partition("@")[0]
    head, colon, tail = name.rpartition(":")
    return head if colon and "/" not in tail else name


def _own_tmp(own: Object) -> bool:
    return "/tmp" in _mounted(own)  # noqa: S108


def _mounted(own: Object) -> set[str]:
    """Where the Task has volumes of its own."""
    return {text(mount, "mountPath").rstrip("/") for mount in parts(own, "volumeMounts")}


def _scratch(own: Object) -> list[str]:
    """What a run can write to and no volume of the Task's is: the runner empties it before the pod's next run."""
    return [place for place in SCRATCH if place not in _mounted(own)]


def _volumes(own: Object) -> list[object]:
    token = {"path": "token", "audience": AUDIENCE, "expirationSeconds": TOKEN_SECONDS}
    return [
        {"name": "milepost-run", "emptyDir": {"medium": "Memory", "sizeLimit": "8Mi"}},
        {"name": "milepost-tmp", "emptyDir": {}},
        {"name": "milepost-token", "projected": {"sources": [{"serviceAccountToken": token}]}},
        *parts(own, "volumes"),
    ]
