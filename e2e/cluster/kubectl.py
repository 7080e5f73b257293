"""Speaking to a cluster with kubectl."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster.shell import run

Object = Mapping[str, object]


@dataclass(frozen=True)
class Kubectl:
    """kubectl with a fixed kubeconfig."""

    program: str | Path
    kubeconfig: Path

    def __call__(
        self, *words: str, text_in: str | None = None, check: bool = True, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        argv = [self.program, f"--kubeconfig={self.kubeconfig}", *words]
        return run(argv, text_in=text_in, check=check, timeout=timeout)

    def apply(self, *objects: Object) -> None:
        """Create or update objects, given as plain data."""
        listing = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self.apply_text(json.dumps(listing))

    def apply_text(self, text: str) -> None:
        self("apply", "--server-side", "--force-conflicts", "-f", "-", text_in=text)

    def items(self, *words: str) -> list[dict[str, object]]:
        """The objects `kubectl get WORDS` finds."""
        found = json.loads(self("get", *words, "-o", "json").stdout)
        return list(found["items"])

    def value(self, jsonpath: str, *words: str) -> str:
        """One value of `kubectl get WORDS`, or an empty string when there is no such object."""
        return self("get", *words, "-o", f"jsonpath={jsonpath}", check=False).stdout.strip()

    def nodes_ready(self, names: Sequence[str]) -> bool:
        path = '{range .items[*]}{.metadata.name}={.status.conditions[?(@.type=="Ready")].status} {end}'
        states = self.value(path, "nodes").split()
        return all(f"{name}=True" in states for name in names)
