"""The time zones' ETL into a volume: a run whose pod is lost leaves the warehouse that an undisturbed one leaves."""

from collections.abc import Mapping

import pytest
import yaml

from e2e.harness.faults import delete_pod
from e2e.harness.lab import Lab
from e2e.harness.wait import eventually
from e2e.images.build import BuiltImage
from e2e.scenarios.judge import lost_to_infrastructure
from e2e.scenarios.test_examples import EXAMPLES, manifest

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

EXAMPLE = EXAMPLES / "timezone-etl"
SLOW = {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"cpu": "150m", "memory": "128Mi"}}
"""Two seconds of work take ten: there is time to lose a pod in."""


def test_timezone_etl(lab: Lab, images: Mapping[str, BuiltImage]) -> None:
    assert images
    image = lab.platform.task_image(EXAMPLE, "timezone-etl")
    lab.kubectl.apply(yaml.safe_load((EXAMPLE / "claim.yaml").read_text()), namespace=lab.namespace)
    lab.kubectl.apply(manifest(EXAMPLE / "task.yaml", image=image.ref, resources=SLOW), namespace=lab.namespace)
    whole = lab.run("timezone-etl", given={"warehouse": "/warehouse/whole.db"})
    whole.wait("Succeeded", timeout=100)
    broken = lab.run("timezone-etl", given={"warehouse": "/warehouse/broken.db", "batch": 4})
    count = f"select count(*) from records where kind = 'step' and run_id = '{broken.id}'"
    eventually("some batches", lambda: int(str(lab.sql.value(count))) >= 5, 60, diagnose=broken.diagnose)
    delete_pod(broken)
    broken.wait("Succeeded", timeout=100)
    assert broken.result_members() == whole.result_members()
    assert int(str(whole.result_members()["zones"])) > 300
    attempts = broken.attempts()
    lost_to_infrastructure(broken, attempts)
    assert attempts[1].resumed_after >= 5
