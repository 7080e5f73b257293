"""What the chart makes of its values."""

import re
import subprocess
import sys
from typing import Any

import pytest
import yaml

from tests.chart import helm

pytestmark = pytest.mark.timeout(900)  # the first use may build helm


def names(objects: list[helm.Object]) -> set[tuple[str, str, str]]:
    return {(i["kind"], i["metadata"].get("namespace", ""), i["metadata"]["name"]) for i in objects}


def merged(old: helm.Values, new: helm.Values) -> helm.Values:
    both = {key: merged(old[key], new[key]) for key in old.keys() & new.keys() if isinstance(new[key], dict)}
    return {**old, **new, **both}


@pytest.mark.parametrize("name", helm.VARIANTS)
def test_lint_is_clean(name: str) -> None:
    done = helm.run("lint", "--strict", str(helm.CHART), values=helm.VARIANTS[name])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[WARNING]" not in done.stdout


@pytest.mark.parametrize("name", helm.VARIANTS)
def test_every_object_is_there_once(name: str) -> None:
    objects = helm.variant(name)
    assert len(names(objects)) == len(objects)


def test_default_has_every_part_of_the_contract() -> None:
    objects = helm.variant("default")
    for kind, name in (
        ("Deployment", "milepost-api"),
        ("Deployment", "milepost-operator"),
        ("StatefulSet", "milepost-postgres"),
        ("Service", "milepost-api"),
        ("Service", "milepost-postgres"),
        ("ServiceAccount", "milepost-api"),
        ("ServiceAccount", "milepost-operator"),
        ("ConfigMap", "milepost-ca"),
        ("ValidatingAdmissionPolicy", "milepost.milepost-system.runs.milepost.dev"),
    ):
        helm.one(objects, kind, name)
    assert set(helm.secret(objects, "milepost-keys")) == {"session-key", "api-tokens"}
    assert set(helm.secret(objects, "milepost-database")) == {"url", "password"}
    assert set(helm.secret(objects, "milepost-tls")) == {"ca.crt", "tls.crt", "tls.key"}
    assert not helm.of_kind(objects, "PodDisruptionBudget", "ServiceMonitor")


def test_the_only_database_is_not_cut_off_by_a_probe_that_comes_late() -> None:
    assert helm.one(helm.variant("default"), "Service", "milepost-postgres")["spec"]["publishNotReadyAddresses"] is True


def test_control_plane_environment() -> None:
    found = helm.containers(helm.variant("default"))
    operator = helm.environment(found["Deployment/milepost-operator/operator"])
    api = helm.environment(found["Deployment/milepost-api/api"])
    assert operator["MILEPOST_API_URL"] == "https://milepost-api.milepost-system.svc:8443"
    assert operator["MILEPOST_RUNNER_IMAGE"] == operator["MILEPOST_SIDECAR_IMAGE"] == "docker.io/milepost/runner:0.1.0"
    assert operator["MILEPOST_LEASE_NAME"] == "milepost-operator"
    assert api["MILEPOST_LISTEN_PORT"] == "8443"
    assert api["MILEPOST_MAX_RECORD_BYTES"] == "1048576"
    for env in (operator, api):
        assert env["MILEPOST_DATABASE_URL_FILE"] == "/etc/milepost/database/url"
        assert "MILEPOST_DATABASE_URL" not in env
        assert env["MILEPOST_NAMESPACES"] == ""
        assert [env[f"MILEPOST_WARM_{name}"] for name in ("SECONDS", "MAX", "TOTAL")] == ["60", "5", "50"]


def test_both_processes_serve_the_same_namespaces() -> None:
    found = helm.containers(helm.variant("maximal"))
    served = {
        helm.environment(found[f"Deployment/milepost-{name}/{name}"])["MILEPOST_NAMESPACES"]
        for name in ("api", "operator")
    }
    assert served == {",".join(helm.MAXIMAL["namespaces"])}


def test_files_named_in_the_environment_are_mounted() -> None:
    for name in helm.VARIANTS:
        objects = helm.variant(name)
        specs = helm.pod_specs(objects)
        for path, container in helm.containers(objects).items():
            spec = specs[path.rpartition("/")[0]]
            files = {
                key: value for key, value in helm.environment(container).items() if value.startswith("/etc/milepost/")
            }
            for key, value in files.items():
                assert value in mounted(spec, container), f"{name}: {path} {key}={value}"


