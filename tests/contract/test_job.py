"""Our Jobs against a real API server's validation."""

from dataclasses import replace
from pathlib import Path

import pytest

from milepost_operator.adapters.kube.client import KubeClient
from milepost_operator.adapters.kube.config import from_kubeconfig
from milepost_operator.crds.task import TaskSpec
from milepost_operator.domain.runs import PodOrder
from milepost_operator.manifests.job import PodSettings, build_job
from milepost_operator.manifests.shape import shape_of
from tests.fakes.crd_samples import COMMAND, FULL, SOURCE

ORDER = PodOrder("abcdefgh01234567", "default", "t", 1, "h", {}, None)


@pytest.mark.parametrize("spec", [FULL, COMMAND, SOURCE], ids=["full", "command", "source"])
async def test_the_api_server_takes_the_job(kubeconfig: Path, spec):
    shape = shape_of(TaskSpec.model_validate(spec))
    job = build_job(replace(ORDER, shape=shape), PodSettings("runner:1", "sidecar:1", "https://api:8443", "PEM"))
    async with KubeClient(from_kubeconfig(kubeconfig)) as kube:
        path = "/apis/batch/v1/namespaces/default/jobs"
        made = await kube.create(path, job, {"dryRun": "All", "fieldValidation": "Strict"})
    assert made["spec"]["template"]["spec"]["initContainers"][0]["restartPolicy"] == "Always"
