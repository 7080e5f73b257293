"""Base images made from Debian packages, for machines that can pull none.

Each carries the very name that the Dockerfiles use by default, so one Dockerfile serves both kinds of machine.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster import packages
from e2e.images import oci
from e2e.images.store import cache_directory, key

SUITE = "bookworm"
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MACHINE_SOURCES = Path("/etc/apt/sources.list.d/debian.sources")
DROPPED = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
SCRUB = (
    'rm -rf "$1"/etc/apt/sources.list "$1"/etc/apt/sources.list.d/* "$1"/etc/apt/apt.conf.d/99mmdebstrap "$1"/var/log/*'
)
POSTGRES_USER = (
    'echo "postgres:x:999:" >> "$1/etc/group"; '
    'echo "postgres:x:999:999::/var/lib/postgresql:/bin/bash" >> "$1/etc/passwd"; '
    'mkdir -p "$1/etc/postgresql-common"; '
    'echo "create_main_cluster = false" > "$1/etc/postgresql-common/createcluster.conf"'
)
# Just-in-time compilation is of no use to short queries and its library is half of the image
POSTGRES_TRIM = (
    'rm -rf "$1"/usr/lib/postgresql/15/lib/llvmjit* "$1"/usr/lib/postgresql/15/lib/bitcode "$1"/usr/lib/*/libLLVM*'
)


@dataclass(frozen=True)
class Base:
    """A base image: `name` as Dockerfiles use it, the Debian packages it has, and shell hooks for mmdebstrap."""

    name: str
    packages: tuple[str, ...]
    command: tuple[str, ...]
    before: str = "true"
    after: str = "true"

    @property
    def key(self) -> str:
        """Identify what the image is made of, the Debian archive's state apart."""
        return key(SUITE, self.name, *self.packages, *self.command, self.before, self.after, SCRUB, *DROPPED)


PYTHON = Base(
    name="docker.io/library/python:3.11-slim-bookworm",
    packages=("python3", "python3-venv", "ca-certificates", "netbase", "tzdata"),
    command=("python3",),
    after='for name in python python3 python3.11; do ln -s /usr/bin/python3.11 "$1/usr/local/bin/$name"; done',
)
DEBIAN = Base(
    name="docker.io/library/debian:bookworm-slim",
    packages=("ca-certificates", "curl", "jq"),
    command=("bash",),
)
POSTGRES = Base(
    name="docker.io/library/postgres:15-bookworm",
    packages=("postgresql-15",),
    command=("postgres",),
    before=POSTGRES_USER,
    after=POSTGRES_TRIM,
)
ALL = (PYTHON, DEBIAN, POSTGRES)


def can_be_made() -> bool:
    """Whether this machine can make them; where it cannot, they are pulled."""
    return sys.platform == "linux" and os.geteuid() == 0 and shutil.which("apt-get") is not None


def archive(base: Base) -> Path:
    """Give the image archive of `base`, made the first time (half a minute each)."""
    target = cache_directory("bases") / f"{base.name.rsplit('/', 1)[1].replace(':', '-')}-{base.key}.tar"
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".partial-") as scratch:
            rootfs = Path(scratch) / "rootfs.tar"
            bootstrap(base, rootfs)
            config = {"Env": [PATH, "LANG=C.UTF-8"], "Cmd": list(base.command)}
            oci.write_archive(target, [oci.Image((base.name,), (oci.layer_from_tar(rootfs),), config)])
    return target


def bootstrap(base: Base, rootfs: Path) -> None:
    """Write the file system of `base` as an uncompressed tar."""
    packages.ensure({"mmdebstrap": "mmdebstrap"}, cache_directory("log") / "packages.log")
    command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(base.packages)}"]
    command += [f"--dpkgopt=path-exclude={pattern}" for pattern in DROPPED]
    command += [f"--aptopt={line}" for line in _machine_apt_options()]
    command += [f"--essential-hook={base.before}", f"--customize-hook={base.after}", f"--customize-hook={SCRUB}"]
    command += [SUITE, str(rootfs)]
    if MACHINE_SOURCES.exists():  # the mirror this machine is set up with; scrubbed from the image
        command.append(str(MACHINE_SOURCES))
    subprocess.run(command, check=True)


def _machine_apt_options() -> list[str]:
    """Give the machine's apt settings that decide whether its mirror can be reached and is trusted."""
    dump = subprocess.run(["apt-config", "dump", "Acquire"], check=True, capture_output=True, text=True).stdout
    wanted = ("::Proxy", "::Check-Date", "::Check-Valid-Until", "::CaInfo")
    return [line for line in dump.splitlines() if any(word in line.split(" ", 1)[0] for word in wanted)]
