"""Where built things are kept between runs, and the content hashes they are known by."""

import fcntl
import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from e2e.cluster import toolchain

ROOT = Path(__file__).resolve().parents[2]
JUNK = {"__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache", "dist", "build", "wheels"}


def cache_directory(name: str) -> Path:
    """Give the directory `name` of the cache (MILEPOST_CACHE, by default ~/.cache/milepost), made if missing."""
    path = toolchain.cache() / name
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the cache lock `name`: builds that several processes start at once happen once."""
    with (cache_directory("locks") / name).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def sources(directory: Path) -> list[Path]:
    """List the files below `directory` that an image may be made of, in a fixed order."""
    found = [path for path in directory.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    return sorted(path for path in found if not JUNK & set(path.relative_to(directory).parts[:-1]))


def key(*parts: str, files: Iterable[Path] = ()) -> str:
    """Hash texts and files (name below the repository, mode and content) into 12 hex digits."""
    total = hashlib.sha256()
    for part in parts:
        total.update(f"{len(part)}:{part}\n".encode())
    for path in files:
        name = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path.name
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        total.update(f"{name} {os.access(path, os.X_OK)} {content}\n".encode())
    return total.hexdigest()[:12]
