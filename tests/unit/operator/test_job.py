"""The Job is a contract with the sidecar and the runner: compared whole."""

from dataclasses import replace

import pytest
import yaml

from milepost_operator.domain.runs import PodOrder
from milepost_operator.manifests.job import PodSettings, build_job, repository

SETTINGS = PodSettings(
    runner_image="runner:1",
    sidecar_image="sidecar:1",
    api_url="https://milepost-api.milepost-system.svc:8443",
    ca="PEM",
    cluster="east",
)
ORDER = PodOrder(
    pod_id="abcdefgh01234567",
    namespace="team",
    task="etl",
    version=3,
    template_hash="h",
    shape={"image": "etl:1", "entrypoint": "etl:nightly"},
    image_digest=None,
)

EXACT = """
apiVersion: batch/v1
kind: Job
metadata:
  name: mp-abcdefgh01234567
  namespace: team
  labels: &labels
    app.kubernetes.io/managed-by: milepost
    milepost.dev/pod: abcdefgh01234567
    milepost.dev/task: etl
    milepost.dev/version: "3"
  annotations: &annotations {milepost.dev/cluster: east}
spec:
  backoffLimit: 0
  completions: 1
  parallelism: 1
  podReplacementPolicy: Failed
  podFailurePolicy:
    rules:
    - {action: FailJob, onPodConditions: [{type: DisruptionTarget, status: "True"}]}
    - {action: FailJob, onExitCodes: {containerName: task, operator: NotIn, values: [0]}}
  ttlSecondsAfterFinished: 600
  template:
    metadata: {labels: *labels, annotations: *annotations}
    spec:
      restartPolicy: Never
      automountServiceAccountToken: false
      enableServiceLinks: false
      terminationGracePeriodSeconds: 30
      securityContext: {runAsNonRoot: true, runAsUser: 65532, fsGroup: 65531, seccompProfile: {type: RuntimeDefault}}
      tolerations:
      - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 30}
      - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 30}
      initContainers:
      - name: milepost-sidecar
        image: sidecar:1
        imagePullPolicy: IfNotPresent
        command: [python3, -I, -m, milepost.sidecar]
        restartPolicy: Always
        env:
        - {name: MILEPOST_API_URL, value: "https://milepost-api.milepost-system.svc:8443"}
        - {name: MILEPOST_CA, value: PEM}
        - {name: MILEPOST_POD_ID, value: abcdefgh01234567}
        - {name: MILEPOST_REUSABLE, value: "true"}
        - {name: MILEPOST_SOCKET, value: /run/milepost/sidecar.sock}
        - {name: MILEPOST_TOKEN_FILE, value: /var/run/secrets/milepost/token}
        resources: {requests: {cpu: 10m, memory: 32Mi}, limits: {cpu: "1", memory: 64Mi}}
        securityContext:
          allowPrivilegeEscalation: false
          capabilities: {drop: [ALL]}
          readOnlyRootFilesystem: true
          runAsNonRoot: true
          runAsUser: 65530
        volumeMounts:
        - {name: milepost-run, mountPath: /run/milepost}
        - {name: milepost-token, mountPath: /var/run/secrets/milepost, readOnly: true}
      containers:
      - name: task
        image: etl:1
        imagePullPolicy: IfNotPresent
        command: [python3, -m, milepost.runner]
        env:
        - {name: MILEPOST_SOCKET, value: /run/milepost/sidecar.sock}
        - {name: MILEPOST_SCRATCH, value: "/tmp:/run/milepost:/dev/shm:/dev/mqueue"}
        - {name: HOME, value: /tmp}
        - {name: TMPDIR, value: /tmp}
        - {name: PYTHONDONTWRITEBYTECODE, value: "1"}
        - {name: PYTHONUNBUFFERED, value: "1"}
        resources: {requests: {cpu: 50m, memory: 128Mi}, limits: {cpu: "1", memory: 512Mi}}
        securityContext:
          allowPrivilegeEscalation: false
          capabilities: {drop: [ALL]}
          readOnlyRootFilesystem: true
          runAsNonRoot: true
        terminationMessagePolicy: FallbackToLogsOnError
        volumeMounts:
        - {name: milepost-run, mountPath: /run/milepost}
        - {name: milepost-tmp, mountPath: /tmp}
      volumes:
      - {name: milepost-run, emptyDir: {medium: Memory, sizeLimit: 8Mi}}
      - {name: milepost-tmp, emptyDir: {}}
      - name: milepost-token
        projected: {sources: [{serviceAccountToken: {path: token, audience: milepost, expirationSeconds: 3600}}]}
"""


