"""What is told to kind and to the container runtime; that they act on it is proven by running them."""

import json
import subprocess
from pathlib import Path

import pytest

from e2e.cluster import dockerd, kindnet
from e2e.cluster.kind import NODE_PORTS, KindCluster

OURS = f"unix://{dockerd.SOCKET}"


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KindCluster:
    monkeypatch.setenv("MILEPOST_CACHE", str(tmp_path))
    return KindCluster()


def test_on_an_engine_of_the_machine_kind_chooses_image_network_and_ports(cluster: KindCluster) -> None:
    config = json.loads(json.dumps(cluster._config("unix:///var/run/docker.sock", "", 2)))
    assert [node["role"] for node in config["nodes"]] == ["control-plane", "worker"]
    assert not any("image" in node for node in config["nodes"])
    assert not config["networking"]["disableDefaultCNI"]
    assert {port["hostPort"] for port in config["nodes"][0]["extraPortMappings"]} == {0}
    assert {port["listenAddress"] for port in config["nodes"][0]["extraPortMappings"]} == {"127.0.0.1"}


def test_on_our_engine_ports_are_fixed_in_its_own_network(cluster: KindCluster) -> None:
    config = json.loads(json.dumps(cluster._config(OURS, "milepost.local/kind-node:v1", 1)))
    (node,) = config["nodes"]
    assert node["image"] == "milepost.local/kind-node:v1"
    assert [port["hostPort"] for port in node["extraPortMappings"]] == list(NODE_PORTS)
    assert config["networking"]["apiServerAddress"] == dockerd.IP
    assert config["networking"]["disableDefaultCNI"]
    assert node["extraMounts"][0]["hostPath"] == node["extraMounts"][0]["containerPath"] == str(cluster.volumes)


def test_the_control_planes_node_takes_pods_where_it_is_not_the_only_one(cluster: KindCluster) -> None:
    """kind takes the taint of a lone node away itself, and fails where there is none."""
    patches = [cluster._config(OURS, "", nodes)["kubeadmConfigPatches"] for nodes in (1, 2)]
    kinds = [[json.loads(patch)["kind"] for patch in of] for of in patches if isinstance(of, list)]
    assert kinds == [["KubeletConfiguration"], ["KubeletConfiguration", "InitConfiguration"]]


def test_the_pod_network_can_be_written_by_a_shell_that_quotes_it() -> None:
    text = kindnet.conflist("10.245.1.0/24")
    assert "'" not in text
    assert json.loads(text)["plugins"][0]["ipam"]["ranges"] == [[{"subnet": "10.245.1.0/24"}]]


@pytest.mark.parametrize("place", ["config", "process"])
def test_the_runtime_takes_the_capability_away_that_the_machine_has_not(tmp_path: Path, place: str) -> None:
    runc = tmp_path / "runc"
    runc.write_text('#!/bin/sh\necho "$@"\n')
    runc.chmod(0o755)
    wrapper = tmp_path / "runtime"
    wrapper.write_text(dockerd.RUNTIME.replace("RUNC", str(runc)))
    wrapper.chmod(0o755)
    file = tmp_path / "config.json"
    file.write_text('{"a":["CAP_CHOWN","CAP_SYS_RESOURCE"],"b":["CAP_SYS_RESOURCE","CAP_KILL"]}')
    given = ["--bundle", str(tmp_path)] if place == "config" else ["--process", str(file)]
    words = ["--root", "/r", "create" if place == "config" else "exec", *given, "id"]
    done = subprocess.run([wrapper, *words], capture_output=True, text=True, check=True)
    assert done.stdout.split() == words
    assert json.loads(file.read_text()) == {"a": ["CAP_CHOWN"], "b": ["CAP_KILL"]}
