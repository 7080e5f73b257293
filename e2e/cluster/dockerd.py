"""A Docker engine for machines that have none: Debian's own, unpacked into the cache and run in its own network.

It proves the Docker builder and the kind provider on bare machines. Its network namespace has no way out, and its
firewall rules stay in there: the machine's own forwarding, chains and Docker settings are never touched.
"""

import os
import shutil
import subprocess
from pathlib import Path

from e2e.cluster import cgroups, preflight
from e2e.cluster.processes import PATH, Daemon, kill_all, pids_in_namespaces, pids_mentioning
from e2e.cluster.shell import Problem, locked, run, say, wait_until
from e2e.images.store import cache_directory

HOME = Path("/var/lib/milepost/docker")
RUN = Path("/run/milepost-docker")
SOCKET = RUN / "docker.sock"
LOCK = Path("/run/lock/milepost-docker.lock")
NETNS = "milepost-docker"
LINK = "mpd0"
HOST_IP = "10.201.0.1"
IP = "10.201.0.2"
KIND_SUBNET = "10.202.0.0/16"
CGROUP = "milepost-docker"
MODULES = Path("/lib/modules")  # kind's nodes mount it, and the engine would make it where it is missing
NO_DOCKER = "no Docker engine answers, and one can be started here only by root on Debian: install Docker and start it"
DEBS = ("docker.io", "containerd", "runc", "tini")
# Where the machine lacks CAP_SYS_RESOURCE, runc cannot grant it to privileged containers: they go without it.
RUNTIME = r"""#!/bin/sh
file= previous=
for word in "$@"; do
  case $previous in
    --bundle | -b) file=$word/config.json ;;
    --process | -p) file=$word ;;
  esac
  previous=$word
done
[ -z "$file" ] || sed -i -e 's/"CAP_SYS_RESOURCE",//g' -e 's/,"CAP_SYS_RESOURCE"//g' "$file"
exec RUNC "$@"
"""


def engine() -> str | None:
    """The address of a Docker engine that answers: the machine's, or else the one started here."""
    machine = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    return next((url for url in (machine, f"unix://{SOCKET}") if _answers(url)), None)


def is_ours(url: str) -> bool:
    """Whether this engine was started here: then it is in a network of its own, and can pull nothing."""
    return url == f"unix://{SOCKET}"


def client() -> Path:
    """The docker program: the machine's, or the unpacked one."""
    found = shutil.which("docker")
    return Path(found) if found else _programs() / "usr/bin/docker"


def start() -> str:
    """Start the engine unless it runs; gives its address."""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        found = shutil.which("docker")
        raise Problem(preflight.silent(preflight.ask(found).stderr) if found else NO_DOCKER)
    with locked(LOCK, "the Docker engine"):
        programs = _programs()
        _network()
        runtime = _prepare(programs)
        cgroups.ensure(CGROUP)
        options = [f"--data-root={HOME}/data", f"--exec-root={RUN}/exec", f"--pidfile={RUN}/docker.pid"]
        options += [f"--host=unix://{SOCKET}", f"--config-file={HOME}/daemon.json", f"--cgroup-parent=/{CGROUP}"]
        options += ["--bridge=none", "--ip6tables=false", "--oom-score-adjust=0", "--storage-driver=overlay2"]
        options += [f"--add-runtime=milepost={runtime}", "--default-runtime=milepost", f"--ip={IP}"]
        # No name server can be reached from here: a name that only one would know is given up after a second.
        options += ["--dns-opt=timeout:1", "--dns-opt=attempts:1"]
        # A mount namespace of its own too: whatever is mounted for containers ends with the last process in it.
        inside = ["nsenter", f"--net=/run/netns/{NETNS}", "unshare", "--mount", "--propagation=slave"]
        path = {"PATH": f"{programs}/usr/sbin:{programs}/usr/bin:{PATH}"}
        if _daemon().ensure([*inside, programs / "usr/sbin/dockerd", *options], path):
            say("starting a Docker engine")
    try:
        wait_until("the Docker engine", lambda: _answers(f"unix://{SOCKET}"), 60, 0.2)
    except Problem as problem:
        raise Problem(f"{problem}\n{_daemon().last_words()}") from problem
    return f"unix://{SOCKET}"