def mounted(spec: helm.Object, container: helm.Object) -> set[str]:
    """The paths of all files from Secrets and ConfigMaps with listed items."""
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    paths = set()
    for mount in container["volumeMounts"]:
        volume = volumes[mount["name"]]
        sources = volume.get("projected", {}).get("sources") or [volume]
        for source in sources:
            items = (source.get("secret") or source.get("configMap") or {}).get("items", [])
            paths |= {f"{mount['mountPath']}/{item['path']}" for item in items}
    return paths


def test_migrations_run_before_the_api_and_the_operator() -> None:
    for name in ("default", "external"):
        found = helm.containers(helm.variant(name))
        for part in ("api", "operator"):
            assert found[f"Deployment/milepost-{part}/migrate"]["args"] == ["migrate"]


def test_an_upgrade_takes_no_api_away_before_the_new_one_is_ready() -> None:
    api = helm.one(helm.variant("default"), "Deployment", "milepost-api")
    assert api["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_a_new_chart_alone_restarts_no_database() -> None:
    for item in helm.of_kind(helm.variant("default"), "Deployment", "StatefulSet"):
        template = item["spec"]["template"]["metadata"]
        assert set(template["labels"]) == set(item["spec"]["selector"]["matchLabels"])
        assert set(template["annotations"]) == {"milepost.dev/secrets"}
    database = helm.one(helm.variant("default"), "StatefulSet", "milepost-postgres")
    (claim,) = database["spec"]["volumeClaimTemplates"]
    assert "helm.sh/chart" not in claim["metadata"]["labels"], "a claim template can't be changed"


def test_external_database_leaves_the_embedded_one_out() -> None:
    for name in ("external", "minimal"):
        objects = helm.variant(name)
        assert not helm.of_kind(objects, "StatefulSet")
        assert not [i for i in objects if "postgres" in i["metadata"]["name"]]
    url = helm.EXTERNAL["postgres"]["external"]["url"]
    assert helm.secret(helm.variant("external"), "milepost-database") == {"url": url}
    assert not helm.of_kind(helm.variant("minimal"), "Secret")


def test_own_secrets_leave_the_generated_ones_out() -> None:
    objects = helm.variant("own-secrets")
    assert not helm.of_kind(objects, "Secret")
    assert not [i for i in helm.of_kind(objects, "ConfigMap") if i["metadata"]["name"] == "milepost-ca"]


def test_trial_has_no_volume_claim_and_says_so() -> None:
    database = helm.one(helm.variant("trial"), "StatefulSet", "milepost-postgres")
    assert "volumeClaimTemplates" not in database["spec"]
    assert "annotations" not in helm.one(helm.variant("trial"), "Secret", "milepost-database")["metadata"]
    notes = helm.run("install", "milepost", str(helm.CHART), "--dry-run=client", values=helm.TRIAL).stdout
    assert "every run is lost" in notes


def test_the_volume_and_its_password_outlive_the_release() -> None:
    objects = helm.variant("default")
    password = helm.one(objects, "Secret", "milepost-database")
    assert password["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    database = helm.one(objects, "StatefulSet", "milepost-postgres")
    assert database["spec"]["persistentVolumeClaimRetentionPolicy"]["whenDeleted"] == "Retain"


def test_more_replicas_bring_budgets_and_spread() -> None:
    objects = helm.variant("maximal")
    assert {i["metadata"]["name"] for i in helm.of_kind(objects, "PodDisruptionBudget")} == {
        "milepost-api",
        "milepost-operator",
    }
    for part in ("api", "operator"):
        assert helm.pod_specs(objects)[f"Deployment/milepost-{part}"]["topologySpreadConstraints"]


def test_maximal_values_reach_the_objects() -> None:
    objects = helm.variant("maximal")
    spec = helm.pod_specs(objects)["Deployment/milepost-api"]
    assert spec["nodeSelector"] == {"disk": "fast"}
    assert spec["priorityClassName"] == "high"
    assert spec["tolerations"] == helm.MAXIMAL["api"]["tolerations"]
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    template = helm.one(objects, "Deployment", "milepost-api")["spec"]["template"]["metadata"]
    assert template["labels"]["team"] == "core"
    assert template["annotations"]["note"] == "x"
    api = helm.containers(objects)["Deployment/milepost-api/api"]
    assert api["image"] == "docker.io/milepost/control-plane@sha256:" + "0" * 64
    assert api["imagePullPolicy"] == "Always"
    database = helm.containers(objects)["StatefulSet/milepost-postgres/postgres"]
    assert {"work_mem=16MB", "max_wal_size=4096", "jit=off"} <= set(database["args"])
    monitor = helm.one(objects, "ServiceMonitor", "milepost")
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    service = helm.one(objects, "Service", "milepost-metrics")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()


@pytest.mark.parametrize("name", helm.VARIANTS)
def test_selectors_find_their_pods_and_no_others(name: str) -> None:
    objects = helm.variant(name)
    pods = {
        item["metadata"]["name"]: item["spec"]["template"]["metadata"]["labels"]
        for item in helm.of_kind(objects, "Deployment", "StatefulSet")
    }

    def found(selector: dict[str, str]) -> set[str]:
        return {pod for pod, labels in pods.items() if selector.items() <= labels.items()}

    for item in helm.of_kind(objects, "Deployment", "StatefulSet", "PodDisruptionBudget"):
        assert found(item["spec"]["selector"]["matchLabels"]) == {item["metadata"]["name"]}
    for item in helm.of_kind(objects, "Service"):
        if not item["metadata"]["name"].endswith("-metrics"):
            assert found(item["spec"]["selector"]) == {item["metadata"]["name"]}


def test_crds_are_the_generated_ones_and_kept() -> None:
    sources = {path.name: path.read_text() for path in sorted((helm.ROOT / "crds").glob("*.yaml"))}
    assert sources
    copies = {path.name: path.read_text() for path in sorted((helm.CHART / "files/crds").glob("*.yaml"))}
    assert copies == sources
    rendered = {i["metadata"]["name"]: i for i in helm.of_kind(helm.variant("default"), "CustomResourceDefinition")}
    for text in sources.values():
        crd = yaml.safe_load(text)
        mine = rendered.pop(crd["metadata"]["name"])
        assert mine["metadata"].pop("annotations")["helm.sh/resource-policy"] == "keep"
        crd["metadata"].pop("annotations", None)
        assert mine == crd
    assert rendered == {}


def test_only_the_api_has_the_object_storage_and_only_when_asked() -> None:
    values = {"objectStorage": {"bucket": "values", "existingSecret": "keys-of-s3", "prefix": "a/"}}
    objects = helm.render(values)
    environment = helm.environment(helm.containers(objects)["Deployment/milepost-api/api"])
    told = {
        name.removeprefix("MILEPOST_OBJECT_STORAGE_"): text for name, text in environment.items() if "STORAGE" in name
    }
    assert told.pop("KEY_ID_FILE").endswith("/access-key-id")
    assert told.pop("SECRET_KEY_FILE").endswith("/secret-access-key")
    assert told.pop("CA_FILE").endswith("/ca.crt")
    assert told == {"BUCKET": "values", "ENDPOINT": "", "REGION": "us-east-1", "PATH_STYLE": "true", "PREFIX": "a/"}
    assert environment["MILEPOST_MAX_OBJECT_BYTES"] == "67108864"
    for item in objects:
        assert ("keys-of-s3" in yaml.dump(item)) == (
            item["metadata"]["name"] == "milepost-api" and item["kind"] == "Deployment"
        )
    assert "object-storage" not in yaml.dump_all(helm.variant("default"))


def test_notes_say_what_to_type_next() -> None:
    done = helm.run(
        "install", "milepost", str(helm.CHART), "--dry-run=client", "--namespace", helm.NAMESPACE, values={}
    )
    assert done.returncode == 0, done.stderr
    notes = done.stdout.partition("NOTES:")[2]
    for text in ("helm test milepost -n milepost-system", "kind: Task", "kind: Run", "get mrun -w", "milepost-keys"):
        assert text in notes
    documents = re.findall(r"<<'EOF'\n(.*?)\nEOF\n", notes, re.DOTALL)
    assert [yaml.safe_load(text)["kind"] for text in documents] == ["Task", "Run"]
    compile(yaml.safe_load(documents[0])["spec"]["source"]["inline"], "notes", "exec")


def test_helm_test_is_a_hook_that_leaves_nothing() -> None:
    hooks = [i for i in helm.variant("default") if "helm.sh/hook" in i["metadata"].get("annotations", {})]
    assert {i["kind"] for i in hooks} == {"ServiceAccount", "Role", "RoleBinding", "Pod"}
    for hook in hooks:
        assert hook["metadata"]["annotations"]["helm.sh/hook"] == "test"
        assert hook["metadata"]["annotations"]["helm.sh/hook-delete-policy"] == "before-hook-creation,hook-succeeded"
    script: Any = helm.containers(hooks)["Pod/milepost-test/test"]["args"][0]
    compile(script, "first_run.py", "exec")


def test_readme_lists_the_values() -> None:
    done = subprocess.run(
        [sys.executable, str(helm.ROOT / "tools/chart_docs.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_names_stay_within_bounds() -> None:
    objects = helm.render({}, release="a-release-with-a-name-of-53-characters-0123456789-012345"[:53])
    for item in helm.of_kind(objects, "Deployment", "StatefulSet", "Service", "Pod"):
        assert len(item["metadata"]["name"]) <= 52, "a pod's name has room for its hashes"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"apii": {}}, "additional properties 'apii' not allowed"),
        ({"api": {"replica": 2}}, "at '/api': additional properties 'replica' not allowed"),
        ({"api": {"replicas": "2"}}, "at '/api/replicas': got string, want integer"),
        ({"api": {"replicas": 0}}, "minimum: got 0, want 1"),
        ({"api": {"service": {"type": "clusterip"}}}, "must be one of 'ClusterIP', 'NodePort', 'LoadBalancer'"),
        ({"api": {"resources": {"limits": {"memory": None}}}}, "missing property 'memory'"),
        ({"imagePullPolicy": "Sometimes"}, "must be one of 'Always', 'IfNotPresent', 'Never'"),
        ({"image": {"runner": {"digest": "sha256:1"}}}, "/image/runner/digest"),
        ({"namespaces": ["Team_A"]}, "/namespaces/0"),
        ({"cluster": ""}, "/cluster"),
        ({"settings": {"leaseSeconds": "10s"}}, "at '/settings/leaseSeconds': got string, want integer"),
        ({"settings": {"beatSeconds": 6}}, "at most half of settings.leaseSeconds"),
        ({"settings": {"warmTotal": -1}}, "at '/settings/warmTotal': minimum: got -1, want 0"),
        ({"postgres": {"external": {"url": "mysql://me@db/x"}}}, "/postgres/external/url"),
        (
            merged(helm.EXTERNAL, {"postgres": {"external": {"existingSecret": "s"}}}),
            "postgres.external.url or postgres.external.existingSecret, not both",
        ),
        ({"objectStorage": {"bucket": "values"}}, "objectStorage.bucket needs objectStorage.existingSecret"),
        ({"objectStorage": {"endpoint": "s3.example.com"}}, "/objectStorage/endpoint"),
        ({"postgres": {"settings": {"fsync": "off"}}}, "fsync is not open to change"),
        ({"postgres": {"settings": {"ssl_ciphers": "x"}}}, "ssl_ciphers is set by the chart"),
        ({"postgres": {"settings": {"work_mem; drop": "x"}}}, "additional properties 'work_mem; drop' not allowed"),
        ({"postgres": {"persistence": {"size": "much"}}}, "/postgres/persistence/size"),
        ({"api": {"replicas": 40}}, "max_connections (200) is less than the 435"),
        ({"metrics": {"serviceMonitor": {"interval": "often"}}}, "/metrics/serviceMonitor/interval"),
    ],
)
def test_wrong_values_are_refused_in_words(values: helm.Values, words: str) -> None:
    assert words in helm.refusal(values)
