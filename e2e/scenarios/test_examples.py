"""The examples do what their pages say."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from e2e.harness.faults import delete_pod
from e2e.harness.lab import Lab
from e2e.harness.platform import ROOT
from e2e.harness.wait import eventually
from e2e.images.build import BuiltImage
from e2e.scenarios.judge import lost_to_infrastructure

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

EXAMPLES = ROOT / "examples"


def manifest(path: Path, **spec: object) -> dict[str, object]:
    """An example's manifest, with parts of its spec replaced."""
    loaded = yaml.safe_load(path.read_text())
    loaded["spec"] |= spec
    return dict(loaded)


def test_shell(lab: Lab, images: Mapping[str, BuiltImage]) -> None:
    """A task in shell goes on from its checkpoint, and its result is recorded."""
    assert images
    image = lab.platform.task_image(EXAMPLES / "shell-curl", "shell-curl")
    lab.kubectl.apply(manifest(EXAMPLES / "shell-curl/task.yaml", image=image.ref), namespace=lab.namespace)
    run = lab.run("shell-curl", given={"lines": 16, "pause": 0.4})
    count = f"select count(*) from records where run_id = '{run.id}'"
    eventually("some checkpoints", lambda: int(str(lab.sql.value(count))) >= 4, 60, diagnose=run.diagnose)
    delete_pod(run)
    run.wait("Succeeded")
    result = run.result_members()
    assert result["sum"] == sum(range(1, 17))
    assert int(str(result["begun_at"])) >= 5, "the second attempt began anew"
    lost_to_infrastructure(run, run.attempts())


def test_inline_source_of_the_quick_start(lab: Lab) -> None:
    """The Task that needs no image, as it stands in the example."""
    lab.kubectl.apply(manifest(EXAMPLES / "stdlib-index/task-inline.yaml"), namespace=lab.namespace)
    run = lab.run("stdlib-index", given={"top": 3})
    run.wait("Succeeded", timeout=200)
    result = run.result_members()
    assert int(str(result["packages"])) > 150
    assert len(str(result["most_imported"]).split("], [")) == 3


def test_memory_hog(lab: Lab, images: Mapping[str, BuiltImage]) -> None:
    assert images
    image = lab.platform.task_image(EXAMPLES / "memory-hog", "memory-hog")
    lab.kubectl.apply(manifest(EXAMPLES / "memory-hog/task.yaml", image=image.ref), namespace=lab.namespace)
    run = lab.run("memory-hog")
    run.wait("Failed", timeout=120)
    assert [attempt.reason for attempt in run.attempts()] == ["OOMKilled", "OOMKilled"]
    assert run.attempts()[1].resumed_after >= 2
