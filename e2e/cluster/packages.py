"""Programs that come from the machine's distribution."""

import os
import shutil
from pathlib import Path

from e2e.cluster import toolchain
from e2e.cluster.shell import Problem, locked, run, run_loudly

# program or file -> Debian package
HOST = {
    "/usr/lib/cni/host-local": "containernetworking-plugins",
    "conntrack": "conntrack",
    "ip": "iproute2",
    "ipset": "ipset",
    "iptables": "iptables",
    "modprobe": "kmod",
    "nsenter": "util-linux",
    "openssl": "openssl",
}
BUILD = {
    "/usr/include/seccomp.h": "libseccomp-dev",
    "/usr/lib/x86_64-linux-gnu/libc.a|/usr/lib/aarch64-linux-gnu/libc.a": "libc6-dev",
    "gcc": "gcc",
    "pkg-config": "pkg-config",
}
PROBE = {"/bin/busybox": "busybox-static"}
IMAGES = {"buildah": "buildah", "mmdebstrap": "mmdebstrap"}


def missing(wanted: dict[str, str]) -> list[str]:
    """The packages of `wanted` whose program or file is not there."""
    return sorted({package for probe, package in wanted.items() if not any(map(_there, probe.split("|")))})


def _there(probe: str) -> bool:
    if probe.startswith("/"):
        return Path(probe).exists()
    sbin = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    return shutil.which(probe, path=sbin) is not None


def ensure(wanted: dict[str, str], log: Path) -> None:
    """Install what is missing of `wanted` with apt-get, or say what to install where there is none."""
    if not missing(wanted):
        return
    with locked(toolchain.cache() / ".packages.lock", "the machine's packages"):
        _install(missing(wanted), log)


def _install(packages: list[str], log: Path) -> None:
    if not packages:  # another process did
        return
    names = " ".join(packages)
    if not shutil.which("apt-get"):
        raise Problem(f"this machine lacks programs the cluster needs: install {names}")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-y", "--no-install-recommends", *packages]
    if run(["apt-cache", "show", "--no-all-versions", *packages], check=False).returncode:
        run_loudly("package lists", ["apt-get", "update"], log, env)
    try:
        run_loudly(f"packages {names}", install, log, env)
    except Problem:
        run_loudly("package lists", ["apt-get", "update"], log, env)  # stale lists name files that are gone
        run_loudly(f"packages {names}, again", install, log, env)
