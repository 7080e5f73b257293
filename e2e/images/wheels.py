"""Collect, outside of any image build, the wheels that images install: builds then need no network and no index."""

import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from e2e.images.store import cache_directory, key, sources

PYTHON = "3.11"
NEWEST_GLIBC_MINOR = 36  # of Debian bookworm, which the images are based on


def dependencies(lock: Path) -> Path:
    """Give a directory with the wheels that `lock` pins (hashes checked), downloading them the first time."""
    target = cache_directory("wheels") / f"deps-{key(platform.machine(), PYTHON, files=[lock])}"
    if not target.exists():
        _fill(target, lambda out: _download(lock, out))
    return target


def own(dist: Path) -> Path:
    """Give a directory with the wheel of our distribution `dist` (a directory with a pyproject.toml)."""
    target = cache_directory("wheels") / f"own-{key(files=sources(dist))}"
    if not target.exists():
        _fill(target, lambda out: _build(dist, out))
    return target


def _fill(target: Path, make: Callable[[Path], None]) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".partial-") as scratch:
        out = Path(scratch) / "out"
        out.mkdir()
        make(out)
        if not target.exists():
            out.replace(target)


def _build(dist: Path, out: Path) -> None:
    script = "import sys, uv_build; uv_build.build_wheel(sys.argv[1])"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"  # uv_build finds its program there
    subprocess.run([sys.executable, "-c", script, str(out)], cwd=dist, env={**os.environ, "PATH": path}, check=True)


def _download(lock: Path, out: Path) -> None:
    machine = platform.machine()
    tags = [f"manylinux_2_{minor}_{machine}" for minor in range(NEWEST_GLIBC_MINOR, 4, -1)]
    tags += [f"manylinux{name}_{machine}" for name in ("2014", "2010", "1")]
    command = [str(_pip_python()), "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--require-hashes", "--no-deps", "--only-binary=:all:"]
    command += ["--implementation=cp", f"--python-version={PYTHON}", *(f"--platform={tag}" for tag in tags)]
    subprocess.run([*command, "--dest", str(out), "--requirement", str(lock)], check=True)


def _pip_python() -> Path:
    """Give a Python that has pip: uv's environments come without, so one is made once with the same interpreter."""
    home = cache_directory("tools") / f"pip-{PYTHON}"
    python = home / "bin" / "python"
    if not python.exists():
        base = Path(sys.base_prefix) / "bin" / f"python{PYTHON}"
        subprocess.run([str(base), "-m", "venv", str(home)], check=True)
    return python
