"""Empties the directories that a run could write to, except what others have there."""

import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

MOUNTS: Final = Path("/proc/self/mountinfo")
MOUNT_POINT: Final = 4
ESCAPES: Final = ("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")


def wipe(places: Iterable[str], socket: str) -> None:
    """Empty the directories. Volumes mounted below them and the sidecar's socket stay. Raises OSError."""
    mounts = mount_points()
    for place in places:
        with suppress(FileNotFoundError):
            _empty(place, socket, frozenset(point for point in mounts if point.startswith(f"{place}/")))


def left_in(places: Iterable[str], socket: str) -> list[str]:
    """Give what is in the directories that `wipe` would remove: paths of their entries."""
    mounts, found = mount_points(), []
    for place in places:
        with suppress(FileNotFoundError):
            found += [e.path for e in os.scandir(place) if not _stays(e, socket) and not _below(e.path, mounts)]
    return found


def mount_points(table: Path = MOUNTS) -> frozenset[str]:
    """Give the paths at which something is mounted."""
    found = []
    for line in table.read_text(errors="surrogateescape").splitlines():
        point = line.split(" ")[MOUNT_POINT]
        for escape, character in ESCAPES:
            point = point.replace(escape, character)
        found.append(point)
    return frozenset(found)


def _empty(root: str, socket: str, mounts: frozenset[str]) -> None:
    # What is not empty is moved up to the root and emptied there: no path grows too long, however deep a run went
    work = [root]
    while work:
        place = work.pop()
        with os.scandir(place) as entries:
            listed = list(entries)
        for entry in listed:
            if _stays(entry, socket) or entry.path in mounts:
                continue
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)  # noqa: PTH108
            elif _below(entry.path, mounts):
                work.append(entry.path)
            elif not _removed(entry.path):
                work.append(_moved(entry.path, place, root))
        if place != root and not _below(place, mounts):
            os.rmdir(place)  # noqa: PTH106


def _stays(entry: "os.DirEntry[str]", socket: str) -> bool:
    return entry.path in {socket, f"{socket}.new"} and stat.S_ISSOCK(entry.stat(follow_symlinks=False).st_mode)


def _below(path: str, mounts: frozenset[str]) -> bool:
    return any(point == path or point.startswith(f"{path}/") for point in mounts)


def _removed(path: str) -> bool:
    os.chmod(path, stat.S_IRWXU)  # noqa: PTH101  # the run may have locked itself out
    try:
        os.rmdir(path)  # noqa: PTH106
    except OSError:
        return False
    return True


def _moved(path: str, place: str, root: str) -> str:
    if place == root:
        return path
    to = f"{root}/.{os.urandom(12).hex()}"
    os.rename(path, to)  # noqa: PTH104
    return to
