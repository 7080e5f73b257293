"""What a person is told of a Docker engine that won't do."""

import json
from pathlib import Path

import pytest

from e2e.cluster import preflight, provider
from e2e.cluster.preflight import DISK, GIB, MEMORY
from e2e.cluster.shell import Problem, Result, reach_directly

SOCKET = "unix:///var/run/docker.sock"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            f"permission denied while trying to connect to the Docker daemon socket at {SOCKET}: dial unix",
            "join the group",
        ),
        (f"Cannot connect to the Docker daemon at {SOCKET}. Is the docker daemon running?", "start it"),
        ("error during connect: Get: dial tcp 10.0.0.9:2376: connect: connection refused", "start it"),
        ("no answer within 20 s", "no answer within 20 s"),
        ("", "said nothing"),
    ],
)
def test_an_engine_that_gives_no_answer(said: str, told: str) -> None:
    sentence = preflight.silent(said)
    assert told in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("memory", "free", "told"),
    [
        (MEMORY, DISK, ""),
        (0, None, ""),
        (MEMORY - 1, DISK, "GiB of memory and the cluster needs 4"),
        (2 * GIB, None, "has 2.0 GiB of memory"),
        (MEMORY, DISK - 1, "GiB free in /var/lib/docker and the cluster needs 10"),
    ],
)
def test_an_engine_that_is_short_of_something(memory: int, free: int | None, told: str) -> None:
    lack = preflight.short_of({"MemTotal": memory, "DockerRootDir": "/var/lib/docker"}, free)
    assert told in lack
    assert bool(told) == bool(lack)


def test_an_engine_is_asked_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preflight.require(Result([], 0, json.dumps({"MemTotal": MEMORY, "DockerRootDir": "/not/to/be/seen"}), ""))
    with pytest.raises(Problem, match="join the group"):
        preflight.require(Result([], 1, "", "permission denied"))
    monkeypatch.setattr("shutil.disk_usage", lambda _path: type("Usage", (), {"free": GIB})())
    with pytest.raises(Problem, match=r"1\.0 GiB free"):
        preflight.require(Result([], 0, json.dumps({"MemTotal": MEMORY, "DockerRootDir": str(tmp_path)}), ""))


def test_without_root_the_reason_of_a_silent_engine_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    client = tmp_path / "docker"
    client.write_text("#!/bin/sh\necho permission denied >&2; exit 1\n")
    client.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr(provider.layout, "ADMIN", tmp_path / "none")
    with pytest.raises(Problem, match="join the group docker"):
        provider.choose({})


def test_a_cluster_of_the_same_name_that_was_made_elsewhere() -> None:
    assert "kind delete cluster --name milepost" in preflight.foreign("milepost")


def test_a_proxy_is_passed_by() -> None:
    env = {"NO_PROXY": "localhost,10.0.0.1", "HTTPS_PROXY": "http://proxy.invalid:3128"}
    reach_directly("10.0.0.1", "10.200.0.0/16", env=env)
    reach_directly("10.0.0.1", "10.200.0.0/16", env=env)
    assert env["NO_PROXY"] == "localhost,10.0.0.1,10.200.0.0/16"
    assert env["no_proxy"] == "10.0.0.1,10.200.0.0/16"
