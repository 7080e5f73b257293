"""Rules that every rendering keeps: restricted pods, least rights, closed networks."""

from typing import Any

import pytest

from milepost_operator.settings import TaskNetworkSettings
from tests.chart import helm

pytestmark = pytest.mark.timeout(900)  # the first use may build helm

# Everything the release's accounts may do: (group, resource) → verbs.
OPERATOR = {
    ("milepost.dev", "tasks"): {"get", "list", "watch"},
    ("milepost.dev", "queues"): {"get", "list", "watch"},
    ("milepost.dev", "runs"): {"get", "list", "watch", "create", "patch", "delete"},
    ("milepost.dev", "tasks/status"): {"patch"},
    ("milepost.dev", "queues/status"): {"patch"},
    ("milepost.dev", "runs/status"): {"patch"},
    ("batch", "jobs"): {"get", "list", "watch", "create", "delete"},
    ("", "pods"): {"get", "list", "watch"},
    ("", "events"): {"list", "create"},
    ("networking.k8s.io", "networkpolicies"): {"list", "create", "update", "delete"},
    ("", "services"): {"get"},
    ("discovery.k8s.io", "endpointslices"): {"get"},
    ("", "namespaces"): {"get", "list", "watch"},
    ("apiextensions.k8s.io", "customresourcedefinitions"): {"get", "list", "watch"},
    ("coordination.k8s.io", "leases"): {"create", "get", "update"},
}
API = {("authentication.k8s.io", "tokenreviews"): {"create"}}
TEST = {
    ("milepost.dev", "tasks"): {"create", "get", "delete"},
    ("milepost.dev", "runs"): {"create", "get", "delete"},
}


def rights(objects: list[helm.Object], account: str) -> dict[tuple[str, str], set[str]]:
    """What the bindings of a rendering give to a service account."""
    roles = {
        (i["kind"], i["metadata"].get("namespace", ""), i["metadata"]["name"]): i["rules"]
        for i in helm.of_kind(objects, "Role", "ClusterRole")
    }
    found: dict[tuple[str, str], set[str]] = {}
    for binding in helm.of_kind(objects, "RoleBinding", "ClusterRoleBinding"):
        if account not in {subject["name"] for subject in binding["subjects"]}:
            continue
        reference = binding["roleRef"]
        namespace = binding["metadata"].get("namespace", "") if reference["kind"] == "Role" else ""
        for rule in roles[(reference["kind"], namespace, reference["name"])]:
            for group in rule["apiGroups"]:
                for resource in rule["resources"]:
                    found.setdefault((group, resource), set()).update(rule["verbs"])
    return found


@pytest.mark.parametrize("name", helm.VARIANTS)
def test_pods_are_restricted(name: str) -> None:
    for path, spec in helm.pod_specs(helm.variant(name)).items():
        context = spec["securityContext"]
        assert context["runAsNonRoot"] is True, path
        assert context["runAsUser"] > 0, path
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, path
        assert not {"hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"} & set(spec), path
        assert spec["enableServiceLinks"] is False, path
        kinds = (
            {kind for volume in spec["volumes"] for kind in volume if kind != "name"} if "volumes" in spec else set()
        )
        assert kinds <= {"secret", "configMap", "projected", "emptyDir", "persistentVolumeClaim"}, path


@pytest.mark.parametrize("name", helm.VARIANTS)
def test_containers_are_restricted_and_limited(name: str) -> None:
    for path, container in helm.containers(helm.variant(name)).items():
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False, path
        assert context["readOnlyRootFilesystem"] is True, path
        assert context["runAsNonRoot"] is True, path
        assert context["capabilities"] == {"drop": ["ALL"]}, path
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, path
        assert {"cpu", "memory"} <= set(container["resources"]["limits"]), path
        assert {"cpu", "memory"} <= set(container["resources"]["requests"]), path


