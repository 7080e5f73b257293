"""The support agent against its own model and shop, each in a pod: its pod goes in the middle of the conversation."""

import json
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

EXAMPLE = EXAMPLES / "support-agent"
READ = (
    "import sys, urllib.request; print(urllib.request.urlopen('http://127.0.0.1:8080/' + sys.argv[1]).read().decode())"
)


def services(image: str) -> list[dict[str, object]]:
    """The example's own Deployments and Services."""
    found: list[dict[str, object]] = list(yaml.safe_load_all((EXAMPLE / "services.yaml").read_text()))
    text = json.dumps(found)
    assert "milepost.local/support-agent:dev" in text
    replaced: list[dict[str, object]] = json.loads(text.replace("milepost.local/support-agent:dev", image))
    return replaced


def told(lab: Lab, service: str, path: str) -> object:
    """What a service says of what it was asked: counted outside of everything that Milepost is."""
    return json.loads(lab.kubectl.execute(f"deploy/{service}", lab.namespace, service, "python3", "-c", READ, path))


def test_support_agent(lab: Lab, images: Mapping[str, BuiltImage]) -> None:
    assert images
    image = lab.platform.task_image(EXAMPLE, "support-agent")
    lab.kubectl.apply(*services(image.ref), namespace=lab.namespace)
    lab.kubectl.apply(manifest(EXAMPLE / "task.yaml", image=image.ref), namespace=lab.namespace)
    for name in ("model", "shop"):
        lab.kubectl.run("rollout", "status", f"deploy/{name}", "-n", lab.namespace, "--timeout=60s")
    asked = yaml.safe_load((EXAMPLE / "run.yaml").read_text())
    run = lab.run("support-agent", given=asked["spec"]["input"])
    count = f"select count(*) from records where kind = 'step' and run_id = '{run.id}'"
    before = eventually("some turns", lambda: _at_least(5, lab.sql.value(count)), 60, diagnose=run.diagnose)
    delete_pod(run)
    run.wait("Succeeded", timeout=120)
    text = str(run.result_members()["text"])
    for order, words in {
        "A-1001": "is on its way", "A-1002": "is lost", "A-1003": "is being packed", "A-1004": "is lost",
    }.items():  # fmt: skip
        assert f"{order} {words}" in text, text
    attempts = run.attempts()
    lost_to_infrastructure(run, attempts)
    assert attempts[1].resumed_after >= before
    answered = told(lab, "model", "answered")
    assert isinstance(answered, list)
    # only the turn that was under way when the pod went may have been answered twice
    assert len(answered) - len(set(answered)) <= 1, answered
    refunds = told(lab, "shop", "refunds")
    assert isinstance(refunds, dict)
    assert [refund["order_id"] for refund in refunds["paid"]] == ["A-1002", "A-1004"]


def _at_least(wanted: int, count: object) -> int | None:
    number = int(str(count))
    return number if number >= wanted else None
