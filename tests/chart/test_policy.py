"""Rules that every rendering keeps: restricted pods, least rights, closed networks."""

from typing import Any

import pytest

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
    assert {i["metadata"]["namespace"] for i in helm.of_kind(objects, "Role")} == {"team-a", "team-b", helm.NAMESPACE}
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


def test_admission_policy_names_the_operator() -> None:
    policy = helm.of_kind(helm.variant("maximal"), "ValidatingAdmissionPolicy")[0]["spec"]
    (condition,) = policy["matchConditions"]
    assert "'system:serviceaccount:milepost-system:milepost-operator'" in condition["expression"]
    assert "'system:serviceaccount:velero:velero'" in condition["expression"]
    assert policy["failurePolicy"] == "Fail"
