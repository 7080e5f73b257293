"""kubectl as a function: the very client that users have, so that scenarios see what users see."""

import json
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from e2e.harness.reads import NotReadError, Reads

Object = Mapping[str, object]


class KubectlError(RuntimeError):
    """kubectl refused or failed; `stderr` is what a user would have read."""

    def __init__(self, words: Sequence[str], code: int, stderr: str) -> None:
        super().__init__(f"`kubectl {' '.join(words)[:300]}` exited with {code}: {stderr.strip()[-3000:]}")
        self.stderr = stderr.strip()
        self.code = code

    @property
    def not_found(self) -> bool:
        return "(NotFound)" in self.stderr


@dataclass(frozen=True)
class Kubectl:
    """`binary` and `kubeconfig` of one cluster."""

    binary: Path
    kubeconfig: Path

    def words(self, *words: str) -> list[str]:
        """Give the whole command line, for those who run it themselves."""
        return [str(self.binary), f"--kubeconfig={self.kubeconfig}", *words]

    def run(self, *words: str, text_in: str | None = None, timeout: float = 90) -> str:
        """Run a command and return stdout.

        Raises:
            KubectlError: it exited with an error.
        """
        done = subprocess.run(
            self.words(*words), input=text_in, capture_output=True, text=True, timeout=timeout, check=False
        )
        if done.returncode:
            raise KubectlError(words, done.returncode, done.stderr or done.stdout)
        return done.stdout

    def attempt(self, *words: str, timeout: float = 30) -> str:
        """Run a command for a report: its output, or its error as text."""
        try:
            return self.run(*words, timeout=timeout)
        except (KubectlError, subprocess.TimeoutExpired) as error:
            return f"({error})"

    @cached_property
    def _reads(self) -> Reads:
        return Reads(lambda socket: self.words("proxy", f"--unix-socket={socket}"))

    def get(self, kind: str, name: str, namespace: str | None = None) -> dict[str, object]:
        """Read one object."""
        try:
            return self._reads.get(kind, name, namespace)
        except NotReadError as error:
            raise KubectlError(("get", kind, name, *_in(namespace)), 1, str(error)) from error

    def find(self, kind: str, name: str, namespace: str | None = None) -> dict[str, object] | None:
        """Read one object, or None when there is none of that name."""
        try:
            return self.get(kind, name, namespace)
        except KubectlError as error:
            if error.not_found:
                return None
            raise

    def items(self, kind: str, namespace: str | None = None, selector: str = "") -> list[dict[str, object]]:
        """Read all objects of a kind in a namespace (None: in all)."""
        try:
            return self._reads.items(kind, namespace, selector)
        except NotReadError as error:
            raise KubectlError(("get", kind, *_in(namespace)), 1, str(error)) from error

    def apply(self, *manifests: Object, namespace: str | None = None) -> str:
        """Apply objects, server-side validation strict as is kubectl's default."""
        return self.run("apply", *_in(namespace), "-f", "-", text_in=stream(manifests))

    def create(self, *manifests: Object, namespace: str | None = None) -> list[str]:
        """Create objects; returns their names in order."""
        created = self.run(
            "create", *_in(namespace), "-o", "name", "-f", "-", text_in=stream(manifests), timeout=300
        ).split()
        return [line.partition("/")[2] for line in created]

    def delete(self, kind: str, name: str, namespace: str | None = None, *flags: str) -> None:
        """Delete one object; absent is fine."""
        self.run("delete", kind, name, *_in(namespace), "--ignore-not-found", *flags)

    def patch(self, kind: str, name: str, change: Object, namespace: str | None = None, *flags: str) -> None:
        """Merge-patch one object."""
        self.run("patch", kind, name, *_in(namespace), "--type=merge", "-p", json.dumps(change), *flags)

    def execute(self, pod: str, namespace: str, container: str, *words: str, text_in: str | None = None) -> str:
        """Run a program in a container."""
        flags = ["-i"] if text_in is not None else []
        return self.run("exec", *flags, "-n", namespace, pod, "-c", container, "--", *words, text_in=text_in)


def _in(namespace: str | None) -> list[str]:
    return ["-n", namespace] if namespace else []


def stream(manifests: Iterable[Object]) -> str:
    """Write objects the way every `kubectl -f -` reads many: older ones take no `---` between JSON."""
    return "\n".join(json.dumps(manifest) for manifest in manifests)


def as_object(value: object) -> dict[str, object]:
    """Check that `value` is a JSON object."""
    if not isinstance(value, dict):
        raise TypeError(f"expected a JSON object, got {type(value).__name__}")
    return value


def objects(value: object) -> list[dict[str, object]]:
    """Check that `value` is a list of JSON objects."""
    if not isinstance(value, list):
        raise TypeError(f"expected a JSON list, got {type(value).__name__}")
    return [as_object(item) for item in value]


def dig(value: object, *path: str | int) -> object:
    """Follow keys and indexes into JSON; None where the path ends early."""
    for step in path:
        if isinstance(value, Mapping):
            value = value.get(step)
        elif isinstance(value, list) and isinstance(step, int) and -len(value) <= step < len(value):
            value = value[step]
        else:
            return None
    return value
