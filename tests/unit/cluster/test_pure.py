"""The parts of the cluster that decide without touching the machine."""

import json
import re
from pathlib import Path

import pytest

from e2e.cluster import addons, binaries, cgroups, layout, nodeconfig, packages, provider, storage, toolchain
from e2e.cluster.layout import Place
from e2e.cluster.network import count_packets
from e2e.cluster.pki import Pki
from e2e.cluster.shell import Problem, run, wait_until
from milepost_operator.settings import Settings

ROOT = Path(__file__).parents[3]
LISTING = """Chain MILEPOST-ESCAPED (1 references)
    pkts      bytes target     prot opt in     out     source               destination
       3      180            0    --  *      *       10.244.0.0/16        0.0.0.0/0
      39     2340            0    --  *      *       10.96.0.0/16         0.0.0.0/0
"""


def test_the_edge_counter_is_the_sum_over_all_ranges() -> None:
    assert count_packets(LISTING) == 42
    assert count_packets("") == 0


@pytest.mark.parametrize(
    ("text", "version"),
    [("go version go1.26.8 linux/amd64", (1, 26)), ("go version go1.4 x", (1, 4)), ("devel", (0, 0))],
)
def test_go_versions_are_compared_as_numbers(text: str, version: tuple[int, int]) -> None:
    assert toolchain.version_of(text) == version


def test_a_recipe_hash_follows_version_and_flags() -> None:
    program = binaries.Program("x", ("example.org/x@v1",))
    assert binaries.recipe_hash(program) == binaries.recipe_hash(binaries.Program("x", ("example.org/x@v1",)))
    assert binaries.recipe_hash(program) != binaries.recipe_hash(binaries.Program("x", ("example.org/x@v2",)))
    assert binaries.recipe_hash(program) != binaries.recipe_hash(binaries.Program("x", program.sources, cgo=True))


def test_missing_packages_are_found_by_program_and_by_file(tmp_path: Path) -> None:
    there = tmp_path / "file"
    there.touch()
    wanted = {"sh": "dash", "no-such-program-here": "b", f"/none|{there}": "c", "/none/at/all": "a"}
    assert packages.missing(wanted) == ["a", "b"]


def test_nodes_do_not_share_addresses_or_directories() -> None:
    zero, one = Place(0), Place(1)
    for field in ("name", "netns", "cgroup", "ip", "gateway", "pods", "home"):
        assert getattr(zero, field) != getattr(one, field)
    pki = Pki(Path("/pki"))
    assert nodeconfig.kubelet(one, pki)["podPidsLimit"] == 512
    assert nodeconfig.kubelet(one, pki)["cgroupRoot"] == "/milepost-node1"
    assert one.pods in json.dumps(nodeconfig.cni_chain(one, pki))
    assert nodeconfig.felix_environment(one, pki)["FELIX_FELIXHOSTNAME"] == "node1"
    assert str(one.home) in nodeconfig.containerd(one, Path("/bin"))


def test_volumes_may_be_used_from_any_node() -> None:
    spec = json.dumps(storage.volume("disk0", Path("/volumes/disk0")))
    assert '"operator": "Exists"' in spec
    assert '"path": "/volumes/disk0"' in spec
    assert addons.VOLUMES.is_absolute()


def test_control_group_trees_of_both_versions(tmp_path: Path) -> None:
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory/tasks").touch()
    (tmp_path / "empty").mkdir()
    assert cgroups.trees(tmp_path) == [tmp_path / "memory"]
    (tmp_path / "cgroup.controllers").touch()
    assert cgroups.trees(tmp_path) == [tmp_path]


def test_certificates_are_made_once_and_kubeconfigs_hold_them(tmp_path: Path) -> None:
    pki = Pki(tmp_path / "pki")
    pki.ensure("https://127.0.0.1:1", ["127.0.0.1"])
    before = pki.crt("admin").read_bytes()
    pki.ensure("https://127.0.0.1:1", ["127.0.0.1"])
    assert pki.crt("admin").read_bytes() == before
    run(["openssl", "verify", "-CAfile", pki.crt("ca"), pki.crt("admin"), pki.crt("apiserver")])
    config = json.loads(pki.config("admin").read_text())
    assert config["clusters"][0]["cluster"]["server"] == "https://127.0.0.1:1"
    assert pki.config("admin").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("name", ["external", "host"])
def test_the_choice_can_be_made_by_hand(name: str) -> None:
    assert provider.choose({"MILEPOST_PROVIDER": name, "KUBECONFIG": "/some/config"}).name == name


def test_what_chooses_a_cluster_is_no_setting_of_the_product() -> None:
    """The tests that start its processes pass their own environment on to them."""
    sources = [ROOT / "Makefile", *(ROOT / "e2e").rglob("*.py")]
    asked = {name for path in sources for name in re.findall(r"\bMILEPOST_[A-Z0-9_]+\b", path.read_text())}
    assert "MILEPOST_PROVIDER" in asked
    assert not asked & {f"MILEPOST_{field.upper()}" for field in Settings.model_fields}


def test_a_foreign_kubeconfig_means_an_external_cluster() -> None:
    cluster = provider.choose({"KUBECONFIG": "/some/config"})
    assert (cluster.name, cluster.kubeconfig) == ("external", Path("/some/config"))


@pytest.mark.parametrize("env", [{"MILEPOST_PROVIDER": "cloud"}, {"MILEPOST_PROVIDER": "external"}])
def test_an_impossible_choice_is_one_sentence(env: dict[str, str]) -> None:
    with pytest.raises(Problem) as problem:
        provider.choose(env)
    assert "\n" not in str(problem.value)


def test_without_docker_and_root_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(provider, "docker_answers", lambda: False)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr("shutil.which", lambda _name: None)
    monkeypatch.setattr(layout, "ADMIN", tmp_path / "none")
    with pytest.raises(Problem, match="start Docker"):
        provider.choose({})


def test_failures_quote_what_the_program_said() -> None:
    with pytest.raises(Problem, match="no luck"):
        run(["sh", "-c", "echo no luck >&2; exit 3"])
    with pytest.raises(Problem, match="the moon did not come within 0 s"):
        wait_until("the moon", lambda: False, timeout=0.01, interval=0.001)
