"""The chart as real Helm renders it."""

import base64
import functools
import json
import subprocess
from pathlib import Path
from typing import Any

import yaml

from e2e.cluster import binaries

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts/milepost"
NAMESPACE = "milepost-system"
Object = dict[str, Any]
Values = dict[str, Any]

MAXIMAL: Values = {
    "api": {
        "replicas": 3,
        "service": {"type": "LoadBalancer", "annotations": {"a.example/b": "c"}},
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"key": "only", "operator": "Exists", "effect": "NoSchedule"}],
        "affinity": {"nodeAffinity": {}},
        "priorityClassName": "high",
        "podAnnotations": {"note": "x"},
        "podLabels": {"team": "core"},
    },
    "operator": {"replicas": 2, "podLabels": {"team": "core"}},
    "postgres": {
        "persistence": {"storageClass": "fast", "size": "100Gi"},
        "settings": {"work_mem": "16MB", "max_wal_size": 4096},
    },
    "namespaces": ["team-a", "team-b"],
    "imagePullSecrets": [{"name": "registry"}],
    "imagePullPolicy": "Always",
    "image": {"controlPlane": {"digest": "sha256:" + "0" * 64}},
    "networkPolicy": {"metricsFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "mon"}}}]},
    "metrics": {"serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}}},
    "admissionPolicy": {"trustedUsers": ["system:serviceaccount:velero:velero"]},
}
EXTERNAL: Values = {
    "postgres": {"external": {"url": "postgresql://me:pw@db.example:5432/milepost?sslmode=verify-full"}},
}
OWN_SECRETS: Values = {
    "api": {"tokens": {"existingSecret": "my-keys"}, "tls": {"existingSecret": "my-tls"}},
    "postgres": {"auth": {"existingSecret": "my-database"}, "tls": {"existingSecret": "my-postgres-tls"}},
}
MINIMAL: Values = {
    "postgres": {"external": {"existingSecret": "my-database"}},
    "api": OWN_SECRETS["api"],
    "crds": {"enabled": False},
    "rbac": {"userRoles": False},
    "admissionPolicy": {"enabled": False},
    "networkPolicy": {"enabled": False},
}
TRIAL: Values = {"postgres": {"persistence": {"enabled": False}}}
VARIANTS: dict[str, Values] = {
    "default": {},
    "maximal": MAXIMAL,
    "minimal": MINIMAL,
    "external": EXTERNAL,
    "own-secrets": OWN_SECRETS,
    "trial": TRIAL,
}


def run(*words: str, values: Values | None = None) -> subprocess.CompletedProcess[str]:
    """Run helm with `values` given as a file on its standard input."""
    argv = [str(binaries.helm_program()), *words]
    if values is not None:
        argv += ["--values", "-"]
    return subprocess.run(argv, input=json.dumps(values), capture_output=True, text=True, timeout=60, check=False)


def render(values: Values, *, release: str = "milepost", namespace: str = NAMESPACE) -> list[Object]:
    """All objects of a release, hooks included."""
    done = run("template", release, str(CHART), "--namespace", namespace, values=values)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def refusal(values: Values) -> str:
    """What helm says about values it does not take."""
    done = run("template", "milepost", str(CHART), "--namespace", NAMESPACE, values=values)
    assert done.returncode != 0, "these values were accepted"
    return done.stderr


@functools.cache
def variant(name: str) -> list[Object]:
    return render(VARIANTS[name])


def of_kind(objects: list[Object], *kinds: str) -> list[Object]:
    return [item for item in objects if item["kind"] in kinds]


def one(objects: list[Object], kind: str, name: str) -> Object:
    found = [item for item in of_kind(objects, kind) if item["metadata"]["name"] == name]
    assert len(found) == 1, f"{len(found)} {kind} named {name}"
    return found[0]


def pod_specs(objects: list[Object]) -> dict[str, Object]:
    """The pod spec of everything that has one, by kind/name."""
    specs = {}
    for item in objects:
        name = f"{item['kind']}/{item['metadata']['name']}"
        if item["kind"] == "Pod":
            specs[name] = item["spec"]
        elif item["kind"] in {"Deployment", "StatefulSet", "DaemonSet", "Job"}:
            specs[name] = item["spec"]["template"]["spec"]
    return specs


def containers(objects: list[Object]) -> dict[str, Object]:
    """Every container, by kind/name/container."""
    return {
        f"{owner}/{container['name']}": container
        for owner, spec in pod_specs(objects).items()
        for container in [*spec.get("initContainers", []), *spec["containers"]]
    }


def environment(container: Object) -> dict[str, str]:
    return {item["name"]: item.get("value", "") for item in container["env"]}


def secret(objects: list[Object], name: str) -> dict[str, str]:
    """A Secret's data, decoded."""
    data = one(objects, "Secret", name)["data"]
    return {key: base64.b64decode(value).decode() for key, value in data.items()}
