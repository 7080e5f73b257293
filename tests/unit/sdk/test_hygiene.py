"""What is between two runs of a pod, piece by piece; as a whole it is in test_warm_pod.py."""

import os
import socket
from pathlib import Path

import pytest

from milepost.runner import cgroup, conclude
from milepost.runner.hygiene import is_shared
from milepost.runner.watch import Ending
from milepost.runner.wipe import _empty, left_in, mount_points, wipe


def filled(root: Path) -> None:
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "file").write_text("x")
    (root / "a" / "to-root").symlink_to("/")
    (root / "a" / "nowhere").symlink_to("gone")
    (root / "odd \udce9 name").write_text("x")


def test_a_deep_tree_is_removed_whatever_its_paths_are_long(tmp_path: Path):
    root = tmp_path / "scratch"
    root.mkdir()
    filled(root)
    home = os.getcwd()  # noqa: PTH109
    os.chdir(root)
    try:
        for _ in range(500):
            os.mkdir("a-directory")  # noqa: PTH102
            os.chdir("a-directory")
        Path("file").touch()
    finally:
        os.chdir(home)
    assert len(left_in([str(root)], "")) == 3
    wipe([str(root), str(tmp_path / "none")], "")
    assert list(root.iterdir()) == []


def test_the_sidecar_s_socket_stays_and_nothing_in_its_place(tmp_path: Path):
    path = tmp_path / "s.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        filled(tmp_path)
        (tmp_path / "s.sock.new").write_text("of the run: the sidecar could not start again")
        wipe([str(tmp_path)], str(path))
        assert list(tmp_path.iterdir()) == [path]


def test_volumes_below_stay_with_all_that_leads_there(tmp_path: Path):
    filled(tmp_path)
    kept = tmp_path / "cache" / "of" / "the user"
    kept.mkdir(parents=True)
    (kept / "data").write_text("kept")
    (tmp_path / "cache" / "left").write_text("goes")
    _empty(str(tmp_path), "", frozenset({"/", "/proc", str(kept)}))
    assert sorted(tmp_path.rglob("*")) == [*reversed(kept.parents[:2]), kept, kept / "data"]


def test_mount_points_are_read_with_their_escapes(tmp_path: Path):
    table = tmp_path / "mountinfo"
    table.write_text(
        "25 1 8:1 / / rw - ext4 /dev/sda1 rw\n31 25 0:9 /x /tmp/a\\040b\\134c rw,nosuid shared:1 - tmpfs none rw\n"
    )
    assert mount_points(table) == {"/", "/tmp/a b\\c"}


def test_descriptors_that_two_runs_would_share(tmp_path: Path):
    reading = os.open(tmp_path, os.O_RDONLY)
    null = os.open(os.devnull, os.O_RDWR)
    log = os.open(tmp_path / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    data = os.open(tmp_path / "data", os.O_RDWR | os.O_CREAT)
    pipe = os.pipe()
    try:
        assert [is_shared(number) for number in (reading, null, log, data, *pipe)] == [
            False, False, False, True, True, True,
        ]  # fmt: skip
    finally:
        for number in (reading, null, log, data, *pipe):
            os.close(number)


ENDINGS = [
    (("settled", 0, None), 0, (0, True, None)),
    (("settled", 70, None), 0, (70, True, None)),
    (("settled", 0, None), 1, (0, True, "oom")),
    (("settled", None, 11), 0, (70, True, "crash")),
    (("terminated", None, 15), 0, (143, False, None)),
    (("stopped", None, 9), 0, (75, False, None)),
    (("died", 75, None), 0, (75, False, None)),
    (("sidecar-lost", None, 9), 0, (65, False, None)),
    (("grace-over", None, 9), 0, (70, True, None)),
    (("grace-over", None, 9), 2, (70, True, "oom")),
    (("died", None, 9), 1, (70, True, "oom")),
    (("died", None, 11), 0, (70, True, "crash")),
    (("died", 0, None), 0, (70, True, "crash")),
]


@pytest.mark.parametrize(("ending", "kills", "expected"), ENDINGS)
def test_what_retires_a_pod(monkeypatch: pytest.MonkeyPatch, ending: tuple, kills: int, expected: tuple):
    class Sidecar:
        def call(self, *_request: object) -> None:
            pass

    monkeypatch.setattr(conclude.cgroup, "read", lambda: cgroup.Counters(oom_kills=3 + kills))
    end = conclude.conclude(Sidecar(), Ending(*ending), cgroup.Counters(oom_kills=3))  # type: ignore[arg-type]
    assert (end.code, end.settled, end.retire) == expected