def pod_of(shape, **changes):
    job = build_job(replace(ORDER, shape=shape, **changes), SETTINGS)
    return job["spec"]["template"]["spec"]


def test_the_job_of_an_entrypoint_task_is_exactly_this():
    assert build_job(ORDER, SETTINGS) == yaml.safe_load(EXACT)


def test_a_command_task_runs_its_own_program():
    task = pod_of({"image": "busybox", "command": ["sh", "-c"], "args": ["exit 0"]})["containers"][0]
    assert (task["image"], task["command"], task["args"]) == ("busybox", ["sh", "-c"], ["exit 0"])


def test_only_the_runner_takes_more_than_one_attempt():
    for shape, reusable in (({"command": ["sh"]}, False), ({"entrypoint": "m:f"}, True), ({"source": "x"}, True)):
        env = pod_of({"image": "a", **shape})["initContainers"][0]["env"]
        assert ("MILEPOST_REUSABLE" in [one["name"] for one in env]) is reusable


def test_inline_source_runs_in_the_runner_image_and_is_not_in_the_pod():
    pod = pod_of({"source": "print('secret plan')"})
    assert pod["containers"][0]["image"] == "runner:1"
    assert "secret plan" not in str(pod)


def test_the_users_environment_comes_first_and_ours_wins():
    env = pod_of({"image": "a", "entrypoint": "m:f", "env": [{"name": "HOME", "value": "/root"}]})["containers"][0][
        "env"
    ]
    assert [e["value"] for e in env if e["name"] == "HOME"] == ["/root", "/tmp"]


@pytest.mark.parametrize(
    ("own", "requests", "limits"),
    [
        ({"limits": {"memory": "64Mi"}}, {"cpu": "50m", "memory": "64Mi"}, {"cpu": "1", "memory": "64Mi"}),
        ({"requests": {"cpu": "2"}}, {"cpu": "2", "memory": "128Mi"}, {"cpu": "2", "memory": "512Mi"}),
        ({"limits": {"x/gpu": "1"}}, {"cpu": "50m", "memory": "128Mi"}, {"cpu": "1", "memory": "512Mi", "x/gpu": "1"}),
    ],
)
def test_defaults_bend_to_what_the_task_says(own, requests, limits):
    task = pod_of({"image": "a", "entrypoint": "m:f", "resources": own})["containers"][0]
    assert task["resources"] == {"requests": requests, "limits": limits}


GIB = 1024**3


@pytest.mark.parametrize(
    ("own", "memory_class", "asked", "limit"),
    [
        ({}, GIB, "256Mi", "1Gi"),
        ({}, 3 * GIB // 2, "384Mi", "1536Mi"),
        ({}, 512 * 1024**2, "128Mi", "512Mi"),
        ({"limits": {"memory": "2Gi"}}, GIB, "128Mi", "2Gi"),
        ({"requests": {"memory": "500M"}, "limits": {"memory": "1G"}}, 2 * 10**9, "1G", "2G"),
        ({"limits": {"memory": "1Gi"}, "requests": {"memory": "1Gi"}}, 2 * GIB, "2Gi", "2Gi"),
    ],
)
def test_a_larger_memory_class_raises_limit_and_request(own, memory_class, asked, limit):
    shape = {"image": "a", "entrypoint": "m:f", "resources": own}
    order = PodOrder("0" * 16, "team", "index", 1, "", shape, None, memory_class=memory_class)
    (task,) = build_job(order, SETTINGS)["spec"]["template"]["spec"]["containers"]
    assert (task["resources"]["requests"]["memory"], task["resources"]["limits"]["memory"]) == (asked, limit)
    assert task["resources"]["limits"]["cpu"] == "1"


def test_pod_settings_reach_the_pod_and_cannot_replace_our_labels():
    own = {
        "labels": {"team": "a", "milepost.dev/pod": "forged"},
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "node.kubernetes.io/unreachable", "operator": "Exists"}],
        "runAsUser": 1000,
        "fsGroup": 2000,
        "readOnlyRootFilesystem": False,
        "terminationGracePeriodSeconds": 90,
        "volumes": [{"name": "tmp", "emptyDir": {}}],
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    }
    job = build_job(replace(ORDER, shape={"image": "a", "entrypoint": "m:f", "pod": own}), SETTINGS)
    labels = job["spec"]["template"]["metadata"]["labels"]
    pod = job["spec"]["template"]["spec"]
    assert labels["team"] == "a"
    assert labels["milepost.dev/pod"] == ORDER.pod_id
    assert pod["nodeSelector"] == {"disk": "ssd"}
    assert [t["key"] for t in pod["tolerations"]] == ["node.kubernetes.io/unreachable", "node.kubernetes.io/not-ready"]
    assert pod["securityContext"]["runAsUser"] == 1000
    assert pod["securityContext"]["fsGroup"] == 2000
    assert pod["initContainers"][0]["securityContext"]["runAsUser"] == 65530
    assert pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is False
    assert pod["terminationGracePeriodSeconds"] == 90
    mounts = [m["mountPath"] for m in pod["containers"][0]["volumeMounts"]]
    assert mounts == ["/run/milepost", "/tmp"]
    scratch = [one["value"] for one in pod["containers"][0]["env"] if one["name"] == "MILEPOST_SCRATCH"]
    assert scratch == ["/run/milepost:/dev/shm:/dev/mqueue"], "a volume of the user is never emptied"


