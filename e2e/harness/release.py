"""The chart, installed as users install it, with the images built from this checkout."""

import base64
import json
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from e2e.harness.api import Api
from e2e.harness.counter import NAMESPACE as COUNTER
from e2e.harness.kubectl import Kubectl, KubectlError, dig
from e2e.harness.platform import ROOT, Platform
from e2e.harness.sql import Sql
from e2e.harness.wait import eventually
from e2e.images.build import BuiltImage

NAME = "milepost"
NAMESPACE = "milepost-system"
READ_METRICS = (
    "python3",
    "-c",
    "import urllib.request as r; print(r.urlopen('http://127.0.0.1:9090/metrics').read().decode())",
)
CHART = ROOT / "charts" / "milepost"
COMPONENTS = ("api", "operator")
COUNTING = {"matchLabels": {"kubernetes.io/metadata.name": COUNTER}}

Values = Mapping[str, object]


def values_for(images: Mapping[str, BuiltImage], **settings: object) -> dict[str, object]:
    """Chart values for tests: our images, reachable from outside, short grace for what a person would have to fix, and
    the counting Service open to tasks.
    """
    named = {"controlPlane": "control-plane", "runner": "runner", "postgres": "postgres"}
    return {
        "image": {key: {"repository": images[name].repository, "tag": images[name].tag} for key, name in named.items()},
        "imagePullPolicy": "IfNotPresent",
        "api": {"service": {"type": "NodePort"}},
        "networkPolicy": {"tasks": {"openTo": [{"to": [{"namespaceSelector": COUNTING}]}]}},
        "settings": {"configGraceSeconds": 5, "graceSeconds": 5, **settings},
    }


@dataclass
class Release:
    """The release in its cluster."""

    platform: Platform
    values: dict[str, object]

    @property
    def kubectl(self) -> Kubectl:
        return self.platform.kubectl

    def install(self, timeout_seconds: int = 240) -> None:
        """Install or upgrade, and return when every part is ready."""
        self._clear_leftovers()
        with tempfile.NamedTemporaryFile("w", suffix=".json", prefix="values-") as file:
            json.dump(self.values, file)
            file.flush()
            words = ["upgrade", "--install", NAME, str(CHART), "--namespace", NAMESPACE, "--create-namespace"]
            self._helm([*words, "--values", file.name, "--wait", "--timeout", f"{timeout_seconds}s"])
        self.wait_ready()

    def upgrade(self, change: Values) -> None:
        """Upgrade with some values changed, as an operator of a cluster would."""
        self.values = merged(self.values, change)
        self.install()

    def uninstall(self) -> None:
        """Remove the release and its data."""
        self._helm(["uninstall", NAME, "--namespace", NAMESPACE, "--ignore-not-found", "--wait"])
        self.kubectl.run("delete", "pvc", "--all", "-n", NAMESPACE, "--ignore-not-found")
        self.kubectl.run("delete", "secret", "--all", "-n", NAMESPACE, "--ignore-not-found")
        self.platform.cluster.release_volumes()
        self.__dict__.pop("api", None)  # its address, CA and token went with the release

    def test(self) -> str:
        """Run the chart's own test: a task of its own, to success. Returns what it says."""
        return self._helm(["test", NAME, "--namespace", NAMESPACE, "--timeout", "120s", "--logs"])

    def wait_ready(self, timeout: float = 90) -> None:
        """Wait until API, operator and database are rolled out and the API answers from here."""
        for kind in (f"deployment/{NAME}-api", f"deployment/{NAME}-operator", f"statefulset/{NAME}-postgres"):
            self.kubectl.run(
                "rollout", "status", kind, "-n", NAMESPACE, f"--timeout={timeout:.0f}s", timeout=timeout + 10
            )
        eventually("an API that answers", self.api.alive, timeout, diagnose=self.diagnose)

    @cached_property
    def sql(self) -> Sql:
        """The embedded database."""
        return Sql(self.kubectl, NAMESPACE)

    @cached_property
    def api(self) -> Api:
        """The public API as reached from this machine."""
        address = self.platform.cluster.reach(NAMESPACE, f"{NAME}-api", 8443)
        authority = dig(self.kubectl.get("configmap", f"{NAME}-ca", NAMESPACE), "data", "ca.crt")
        return Api(address, f"{NAME}-api.{NAMESPACE}.svc", str(authority), self.token())

    def token(self) -> str:
        """The first token of the public API, from the Secret that the chart's notes name."""
        secret = self.kubectl.get("secret", f"{NAME}-keys", NAMESPACE)
        lines = base64.b64decode(str(dig(secret, "data", "api-tokens"))).decode().split()
        return lines[0].rpartition(":")[2]

    def pods(self, component: str) -> list[dict[str, object]]:
        """The component's pods that are not on their way out."""
        found = self.kubectl.items("pods", NAMESPACE, f"app.kubernetes.io/component={component}")
        return [pod for pod in found if not dig(pod, "metadata", "deletionTimestamp")]

    def pod_names(self, component: str) -> list[str]:
        return [str(dig(pod, "metadata", "name")) for pod in self.pods(component)]

    def metrics(self, component: str) -> list[str]:
        """The lines that each pod of the component shows to Prometheus."""
        shown = [self.kubectl.execute(pod, NAMESPACE, component, *READ_METRICS) for pod in self.pod_names(component)]
        return [line for text in shown for line in text.splitlines()]

    def scale(self, component: str, replicas: int) -> None:
        """Set the number of pods and return when that many are there and ready, or none is left."""
        kind = "statefulset" if component == "postgres" else "deployment"
        self.kubectl.run("scale", f"{kind}/{NAME}-{component}", "-n", NAMESPACE, f"--replicas={replicas}")
        if replicas:
            self.kubectl.run("rollout", "status", f"{kind}/{NAME}-{component}", "-n", NAMESPACE, "--timeout=90s")
            return
        selector = f"app.kubernetes.io/component={component}"
        eventually(f"the end of every {component} pod", lambda: not self.kubectl.items("pods", NAMESPACE, selector), 90)

    def logs(self, component: str, lines: int = 60) -> str:
        """The newest log lines of a component's pods."""
        selector = f"app.kubernetes.io/component={component}"
        flags = ["-l", selector, "--all-containers", f"--tail={lines}", "--prefix"]
        return self.kubectl.attempt("logs", "-n", NAMESPACE, *flags)

    def diagnose(self) -> str:
        """The control plane's state, for a failure's report."""
        parts = [self.kubectl.attempt("get", "pods", "-n", NAMESPACE, "-o", "wide")]
        parts += [f"--- {component} log\n{self.logs(component)}" for component in COMPONENTS]
        return "\n".join(parts)

    def _clear_leftovers(self) -> None:
        """A first install needs a volume that no earlier release has written to."""
        try:
            self.kubectl.get("namespace", NAMESPACE)
        except KubectlError as error:
            if not error.not_found:
                raise
            self.platform.cluster.release_volumes()

    def _helm(self, words: list[str]) -> str:
        helm: Path = self.platform.program("helm")
        command = [str(helm), f"--kubeconfig={self.platform.cluster.kubeconfig}", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"helm {words[0]} failed: {done.stderr.strip()[-2000:]}\n{self.diagnose()}")
        return done.stdout


def merged(base: Values, change: Values) -> dict[str, object]:
    """Merge nested values the way helm does."""
    result = dict(base)
    for key, value in change.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result
