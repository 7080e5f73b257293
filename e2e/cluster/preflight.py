"""Whether a Docker engine will do, asked before anything is made in it; what it lacks becomes one sentence."""

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from e2e.cluster.shell import Problem, Result

GIB: Final = 2**30
MEMORY: Final = 4 * GIB
DISK: Final = 10 * GIB
PATIENCE: Final = 20.0
"""Seconds that an engine has to answer."""
HINT: Final = "or use another cluster: MILEPOST_KUBECONFIG=... names one"


def ask(client: str | Path, url: str = "") -> Result:
    """The answer of an engine to `docker version` (the machine's without a url); a return code but 0: it gave none."""
    words = [str(client), *(["--host", url] if url else []), "version", "--format", "{{.Server.Version}}"]
    try:
        return subprocess.run(words, capture_output=True, text=True, check=False, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        return Result(words, 124, "", f"no answer within {PATIENCE:.0f} s")


def silent(said: str) -> str:
    """What to do about an engine that a `docker version` got no answer from, by what it wrote to stderr."""
    lower = said.lower()
    if "permission denied" in lower:
        return "this user may not use Docker's socket: join the group docker and log in again, or use sudo"
    if "cannot connect" in lower or "no such file" in lower or "connection refused" in lower:
        return f"Docker is installed and does not run: start it (Docker Desktop, or `systemctl start docker`), {HINT}"
    return f"Docker does not answer ({said.strip().splitlines()[-1] if said.strip() else 'it said nothing'}): {HINT}"


def short_of(info: Mapping[str, object], free_bytes: int | None) -> str:
    """What an engine has too little of, by its `docker info`; empty when it will do. `free_bytes`: None if unknown."""
    memory = info.get("MemTotal")
    if isinstance(memory, int) and 0 < memory < MEMORY:
        return (
            f"Docker has {memory / GIB:.1f} GiB of memory and the cluster needs {MEMORY // GIB}: give it more, {HINT}"
        )
    if free_bytes is not None and free_bytes < DISK:
        free = f"{free_bytes / GIB:.1f} GiB free in {info.get('DockerRootDir')}"
        return f"Docker has {free} and the cluster needs {DISK // GIB}: `docker system prune` frees some, {HINT}"
    return ""


def require(info: Result) -> None:
    """Raise Problem unless the engine that this `docker info --format={{json .}}` tells of will do."""
    if info.returncode:
        raise Problem(silent(info.stderr))
    told = json.loads(info.stdout)
    root = Path(str(told.get("DockerRootDir") or ""))
    # An engine in a virtual machine has a root that is not to be seen here.
    free = shutil.disk_usage(root).free if root.is_absolute() and root.is_dir() else None
    if lack := short_of(told, free):
        raise Problem(lack)


def foreign(name: str) -> str:
    """What to do about a kind cluster of our name that was made elsewhere: its node publishes no ports of ours."""
    return (
        f"a kind cluster named {name} that was not made here is in the way: `kind delete cluster --name {name}` "
        "removes it, MILEPOST_KUBECONFIG=... uses it as it is"
    )
