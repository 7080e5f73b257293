"""The counting Service in the cluster, and what it heard."""

import json
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from e2e.harness.kubectl import Object
from e2e.harness.platform import Platform
from e2e.harness.report import Event

NAMESPACE = "counting"
PORT = 8080
URL = f"http://counting.{NAMESPACE}.svc:{PORT}/"
SOURCE = Path(__file__).with_name("counting_server.py")
LABELS = {"app.kubernetes.io/name": "counting"}


@dataclass(frozen=True)
class Counter:
    """`address`: where this machine reaches the Service."""

    address: str

    @classmethod
    def deploy(cls, platform: Platform, image: str) -> "Counter":
        """Run the Service from an image with Python; one that runs already goes on with all it has heard."""
        platform.kubectl.apply(*manifests(image))
        cls.wait_ready(platform)
        return cls(platform.cluster.reach(NAMESPACE, "counting", PORT))

    @staticmethod
    def wait_ready(platform: Platform) -> None:
        """Return when its pod answers."""
        platform.kubectl.run("rollout", "status", "deployment/counting", "-n", NAMESPACE, "--timeout=60s")

    def events(self, run: str | None = None) -> list[Event]:
        """What was reported of one run, or of all."""
        query = f"?run={run}" if run else ""
        with urllib.request.urlopen(f"http://{self.address}/events{query}", timeout=20) as answer:
            return [Event.parse(json.loads(line)) for line in answer]

    def reset(self) -> None:
        """Forget everything heard so far."""
        urllib.request.urlopen(urllib.request.Request(f"http://{self.address}/reset", b""), timeout=10).close()


def manifests(image: str) -> list[Object]:
    """Namespace, script, Deployment and Service. Restricted, like any other workload."""
    container = {
        "name": "counting",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-u", "/srv/counting_server.py", str(PORT)],
        "ports": [{"containerPort": PORT}],
        "readinessProbe": {"httpGet": {"path": "/", "port": PORT}, "periodSeconds": 1, "timeoutSeconds": 5},
        "resources": {"requests": {"cpu": "20m", "memory": "32Mi"}, "limits": {"memory": "256Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "script", "mountPath": "/srv"}],
    }
    pod = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 1,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [{"name": "script", "configMap": {"name": "counting"}}],
    }
    meta = {"name": "counting", "namespace": NAMESPACE}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {SOURCE.name: SOURCE.read_text()}},
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": meta,
            "spec": {
                "replicas": 1,
                "strategy": {"type": "Recreate"},
                "selector": {"matchLabels": LABELS},
                "template": {"metadata": {"labels": LABELS}, "spec": pod},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": meta,
            "spec": {"type": "NodePort", "selector": LABELS, "ports": [{"port": PORT, "targetPort": PORT}]},
        },
    ]
