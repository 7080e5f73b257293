"""`milepost manifest`: what code declares, and how a file that is there differs from it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from milepost.cli import main
from milepost_operator.crds.queue import QueueSpec
from milepost_operator.crds.task import TaskSpec
from milepost_operator.manifests.schemas import mismatch, read_schema

DOCS = Path(__file__).parents[3] / "docs" / "manifest.md"

SHOP = '''
"""A shop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from milepost import Queue, Rate, task

if TYPE_CHECKING:
    from milepost import Context

print("a module that prints")


@dataclass
class Line:
    sku: str
    count: int = 1


@task(queue=Queue("orders", concurrency=5, rate=Rate(100, 60), key_concurrency=1))
async def place_order(ctx: Context, lines: list[Line], note: str | None = None) -> int:
    return len(lines)


@task
def anything(ctx, data): ...
'''


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """The name of a module of its own, and its file."""
    name = f"shop_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(SHOP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield name
    sys.modules.pop(name, None)


def change(shop, old, new):
    file = Path(f"{shop}.py")
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    sys.modules.pop(shop, None)
    sys.path_importer_cache.clear()
    for cached in Path("__pycache__").glob("*"):
        cached.unlink()


def test_tasks_and_queues_are_written_as_the_operator_takes_them(shop, capsys):
    assert main(["manifest", shop, "--image", "registry.example/shop:1", "--namespace", "team"]) == 0
    out, err = capsys.readouterr()
    queue, order, anything = yaml.safe_load_all(out)
    assert "a module that prints" in err
    assert queue == {
        "apiVersion": "milepost.dev/v1beta1",
        "kind": "Queue",
        "metadata": {"name": "orders", "namespace": "team"},
        "spec": {"concurrency": 5, "perKey": {"concurrency": 1}, "rate": {"limit": 100, "periodSeconds": 60}},
    }
    assert QueueSpec.model_validate(queue["spec"]).rate is not None
    spec = TaskSpec.model_validate(order["spec"])
    assert (order["metadata"]["name"], spec.entrypoint, spec.queue) == ("place-order", f"{shop}:place_order", "orders")
    schema = read_schema(spec.input_schema)
    assert schema.misfit({"lines": [{"sku": "a"}]}, 20) is None
    assert schema.misfit({"lines": [{"sku": "a", "count": "2"}]}, 20).path() == "$.lines[0].count"
    assert spec.output_schema == {"type": "integer"}
    assert anything["spec"] == {"image": "registry.example/shop:1", "entrypoint": f"{shop}:anything"}


def test_the_source_goes_into_the_task_where_there_is_no_image(shop, capsys):
    assert main(["manifest", f"{shop}:anything", "--inline", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["spec"] == {"source": {"inline": SHOP}, "entrypoint": "task:anything"}
    assert TaskSpec.model_validate(made["spec"]).source is not None
    assert main(["manifest", f"{shop}:anything", "--inline"]) == 0
    out = capsys.readouterr().out
    assert "    inline: |" in out
    assert yaml.safe_load(out) == made


def test_a_file_is_checked_and_written_with_what_it_says_beside(shop, capsys):
    file = Path("tasks.yaml")
    assert main(["manifest", shop, "--image", "a:1", "--write", "tasks.yaml"]) == 0
    assert main(["manifest", shop, "--check", "tasks.yaml"]) == 0
    objects = list(yaml.safe_load_all(file.read_text()))
    objects[0]["spec"]["perKey"]["rate"] = {"limit": 1, "periodSeconds": 1}
    objects[1]["spec"]["resources"] = {"limits": {"cpu": "2"}}
    objects[1]["metadata"]["labels"] = {"team": "shop"}
    file.write_text(yaml.safe_dump_all([*objects, {"kind": "ConfigMap", "metadata": {"name": "x"}}]))
    change(shop, "count: int = 1", "count: float = 1")
    change(shop, "-> int:", ":")
    capsys.readouterr()
    assert main(["manifest", shop, "--check", "tasks.yaml"]) == 1
    lines = capsys.readouterr().err
    assert (
        'tasks.yaml: Task place-order: spec.inputSchema["$defs"].Line.properties.count.type'
        ' is "integer" and the code says "number"' in lines
    )
    assert 'Task place-order: spec.outputSchema is {"type": "integer"} and the code says nothing' in lines
    assert main(["manifest", shop, "--image", "a:2", "--write", "tasks.yaml"]) == 0
    after = list(yaml.safe_load_all(file.read_text()))
    assert after[0]["spec"]["perKey"] == {"concurrency": 1, "rate": {"limit": 1, "periodSeconds": 1}}
    assert after[1]["spec"]["resources"] == {"limits": {"cpu": "2"}}
    assert after[1]["metadata"]["labels"] == {"team": "shop"}
    assert (after[1]["spec"]["image"], "outputSchema" in after[1]["spec"]) == ("a:2", False)
    assert after[3]["kind"] == "ConfigMap"
    assert main(["manifest", shop, "--image", "a:2", "--check", "tasks.yaml"]) == 0
    assert main(["manifest", shop, "--image", "a:3", "--check", "tasks.yaml"]) == 1


def test_an_object_that_is_missing_is_named(shop, capsys):
    Path("tasks.yaml").write_text("kind: Task\nmetadata: {name: other}\n")
    assert main(["manifest", f"{shop}:place_order", "--check", "tasks.yaml"]) == 1
    assert "tasks.yaml: Queue orders: is missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "arguments", "says"),
    [
        (None, ["--image", "a"], "can't be imported: ModuleNotFoundError"),
        ("raise SystemExit(3)", ["--image", "a"], "can't be imported: SystemExit: 3"),
        ("1 / 0", ["--image", "a"], "can't be imported: ZeroDivisionError"),
        ("x = 1", ["--image", "a"], "has no task: decorate a function"),
        (SHOP, [], "name the image with --image, or use --inline"),
        (SHOP, ["--check", "none.yaml"], "none.yaml can't be read: No such file"),
        (SHOP, ["--check", "bad.yaml"], "bad.yaml is no YAML"),
        (SHOP.replace("@task\n", '@task(queue=Queue("orders", concurrency=9))\n'), ["--image", "a"], "in two ways"),
        (SHOP.replace("@task\n", '@task(id="place-order")\n'), ["--image", "a"], "two tasks have the id place-order"),
    ],
)
def test_what_can_not_be_done_is_told(shop, capsys, source, arguments, says):
    Path("bad.yaml").write_text("a: [")
    if source is None:
        Path(f"{shop}.py").unlink()
    else:
        Path(f"{shop}.py").write_text(source)
    assert main(["manifest", shop, *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err


def test_it_is_a_command(shop):
    done = subprocess.run(
        [sys.executable, "-m", "milepost", "manifest", f"{shop}:anything", "--image", "a"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert yaml.safe_load(done.stdout)["kind"] == "Task"


def test_what_the_docs_show_is_what_comes(tmp_path, monkeypatch, capsys):
    code, manifest, problem = (
        re.search(rf"```{kind}\n(.*?)```", DOCS.read_text(), re.DOTALL)[1] for kind in ("python", "yaml", "json")
    )
    (tmp_path / "shop.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "shop", raising=False)
    assert main(["manifest", "shop", "--image", "registry.example/shop:1.4"]) == 0
    assert capsys.readouterr().out == manifest
    Path("shop.yaml").write_text(manifest)
    Path("shop.py").write_text(code.replace("count: int", "count: float "))
    monkeypatch.delitem(sys.modules, "shop")
    assert main(["manifest", "shop", "--check", "shop.yaml"]) == 1
    told = re.search(r"--check shop.yaml\n(.*?)```", DOCS.read_text(), re.DOTALL)[1]
    assert capsys.readouterr().err == told
    schema = read_schema(list(yaml.safe_load_all(manifest))[1]["spec"]["inputSchema"])
    given = {"lines": [{"sku": "a", "count": "two"}], "at": "2026-01-31T09:30:00Z"}
    error = mismatch(schema, "place-order", json.dumps(given))
    assert (str(error), error.path) == (json.loads(problem)["detail"], json.loads(problem)["path"])
    monkeypatch.delitem(sys.modules, "shop")
