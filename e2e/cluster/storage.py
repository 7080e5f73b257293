"""PersistentVolumes of a cluster without a provisioner: directories of this machine, made ahead, reusable."""

import shutil
from pathlib import Path

from e2e.cluster.kubectl import Kubectl, Object

CLASS = "standard"
COUNT = 5
SIZE = "10Gi"


def ensure(kubectl: Kubectl, home: Path) -> None:
    """The default StorageClass, and volumes to bind; those a deleted claim left behind are emptied first."""
    kubectl.apply(storage_class())
    release(kubectl, home)


def release(kubectl: Kubectl, home: Path) -> None:
    """Make every volume that no claim holds any longer empty and free again."""
    path = "{range .items[*]}{.metadata.name}={.status.phase} {end}"
    phases = dict(pair.split("=") for pair in kubectl.value(path, "pv").split())
    for name, phase in phases.items():
        if phase in ("Released", "Failed"):
            kubectl("delete", "pv", name, "--wait=true", timeout=60)
            shutil.rmtree(home / name, ignore_errors=True)
    missing = [name for name in names() if phases.get(name) in (None, "Released", "Failed")]
    for name in missing:
        (home / name).mkdir(parents=True, exist_ok=True)
        (home / name).chmod(0o777)
    if missing:
        kubectl.apply(*(volume(name, home / name) for name in missing))


def names() -> list[str]:
    return [f"disk{number}" for number in range(COUNT)]


def storage_class() -> Object:
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": CLASS, "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer",
    }


def volume(name: str, path: Path) -> Object:
    # All nodes are this machine: the directory is the same on each, so a pod may move with its volume.
    anywhere = {"key": "kubernetes.io/hostname", "operator": "Exists"}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": SIZE},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": CLASS,
            "local": {"path": str(path)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [anywhere]}]}},
        },
    }
