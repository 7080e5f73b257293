"""The control groups a node's pods live in: one tree per controller (v1) or one tree (v2)."""

from pathlib import Path

from e2e.cluster.processes import kill_all
from e2e.cluster.shell import Problem, wait_until

ROOT = Path("/sys/fs/cgroup")


def trees(root: Path = ROOT) -> list[Path]:
    """The top directories to make a node's group in."""
    if (root / "cgroup.controllers").exists():
        return [root]
    return sorted({path.resolve() for path in root.iterdir() if (path / "tasks").exists()})


def ensure(name: str) -> None:
    """Make group `name` in every tree, ready to have children."""
    for tree in trees():
        group = tree / name
        if (tree / "cgroup.controllers").exists():
            wanted = " ".join(f"+{one}" for one in (tree / "cgroup.controllers").read_text().split())
            (tree / "cgroup.subtree_control").write_text(wanted)
        group.mkdir(exist_ok=True)
        for file in ("cpuset.cpus", "cpuset.mems"):
            if (tree / "tasks").exists() and (group / file).exists() and not (group / file).read_text().strip():
                (group / file).write_text((tree / file).read_text())


def groups(name: str) -> list[Path]:
    """Every directory of group `name`, deepest first."""
    found = [top for tree in _all_trees() if (top := tree / name).exists()]
    deep = [path for top in found for path in top.rglob("*") if path.is_dir()]
    return sorted([*found, *deep], key=lambda path: len(path.parts), reverse=True)


def members(name: str) -> set[int]:
    """The processes in group `name` and below."""
    pids: set[int] = set()
    for group in groups(name):
        try:
            pids.update(int(line) for line in (group / "cgroup.procs").read_text().split())
        except (FileNotFoundError, OSError):
            continue  # ended while we looked
    return pids


def remove(name: str) -> None:
    """Kill what runs in group `name` and remove it."""
    kill_all(members(name))

    def gone() -> bool:
        for group in groups(name):
            try:
                group.rmdir()
            except FileNotFoundError:
                continue
            except OSError:
                kill_all(members(name))  # a fork that was faster, or a process that is not reaped yet
                return False
        return True

    wait_until(f"the removal of control group {name}", gone, 15)


def _all_trees() -> list[Path]:
    unified = ROOT / "unified"
    if not ROOT.exists():
        raise Problem(f"{ROOT} is not mounted: the cluster needs control groups")
    return [*trees(), *([unified] if unified.exists() else [])]
