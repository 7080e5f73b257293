"""Images pulled ahead: the Job whole, and what is made of what its pods show."""

from dataclasses import replace

import pytest
import yaml

from milepost_operator.domain.errors import ForbiddenError
from milepost_operator.domain.pulls import PullNote, PullOrder
from milepost_operator.manifests.job import PodSettings
from milepost_operator.manifests.names import PULL_LABEL
from milepost_operator.manifests.network import NetworkSettings
from milepost_operator.manifests.pull import NO_PROGRAM, build_pull_job
from milepost_operator.ports.network import TaskNetwork
from milepost_operator.reconcile.network import TaskNetworks
from milepost_operator.reconcile.pulls import ImagePulls, decide
from tests.fakes.kube import FakeCluster
from tests.unit.operator.store import FakeStore

SETTINGS = PodSettings(runner_image="runner:1", sidecar_image="sidecar:1", api_url="https://api", cluster="east")
NETWORK = NetworkSettings("system", {"component": "api"}, 8443)
ID = "abcdefgh01234567"
SHAPE = {"image": "etl:1", "entrypoint": "etl:nightly"}
ORDER = PullOrder(ID, "team", "etl", 3, "pulling", SHAPE, current=True, age_seconds=5.0)

EXACT = """
apiVersion: batch/v1
kind: Job
metadata:
  name: mp-pull-abcdefgh01234567
  namespace: team
  labels: &labels
    app.kubernetes.io/managed-by: milepost
    milepost.dev/pull: abcdefgh01234567
    milepost.dev/task: etl
    milepost.dev/version: "3"
  annotations: &annotations {milepost.dev/cluster: east}
spec:
  completionMode: Indexed
  completions: 2
  parallelism: 2
  backoffLimitPerIndex: 0
  activeDeadlineSeconds: 600
  ttlSecondsAfterFinished: 600
  template:
    metadata: {labels: *labels, annotations: *annotations}
    spec:
      restartPolicy: Never
      automountServiceAccountToken: false
      enableServiceLinks: false
      terminationGracePeriodSeconds: 0
      securityContext: {runAsNonRoot: true, runAsUser: 65532, fsGroup: 65531, seccompProfile: {type: RuntimeDefault}}
      topologySpreadConstraints:
      - maxSkew: 1
        topologyKey: kubernetes.io/hostname
        whenUnsatisfiable: ScheduleAnyway
        labelSelector: {matchLabels: {milepost.dev/pull: abcdefgh01234567}}
      tolerations:
      - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 30}
      - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 30}
      containers:
      - name: task
        image: etl:1
        imagePullPolicy: IfNotPresent
        command: [python3, -I, -S, -c, ""]
        resources: {requests: {cpu: 10m, memory: 16Mi}, limits: {cpu: 100m, memory: 64Mi}}
        securityContext:
          allowPrivilegeEscalation: false
          capabilities: {drop: [ALL]}
          readOnlyRootFilesystem: true
          runAsNonRoot: true
        terminationMessagePolicy: FallbackToLogsOnError
"""


def test_the_job_is_exactly_this():
    assert build_pull_job(ORDER, SETTINGS, 2) == yaml.safe_load(EXACT)


def test_it_goes_where_the_tasks_pods_go_and_has_nothing_else_of_the_task():
    own = {"imagePullSecrets": [{"name": "registry"}], "nodeSelector": {"disk": "ssd"}, "serviceAccountName": "etl",
           "runAsUser": 7, "volumes": [{"name": "v"}], "volumeMounts": [{"name": "v", "mountPath": "/v"}]}  # fmt: skip
    shape = {"image": "etl:1", "command": ["/bin/etl"], "args": ["x"], "env": [{"name": "A", "value": "1"}],
             "envFrom": [{}], "pod": own}  # fmt: skip
    spec = build_pull_job(replace(ORDER, shape=shape), SETTINGS, 1)["spec"]["template"]["spec"]
    assert (spec["imagePullSecrets"], spec["nodeSelector"]) == (own["imagePullSecrets"], own["nodeSelector"])
    assert (spec["serviceAccountName"], spec["securityContext"]["runAsUser"]) == ("etl", 7)
    (container,) = spec["containers"]
    assert container["command"] == list(NO_PROGRAM), "an image of a command need not have python, or a shell"
    assert not {"args", "env", "envFrom", "volumeMounts"} & container.keys()
    assert "volumes" not in spec


def pod(state, node="n1", **status):
    return {"metadata": {"labels": {PULL_LABEL: ID}}, "spec": {"nodeName": node},
            "status": {"containerStatuses": [{"name": "task", "state": state}], **status}}  # fmt: skip


