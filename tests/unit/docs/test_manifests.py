"""Every manifest that the documents and the examples show has only fields that there are, with values that fit."""

import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from milepost.testing import TaskRun
from milepost_operator.crds.generate import all_crds
from milepost_operator.crds.queue import QueueSpec
from milepost_operator.crds.run import RunSpec
from milepost_operator.crds.task import TaskSpec

ROOT = Path(__file__).parents[3]
BLOCK = re.compile(r"^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPECS = {"Task": TaskSpec, "Run": RunSpec, "Queue": QueueSpec}
SCHEMAS = {
    crd["spec"]["names"]["kind"]: crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]  # type: ignore[index,call-overload]
    for crd in all_crds().values()
}


def shown() -> Iterator[tuple[str, dict]]:
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for found in BLOCK.finditer(path.read_text()):
            yield from ours(f"{path.relative_to(ROOT)}", found[1])
    for path in sorted((ROOT / "examples").glob("*/*.yaml")):
        yield from ours(f"{path.relative_to(ROOT)}", path.read_text())


def ours(where: str, text: str) -> Iterator[tuple[str, dict]]:
    for manifest in yaml.safe_load_all(text):
        if isinstance(manifest, dict) and str(manifest.get("apiVersion")).startswith("milepost.dev/"):
            name = manifest.get("metadata", {}).get("name", "")
            yield f"{where} {manifest['kind']} {name}", manifest


MANIFESTS = dict(shown())


def unknown(value: object, schema: dict, path: str) -> Iterator[str]:
    """Paths of members that the schema does not name."""
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        return
    if isinstance(value, list):
        for number, item in enumerate(value):
            yield from unknown(item, schema.get("items", {}), f"{path}[{number}]")
    if isinstance(value, dict) and "properties" in schema:
        for name, member in value.items():
            if name in schema["properties"]:
                yield from unknown(member, schema["properties"][name], f"{path}.{name}")
            else:
                yield f"{path}.{name}"


@pytest.mark.parametrize("where", MANIFESTS)
def test_a_manifest_is_right(where: str):
    manifest = MANIFESTS[where]
    kind, spec = manifest["kind"], manifest["spec"]
    assert list(unknown(spec, SCHEMAS[kind]["properties"]["spec"], "spec")) == []
    SPECS[kind].model_validate(spec)


def test_the_first_task_runs(monkeypatch: pytest.MonkeyPatch):
    source = MANIFESTS["docs/getting-started.md Task squares"]["spec"]["source"]["inline"]
    monkeypatch.setattr(time, "sleep", lambda _: None)
    module = ModuleType("first_task")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(source, "docs/getting-started.md", "exec"), vars(module))
    assert TaskRun(module.main, {"count": 30}).finish() == 8555