def stop() -> None:
    """End the engine and everything that ran in it, and remove all its traces."""
    with locked(LOCK, "the Docker engine"):
        spaces = _spaces()
        _daemon().stop()
        kill_all(pids_in_namespaces(spaces) | pids_mentioning(str(RUN)))
        if any(cgroups.groups(CGROUP)):
            cgroups.remove(CGROUP)
        run(["ip", "link", "del", LINK], check=False)
        run(["ip", "netns", "del", NETNS], check=False)
        if (HOME / "made-modules").exists() and MODULES.exists() and not any(MODULES.iterdir()):
            MODULES.rmdir()
        for directory in (RUN, HOME):
            shutil.rmtree(directory, ignore_errors=True)
    if left := [str(path) for path in (RUN, HOME, Path("/run/netns") / NETNS) if path.exists()]:
        raise Problem(f"not everything of the Docker engine could be removed: {', '.join(left)}")


def _daemon() -> Daemon:
    return Daemon("dockerd", RUN, RUN)


def _spaces() -> set[int]:
    """The network and mount namespaces of the engine; containers in further ones are found by their control group."""
    found = set()
    pid = _daemon().pid()
    for path in (Path("/run/netns") / NETNS, Path(f"/proc/{pid}/ns/mnt")):
        if path.exists():
            found.add(path.stat().st_ino)
    return found - {Path(f"/proc/self/ns/{kind}").stat().st_ino for kind in ("net", "mnt")}


def _answers(url: str) -> bool:
    path = Path(url.removeprefix("unix://"))
    if url.startswith("unix://") and not path.exists():
        return False
    return preflight.ask(client(), url).returncode == 0


def _programs() -> Path:
    """Debian's Docker, unpacked but not installed: no service is started, nothing of the machine changes."""
    home = cache_directory("docker") / "debian"
    if not home.exists():
        scratch = home.with_name(f".partial-{os.getpid()}")
        scratch.mkdir()
        subprocess.run(["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", *DEBS], cwd=scratch, check=True)
        for package in sorted(scratch.glob("*.deb")):
            run(["dpkg", "-x", package, scratch / "root"])
        (scratch / "root").rename(home)
        shutil.rmtree(scratch)
    return home


def _network() -> None:
    """A network namespace with one link to this machine, and no route beyond it."""
    inside = ["ip", "-n", NETNS]
    if NETNS not in run(["ip", "netns", "list"]).stdout.split():
        run(["ip", "netns", "add", NETNS])
        run([*inside, "link", "set", "lo", "up"])
    if run(["ip", "link", "show", LINK], check=False).returncode:
        run(["ip", "link", "add", LINK, "type", "veth", "peer", "name", "eth0", "netns", NETNS])
    run(["ip", "addr", "replace", f"{HOST_IP}/30", "dev", LINK])
    run(["ip", "link", "set", LINK, "up"])
    run([*inside, "addr", "replace", f"{IP}/30", "dev", "eth0"])
    run([*inside, "link", "set", "eth0", "up"])
    run([*inside, "route", "replace", "unreachable", "default"])


def _prepare(programs: Path) -> Path:
    HOME.mkdir(parents=True, exist_ok=True)
    RUN.mkdir(parents=True, exist_ok=True)
    (HOME / "daemon.json").write_text("{}")
    if not MODULES.exists():
        (HOME / "made-modules").touch()
        MODULES.mkdir()
    script = HOME / "runtime"
    script.write_text(RUNTIME.replace("RUNC", str(programs / "usr/sbin/runc")))
    script.chmod(0o755)
    return script
