"""Pods and Jobs as the cluster shows them at their end, kept as samples for the unit tests of how attempts end."""

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from e2e.harness.kubectl import Object, as_object, dig, objects
from e2e.harness.lab import Lab
from e2e.harness.platform import ROOT

SAMPLES = ROOT / "tests/unit/operator/recorded"
ENV = "MILEPOST_E2E_RECORD"
"""1: the samples are written anew from what is seen now."""


@dataclass
class Recorder:
    """Watches the pods of a lab's namespace, since what ends is soon gone."""

    lab: Lab
    output: IO[str]
    _read: list[str] = field(default_factory=list)

    def last(self, pod_id: str, when: Callable[[Object], bool] | None = None) -> dict[str, object]:
        """The newest version of the pod of a pods row, or the newest of those for which `when` holds."""
        self._read.append(self.output.read())
        text, found = "".join(self._read), {}
        while text.strip():
            try:
                event, end = json.JSONDecoder().raw_decode(text.lstrip())
            except ValueError:
                break  # it is being written
            text = text.lstrip()[end:]
            pod = as_object(dig(event, "object"))
            mine = dig(pod, "metadata", "labels", "milepost.dev/pod") == pod_id
            if mine and (when is None or when(pod)):
                found = pod
        return found

    def keep(self, name: str, pod_id: str, when: Callable[[Object], bool] | None = None) -> None:
        """Write the sample `name`, when that was asked for; `when`: see `last`."""
        if os.environ.get(ENV) != "1":
            return
        job = self.lab.kubectl.find("job", f"mp-{pod_id}", self.lab.namespace)
        SAMPLES.mkdir(exist_ok=True)
        sample = {"pod": stripped(self.last(pod_id, when)), "job": stripped(job) if job else None}
        (SAMPLES / f"{name}.json").write_text(json.dumps(sample, indent=1, sort_keys=True) + "\n")


@contextmanager
def recording(lab: Lab) -> Iterator[Recorder]:
    """Watch for as long as the block takes."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "pods"
        words = lab.kubectl.words("get", "pods", "-n", lab.namespace, "--watch", "--output-watch-events", "-o", "json")
        with path.open("w") as writing, path.open() as reading:
            watch = subprocess.Popen(words, stdout=writing, stderr=subprocess.DEVNULL)
            try:
                yield Recorder(lab, reading)
            finally:
                watch.kill()
                with suppress(subprocess.TimeoutExpired):
                    watch.wait(10)


_UNTOLD = frozenset({"managedFields", "annotations"})


def stripped(body: Object) -> dict[str, object]:
    """Less what says nothing of its end: who wrote which field, volumes, environments, addresses."""
    meta = {key: value for key, value in as_object(body["metadata"]).items() if key not in _UNTOLD}
    made: dict[str, object] = {"kind": body["kind"], "metadata": meta}
    spec, status = as_object(body["spec"]), as_object(body.get("status") or {})
    if body["kind"] == "Pod":
        made["spec"] = _pod_spec(spec)
    else:
        template = as_object(spec["template"])
        made["spec"] = {"template": {"spec": _pod_spec(as_object(template["spec"]))}}
    made["status"] = {
        key: value for key, value in status.items() if key not in {"hostIP", "hostIPs", "podIP", "podIPs"}
    }
    return made


def _pod_spec(spec: Object) -> dict[str, object]:
    names = ("name", "image", "command", "resources")
    kept: dict[str, object] = {"nodeName": spec["nodeName"]} if "nodeName" in spec else {}
    for part in ("containers", "initContainers"):
        kept[part] = [{key: one[key] for key in names if key in one} for one in objects(spec[part])]
    return kept