DONE = {"terminated": {"exitCode": 0, "reason": "Completed"}}
NO_START = {"terminated": {"exitCode": 128, "reason": "StartError"}}
PULLING = {"waiting": {"reason": "ContainerCreating"}}
FAILS = {"waiting": {"reason": "ErrImagePull", "message": "no such host"}}
INVALID = {"waiting": {"reason": "InvalidImageName"}}
FULL = {"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/1 nodes"}]}


@pytest.mark.parametrize(
    ("pods", "age", "note"),
    [
        ([], 5.0, PullNote("pulling")),
        ([], 600.0, PullNote("failed", 0, "DeadlineExceeded", "not there after 600 s")),
        ([pod(PULLING)], 5.0, PullNote("pulling")),
        ([pod(DONE)], 5.0, PullNote("pulling", 1)),
        ([pod(DONE)], 600.0, PullNote("pulled", 1)),
        ([pod(DONE), pod(DONE)], 5.0, PullNote("pulled", 1)),
        ([pod(DONE), pod(NO_START, "n2")], 5.0, PullNote("pulled", 2)),
        ([pod({"running": {}}), pod(DONE, "n2")], 5.0, PullNote("pulled", 2)),
        ([pod(DONE), pod(FAILS, "n2")], 5.0, PullNote("pulling", 1, "ErrImagePull", "no such host")),
        ([pod(FAILS), pod(FAILS)], 600.0, PullNote("failed", 0, "ErrImagePull", "no such host")),
        ([pod(INVALID)], 5.0, PullNote("failed", 0, "InvalidImageName", "InvalidImageName")),
        ([pod({"waiting": {"reason": "CreateContainerError"}}), pod(DONE)], 5.0, PullNote("pulled", 1)),
        ([pod({}, "", **FULL)], 5.0, PullNote("pulling", 0, "Unschedulable", "0/1 nodes")),
        ([pod({}, "", **FULL)], 600.0, PullNote("failed", 0, "Unschedulable", "0/1 nodes")),
    ],
)  # fmt: skip
def test_what_pods_show(pods, age, note):
    assert decide(replace(ORDER, age_seconds=age), pods, 2) == note


class Bench:
    def __init__(self, nodes=1):
        self.store, self.cluster = FakeStore(), FakeCluster()
        self.store.networks = [TaskNetwork("team", "etl", None)]
        networks = TaskNetworks(self.store, self.cluster, NETWORK, ())
        self.pulls = ImagePulls(self.store, self.cluster, self.cluster, SETTINGS, 3, networks=networks, nodes=nodes)

    async def turn(self, **changes):
        self.store.pulls = [replace(ORDER, **changes)]
        await self.pulls.turn()
        return [note for _, note in self.store.of("pull")]

    def add_pod(self, state):
        labels = {PULL_LABEL: ID, "milepost.dev/pod": ""}
        made = self.cluster.put("pods", {"metadata": {"labels": labels}, "spec": {"nodeName": "n"}})
        self.cluster.objects["pods", "team", made["metadata"]["name"]]["status"] = pod(state)["status"]


async def test_from_the_row_to_the_end_of_the_job():
    bench = Bench()
    assert await bench.turn(state="wanted") == [PullNote("pulling")]
    (job,) = bench.cluster.of("jobs")
    assert job["metadata"]["name"] == f"mp-pull-{ID}"
    deeds = [call[0] for call in bench.cluster.calls if call[0].startswith("create_")]
    assert deeds == ["create_policy", "create_policy", "create_job"], (
        "its pods have their network before they are there"
    )
    assert await bench.turn() == [PullNote("pulling")], "the same is not noted again"
    bench.add_pod(DONE)
    assert await bench.turn() == [PullNote("pulling"), PullNote("pulled", 1)]
    assert bench.cluster.of("jobs") == []


async def test_a_leader_that_died_after_it_made_the_job_finds_it():
    bench = Bench()
    await bench.turn(state="wanted")
    assert await bench.turn(state="wanted") == [PullNote("pulling")]
    assert len(bench.cluster.of("jobs")) == 1


async def test_a_refusal_a_deletion_and_a_newer_version_end_it():
    bench = Bench()
    bench.cluster.fail["create_job"] = [ForbiddenError("exceeded quota")]
    assert await bench.turn(state="wanted") == [PullNote("failed", 0, "PodRefused", "exceeded quota")]
    bench = Bench()
    assert (await bench.turn())[0].reason == "Deleted"
    bench = Bench()
    await bench.turn(state="wanted")
    assert (await bench.turn(current=False))[-1] == PullNote("given-up")
    assert bench.cluster.of("jobs") == []


async def test_nothing_is_pulled_where_the_installation_says_no():
    bench = Bench(nodes=0)
    assert await bench.turn(state="wanted") == [PullNote("given-up")]
    assert bench.store.of("pulls") == [(4, False)]
    assert bench.cluster.of("jobs") == []
