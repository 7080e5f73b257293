"""Peers in an environment of their own below .tools, made anew when their pins changed."""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

TOOLS = Path(__file__).parents[2] / ".tools"


def environment(requirements: Path, name: str = "peers") -> Path:
    """The Python of an environment with those packages."""
    home = TOOLS / name
    if _stale(home, requirements.read_bytes()):
        print(f"installing {requirements.parent.name}'s peers into an environment of their own", flush=True)
        subprocess.run([sys.executable, "-m", "venv", home], check=True)
        pip = [home / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "-r", requirements], check=True)
        _keep(home, requirements.read_bytes())
    return home / "bin" / "python"


def npm_package(packages: Sequence[str], name: str) -> Path | None:
    """The node_modules with npm packages (name@version); None where there is no npm."""
    npm = shutil.which("npm")
    if npm is None:
        return None
    home = TOOLS / name
    wanted = "\n".join(packages).encode()
    if _stale(home, wanted):
        print(f"installing {', '.join(packages)}", flush=True)
        home.mkdir(parents=True)
        subprocess.run([npm, "install", "--silent", "--no-audit", "--no-fund", "--prefix", home, *packages], check=True)
        _keep(home, wanted)
    return home / "node_modules"


def _stale(home: Path, wanted: bytes) -> bool:
    """Whether it has to be made; what was there is gone then."""
    stamp = home / "stamp"
    if stamp.exists() and stamp.read_text() == hashlib.sha256(wanted).hexdigest():
        return False
    shutil.rmtree(home, ignore_errors=True)
    return True


def _keep(home: Path, wanted: bytes) -> None:
    (home / "stamp").write_text(hashlib.sha256(wanted).hexdigest())