@pytest.mark.parametrize(
    ("image", "digest", "expected"),
    [
        ("r.example:5000/a:1", None, "r.example:5000/a:1"),
        ("r.example:5000/a:1", "sha256:ff", "r.example:5000/a@sha256:ff"),
        ("a:1", "docker.io/library/a@sha256:ff", "docker.io/library/a@sha256:ff"),
    ],
)
def test_later_pods_of_a_version_run_the_digest_of_the_first(image, digest, expected):
    pod = pod_of({"image": image, "entrypoint": "m:f"}, image_digest=digest)
    assert pod["containers"][0]["image"] == expected


def test_repository():
    assert [repository(i) for i in ("a", "a:1", "h:5/a", "h:5/a:1", "h:5/a@sha256:1")] == [
        "a",
        "a",
        "h:5/a",
        "h:5/a",
        "h:5/a",
    ]


def test_a_long_task_name_is_a_valid_label():
    value = build_job(replace(ORDER, task="t" * 100), SETTINGS)["metadata"]["labels"]["milepost.dev/task"]
    assert len(value) <= 63
    assert value != build_job(replace(ORDER, task="t" * 101), SETTINGS)["metadata"]["labels"]["milepost.dev/task"]


def test_a_pod_without_a_run_tells_its_runner_so():
    def env(order: PodOrder) -> dict[str, str]:
        (container,) = build_job(order, SETTINGS)["spec"]["template"]["spec"]["containers"]
        return {one["name"]: one["value"] for one in container["env"]}

    assert env(replace(ORDER, ahead=True)) == env(ORDER) | {"MILEPOST_AHEAD": "true"}


def test_nodes_that_fell_silent_are_avoided_where_there_are_others() -> None:
    spec = build_job(ORDER, SETTINGS, ["node1", "node2"])["spec"]["template"]["spec"]
    key = "preferredDuringSchedulingIgnoredDuringExecution"
    elsewhere = [{"key": "metadata.name", "operator": "NotIn", "values": [name]} for name in ("node1", "node2")]
    avoiding = {"weight": 100, "preference": {"matchFields": elsewhere}}
    assert spec["affinity"] == {"nodeAffinity": {key: [avoiding]}}
    own = {"weight": 1, "preference": {"matchExpressions": [{"key": "disk", "operator": "Exists"}]}}
    theirs = {"nodeAffinity": {key: [own], "requiredDuringX": {}}, "podAffinity": {"a": 1}}
    order = replace(ORDER, shape={**ORDER.shape, "pod": {"affinity": theirs}})
    spec = build_job(order, SETTINGS, ["node1", "node2"])["spec"]["template"]["spec"]
    assert spec["affinity"] == {
        "nodeAffinity": {key: [own, avoiding], "requiredDuringX": {}},
        "podAffinity": {"a": 1},
    }
    assert build_job(order, SETTINGS)["spec"]["template"]["spec"]["affinity"] == theirs