@pytest.mark.parametrize("name", helm.VARIANTS)
def test_no_secret_stands_in_a_pod_spec(name: str) -> None:
    for path, container in helm.containers(helm.variant(name)).items():
        assert "envFrom" not in container, path
        for item in container["env"]:
            assert "secretKeyRef" not in item.get("valueFrom", {}), path
            assert "postgresql://" not in item.get("value", ""), path


@pytest.mark.parametrize("name", helm.VARIANTS)
def test_every_long_running_container_has_probes(name: str) -> None:
    for path, container in helm.containers(helm.variant(name)).items():
        if not path.startswith("Pod/") and container["name"] != "migrate":
            assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container), path
            assert container["livenessProbe"] != container["readinessProbe"], path


@pytest.mark.parametrize("name", helm.VARIANTS)
def test_accounts_have_exactly_their_rights(name: str) -> None:
    objects = helm.variant(name)
    operator = dict(OPERATOR)
    if name == "maximal":  # it is confined to two namespaces, and may only ask whether they are there
        operator["", "namespaces"] = {"get"}
    if name == "minimal":  # without policies it need not know where the API server is
        del operator["", "services"], operator["discovery.k8s.io", "endpointslices"]
    assert rights(objects, "milepost-operator") == operator
    assert rights(objects, "milepost-api") == API
    assert rights(objects, "milepost-test") == TEST
    assert rights(objects, "milepost-postgres") == {}


