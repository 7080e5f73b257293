"""Both versions of cgroups, from files as the kernel writes them."""

from pathlib import Path

from milepost.runner.cgroup import Memory, read


def test_v2(tmp_path: Path):
    (tmp_path / "memory.events").write_text("low 0\nhigh 0\nmax 12\noom 2\noom_kill 1\noom_group_kill 0\n")
    (tmp_path / "memory.peak").write_text("536870912\n")
    assert read(tmp_path) == Memory(1, 536870912)


def test_v1(tmp_path: Path):
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory/memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    (tmp_path / "memory/memory.max_usage_in_bytes").write_text("1048576\n")
    assert read(tmp_path) == Memory(3, 1048576)


def test_an_old_kernel_keeps_no_peak_and_elsewhere_there_is_nothing(tmp_path: Path):
    assert read(tmp_path) == Memory()
    (tmp_path / "memory.events").write_text("oom_kill 1\n")
    assert read(tmp_path) == Memory(1, 0)
