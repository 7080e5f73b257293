"""NetworkPolicies of tasks: compared whole, and kept as they have to be."""

import pytest
import yaml

from milepost_operator.crds.network import Network
from milepost_operator.domain.errors import InvalidInputError
from milepost_operator.manifests.network import NetworkSettings, check, policies, policy_name

SETTINGS = NetworkSettings(
    api_namespace="milepost-system",
    api_labels={"app.kubernetes.io/component": "api"},
    api_port=8443,
    closed=["169.254.0.0/16", "fd00:ec2::254/128"],
    private=["10.0.0.0/8", "192.168.0.0/16", "fc00::/7"],
    open_to=[{"to": [{"podSelector": {"matchLabels": {"app": "collector"}}}]}],
)
API_SERVER = ["203.0.113.7", "10.96.0.1", "2001:db8::1"]

BASE = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: milepost-tasks
  namespace: team
  labels: {app.kubernetes.io/managed-by: milepost}
spec:
  podSelector:
    matchLabels: {app.kubernetes.io/managed-by: milepost}
    matchExpressions: [{key: milepost.dev/task, operator: Exists}]
  policyTypes: [Ingress, Egress]
  egress:
  - ports: [{protocol: UDP, port: 53}, {protocol: TCP, port: 53}]
  - to:
    - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: milepost-system}}
      podSelector: {matchLabels: {app.kubernetes.io/component: api}}
    ports: [{protocol: TCP, port: 8443}]
"""
OPEN = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: milepost-tasks-open
  namespace: team
  labels: {app.kubernetes.io/managed-by: milepost}
spec:
  podSelector:
    matchLabels: {app.kubernetes.io/managed-by: milepost}
    matchExpressions:
    - {key: milepost.dev/task, operator: Exists}
    - {key: milepost.dev/task, operator: NotIn, values: [listed, shut]}
  policyTypes: [Egress]
  egress:
  - to:
    - ipBlock: {cidr: 0.0.0.0/0, except: [10.0.0.0/8, 169.254.0.0/16, 192.168.0.0/16, 203.0.113.7/32]}
    - ipBlock: {cidr: "::/0", except: ["2001:db8::1/128", "fc00::/7"]}
  - to: [{podSelector: {matchLabels: {app: collector}}}]
"""
LISTED = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: milepost-task-listed
  namespace: team
  labels: {app.kubernetes.io/managed-by: milepost, milepost.dev/task: listed}
spec:
  podSelector: {matchLabels: {app.kubernetes.io/managed-by: milepost, milepost.dev/task: listed}}
  policyTypes: [Egress]
  egress:
  - to: [{ipBlock: {cidr: 203.0.113.0/24, except: [203.0.113.7/32]}}]
    ports: [{protocol: TCP, port: 443}, {protocol: UDP, port: 8000, endPort: 8010}]
  - to: [{podSelector: {matchLabels: {app: postgres}}, namespaceSelector: {}}]
    ports: [{protocol: TCP, port: 5432}]
"""


def network(**given: object) -> Network:
    return Network.model_validate(given)


RESTRICTED = network(
    egress="restricted",
    allow=[
        {"cidr": "203.0.113.0/24", "ports": [{"port": 443}, {"protocol": "UDP", "port": 8000, "endPort": 8010}]},
        {
            "podSelector": {"matchLabels": {"app": "postgres"}},
            "namespaceSelector": {},
            "ports": [{"port": 5432}],
        },
    ],
)


def test_policies_of_a_namespace() -> None:
    tasks = {"plain": network(), "shut": network(egress="none"), "listed": RESTRICTED}
    made = policies("team", tasks, SETTINGS, API_SERVER)
    assert made == [yaml.safe_load(text) for text in (BASE, OPEN, LISTED)]


def test_without_a_task_that_differs_there_are_two() -> None:
    base, world = policies("team", {"plain": network(), "told": network(egress="open")}, SETTINGS, [])
    assert base == yaml.safe_load(BASE)
    assert world["spec"]["podSelector"] == base["spec"]["podSelector"]


def test_an_open_task_may_allow_more_than_the_world() -> None:
    _, world, own = policies("team", {"t": network(allow=[{"cidr": "10.3.0.0/16"}])}, SETTINGS, API_SERVER)
    assert "NotIn" not in str(world["spec"]["podSelector"])
    assert own["spec"]["egress"] == [{"to": [{"ipBlock": {"cidr": "10.3.0.0/16"}}]}]


@pytest.mark.parametrize(
    ("cidr", "egress"),
    [
        ("10.0.0.0/8", [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.96.0.1/32"]}}]}]),
        ("10.96.0.1/32", None),  # a rule without `to` would open everything
        ("169.254.169.254/32", None),
        (
            "0.0.0.0/0",
            [
                {
                    "to": [
                        {
                            "ipBlock": {
                                "cidr": "0.0.0.0/0",
                                "except": ["10.96.0.1/32", "169.254.0.0/16", "203.0.113.7/32"],
                            }
                        }
                    ]
                }
            ],
        ),
        ("fd00:ec2::254/128", None),
    ],
)
def test_what_is_closed_no_task_opens(cidr: str, egress: object) -> None:
    own = policies("team", {"t": network(egress="restricted", allow=[{"cidr": cidr}])}, SETTINGS, API_SERVER)[2]
    assert own["spec"].get("egress") == egress


def test_a_world_that_is_closed_as_a_whole_leaves_no_rule() -> None:
    settings = NetworkSettings("s", {}, 1, closed=["0.0.0.0/1", "128.0.0.0/1", "::/0"])
    _, world = policies("team", {"t": network()}, settings, [])
    assert world["spec"]["policyTypes"] == ["Egress"]
    assert "egress" not in world["spec"]


def test_names_are_different_for_different_tasks_and_never_too_long() -> None:
    long = "t" * 250
    made = {policy_name(name) for name in ("t", "t.a", long, f"{long}a")}
    assert len(made) == 4
    assert max(map(len, made)) <= 253
    assert policy_name("s") != "milepost-tasks"


@pytest.mark.parametrize(
    ("cidr", "said"),
    [
        ("10.3.0.1/16", "spec.network.allow[0].cidr: 10.3.0.1/16 has bits beyond its prefix: 10.3.0.0/16 is meant?"),
        ("10.3.0.0/33", "is no CIDR"),
        ("300.1.1.0/24", "is no CIDR"),
        ("169.254.169.254/32", "closed to all tasks"),
    ],
)
def test_what_can_not_be_allowed_is_told_with_its_place(cidr: str, said: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        check(network(allow=[{"cidr": cidr}]), SETTINGS)
    assert said in str(caught.value)


def test_what_can_be_allowed_is() -> None:
    check(RESTRICTED, SETTINGS)
    check(RESTRICTED, None)
    check(network(allow=[{"cidr": "2001:db8::/32"}]), SETTINGS)