@pytest.mark.parametrize("name", helm.VARIANTS)
def test_no_rule_is_wide(name: str) -> None:
    for role in helm.of_kind(helm.variant(name), "Role", "ClusterRole"):
        for rule in role["rules"]:
            words: list[Any] = [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
            assert "*" not in words
            assert not {"secrets", "pods/exec", "pods/log", "roles", "rolebindings"} & set(words)
            assert not {"impersonate", "escalate", "bind", "deletecollection"} & set(words)


def test_a_confined_operator_has_no_cluster_wide_objects() -> None:
    objects = helm.variant("maximal")
    wide = [i for i in helm.of_kind(objects, "ClusterRole") if i["metadata"]["name"].startswith("milepost-system:")]
    for role in wide:
        for rule in role["rules"]:
            assert set(rule["apiGroups"]) <= {"apiextensions.k8s.io", "authentication.k8s.io", ""}
            if "namespaces" in rule["resources"]:
                assert rule["resourceNames"] == ["team-a", "team-b"]
    spaces = {i["metadata"]["namespace"] for i in helm.of_kind(objects, "Role")}
    assert spaces == {"team-a", "team-b", helm.NAMESPACE, "default"}
    binding = helm.of_kind(objects, "ValidatingAdmissionPolicyBinding")[0]
    assert binding["spec"]["matchResources"]["namespaceSelector"]["matchExpressions"][0]["values"] == [
        "team-a",
        "team-b",
    ]


def test_only_who_calls_the_cluster_has_a_token() -> None:
    objects = helm.variant("default")
    tokens = {name for name, spec in helm.pod_specs(objects).items() if spec["automountServiceAccountToken"]}
    assert tokens == {"Deployment/milepost-api", "Deployment/milepost-operator", "Pod/milepost-test"}
    for account in helm.of_kind(objects, "ServiceAccount"):
        assert account["automountServiceAccountToken"] is False
    accounts = [spec["serviceAccountName"] for spec in helm.pod_specs(objects).values()]
    assert len(set(accounts)) == len(accounts)


def test_writing_tasks_is_not_part_of_edit() -> None:
    for role in helm.of_kind(helm.variant("default"), "ClusterRole"):
        aggregated = [label for label in role["metadata"]["labels"] if "aggregate-to" in label]
        writes = {resource for rule in role["rules"] for resource in rule["resources"] if "create" in rule["verbs"]}
        if any(label.endswith(("view", "edit")) for label in aggregated):
            assert writes <= {"runs"}


def test_network_lets_in_what_is_needed() -> None:
    policies = {i["metadata"]["name"]: i["spec"] for i in helm.of_kind(helm.variant("default"), "NetworkPolicy")}
    assert set(policies) == {"milepost-default", "milepost-api", "milepost-postgres"}
    assert policies["milepost-default"].get("ingress") is None
    assert policies["milepost-api"]["ingress"] == [{"ports": [{"port": "https", "protocol": "TCP"}]}]
    (rule,) = policies["milepost-postgres"]["ingress"]
    (peer,) = rule["from"]
    assert peer["podSelector"]["matchExpressions"][0]["values"] == ["api", "operator"]
    assert "namespaceSelector" not in peer
    assert policies["milepost-postgres"]["policyTypes"] == ["Ingress", "Egress"]
    assert policies["milepost-postgres"].get("egress") is None


def test_outside_of_its_namespaces_the_operator_reads_where_the_api_server_is() -> None:
    (role,) = [i for i in helm.of_kind(helm.variant("maximal"), "Role") if i["metadata"]["namespace"] == "default"]
    assert [(rule["resources"], rule["resourceNames"], rule["verbs"]) for rule in role["rules"]] == [
        (["services"], ["kubernetes"], ["get"]),
        (["endpointslices"], ["kubernetes"], ["get"]),
    ]
    told = helm.render({"networkPolicy": {"tasks": {"apiServer": ["192.0.2.1/32"]}}})
    assert "default" not in {i["metadata"]["namespace"] for i in helm.of_kind(told, "Role")}


def task_network(objects: list[helm.Object]) -> TaskNetworkSettings | None:
    """What the operator makes of its environment."""
    (operator,) = [i for name, i in helm.containers(objects).items() if name.endswith("-operator/operator")]
    given = helm.environment(operator).get("MILEPOST_TASK_NETWORK")
    return TaskNetworkSettings.model_validate_json(given) if given else None


def test_the_operator_knows_what_tasks_may_reach() -> None:
    known = task_network(helm.variant("default"))
    assert known is not None
    api = helm.one(helm.variant("default"), "Deployment", "milepost-api")
    assert known.api_labels.items() <= api["spec"]["template"]["metadata"]["labels"].items()
    assert "app.kubernetes.io/component" in known.api_labels
    assert {"169.254.0.0/16", "fd00:ec2::254/128"} <= set(known.closed)
    assert {"10.0.0.0/8", "192.168.0.0/16", "fc00::/7"} <= set(known.private)
    assert (known.open_to, known.dns, known.api_server) == ([], [], [])
    rule = {"to": [{"podSelector": {}}], "ports": [{"port": 5353, "protocol": "UDP"}]}
    other = task_network(helm.render({"networkPolicy": {"tasks": {"openTo": [rule], "dns": [rule], "private": []}}}))
    assert other is not None
    assert (other.open_to, other.dns, other.private) == ([rule], [rule], [])


@pytest.mark.parametrize("off", [{"enabled": False}, {"tasks": {"enabled": False}}])
def test_without_policies_for_tasks_the_operator_is_told_of_none(off: dict[str, object]) -> None:
    assert task_network(helm.render({"networkPolicy": off})) is None


@pytest.mark.parametrize(
    "wrong", [{"closed": ["metadata.internal"]}, {"dns": [{"port": 53}]}, {"private": "10.0.0.0/8"}]
)
def test_a_network_that_is_none_is_refused(wrong: dict[str, object]) -> None:
    assert "/networkPolicy/tasks/" in helm.refusal({"networkPolicy": {"tasks": wrong}})


def test_admission_policy_names_the_operator() -> None:
    policy = helm.of_kind(helm.variant("maximal"), "ValidatingAdmissionPolicy")[0]["spec"]
    (condition,) = policy["matchConditions"]
    assert "'system:serviceaccount:milepost-system:milepost-operator'" in condition["expression"]
    assert "'system:serviceaccount:velero:velero'" in condition["expression"]
    assert policy["failurePolicy"] == "Fail"
