"""A node image for kind, made on this machine: for Docker engines that can pull none.

Two layers: Debian packages as kind's own base image has them, and above it kind's files (from its pinned module, as it
is in the Go cache), our Kubernetes and containerd, and a containerd store with the images that kubeadm asks for.
"""

import json
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from e2e.cluster import storage, toolchain
from e2e.cluster.binaries import binaries
from e2e.cluster.kindstore import fill_store, kubeadm_images
from e2e.cluster.shell import locked, run, say
from e2e.cluster.versions import kubernetes
from e2e.images import bases, oci
from e2e.images.bases import Base
from e2e.images.store import cache_directory, key

KIND_MODULE = "sigs.k8s.io/kind@v0.33.0"
HERE = Path(__file__).resolve().parent
# What kind's base image does to systemd: start nothing of Debian's own. The two sysctl files would change the machine.
REMOVED = (
    "usr/lib/systemd/system/sysinit.target.wants/systemd-tmpfiles-setup.service",
    *(f"usr/lib/systemd/system/{unit}.target.wants/*" for unit in ("multi-user", "local-fs", "basic")),
    *(f"usr/lib/systemd/system/sockets.target.wants/*{name}*" for name in ("udev", "initctl")),
    "etc/systemd/system/*.wants/*",
    "usr/lib/sysctl.d/50-pid-max.conf",
    "usr/lib/sysctl.d/99-protect-links.conf",
    "etc/sysctl.d/*",
)
TRIM = (
    f'set -e; cd "$1"; rm -f {" ".join(REMOVED)}; echo ReadKMsg=no >> etc/systemd/journald.conf; '
    "ln -sf /usr/lib/systemd/systemd sbin/init"
)
ROOTFS = Base(
    name="kind-node-rootfs",
    packages=(
        *("systemd", "conntrack", "iptables", "nftables", "iproute2", "ethtool", "util-linux", "mount", "kmod"),
        *("libseccomp2", "pigz", "bash", "ca-certificates", "curl", "jq", "procps", "containernetworking-plugins"),
    ),
    command=("/sbin/init",),
    after=TRIM,
)
ENABLED = ("kubelet.service", "containerd.service", "undo-mount-hacks.service")
# Under control groups v1 runc freezes a group while systemd changes it, and a group that starts processes all the time
# doesn't freeze ("unable to freeze"): containers then fail to start, or stand still.
CGROUP_DRIVER = "cgroupfs"
KUBELET_DEFAULTS = (
    "KUBELET_EXTRA_ARGS=--runtime-cgroups=/system.slice/containerd.service --fail-cgroupv1=false --oom-score-adj=0\n"
)


def node_image() -> tuple[str, Path]:
    """Give the name of the node image and its archive, made the first time (about a minute)."""
    programs = binaries()
    recipe = b"".join(path.read_bytes() for path in (HERE / "kindimage.py", HERE / "kindstore.py"))
    tag = key(KIND_MODULE, programs.name, ROOTFS.key, recipe.decode())
    ref = f"milepost.local/kind-node:v{kubernetes()}-{tag}"
    archive = cache_directory("kind") / f"node-{tag}.tar"
    with locked(cache_directory("locks") / "kind-node", "the kind node image"):
        if not archive.exists():
            say("making a node image for kind …")
            rootfs = _rootfs()
            with tempfile.TemporaryDirectory(dir=archive.parent, prefix=".partial-") as scratch:
                upper = Path(scratch) / "upper.tar"
                _upper(rootfs, programs, Path(scratch), upper)
                config = {
                    "Env": [bases.PATH, "container=docker"],
                    "Entrypoint": ["/usr/local/bin/entrypoint", "/sbin/init"],
                    "StopSignal": "SIGRTMIN+3",
                }
                layers = (oci.layer_from_tar(rootfs), oci.layer_from_tar(upper))
                for old in archive.parent.glob("node-*.tar"):
                    old.unlink()
                oci.write_archive(archive, [oci.Image((ref,), layers, config)])
    return ref, archive


def _rootfs() -> Path:
    rootfs = cache_directory("kind") / f"rootfs-{ROOTFS.key}.tar"
    if not rootfs.exists():
        partial = rootfs.with_name(f".partial-{rootfs.name}")
        bases.bootstrap(ROOTFS, partial)
        partial.rename(rootfs)
    return rootfs


def _upper(rootfs: Path, programs: Path, scratch: Path, target: Path) -> None:
    root = scratch / "root"
    _kind_files(root)
    _programs(root, programs)
    names = kubeadm_images(programs)
    _configuration(root, programs, sandbox=next(name for name in names if "/pause:" in name))
    below = scratch / "below"
    below.mkdir()
    run(["tar", "-xf", rootfs, "-C", below, "--exclude=./dev/*"], timeout=300)
    fill_store(root / "var/lib/containerd", programs, below, names, scratch)
    options = ["--numeric-owner", "--owner=0", "--group=0", "--sort=name", "--xattrs", "--xattrs-include=*"]
    run(["tar", "-cf", target, *options, "-C", root, "."], timeout=300)


def _kind_files(root: Path) -> None:
    """Kind's own files with the modes that its Dockerfile gives them."""
    go = toolchain.go()
    module = json.loads(run([go, "mod", "download", "-json", KIND_MODULE]).stdout)
    files = Path(module["Dir"]) / "images/base/files"
    for source in sorted(path for path in files.rglob("*") if path.is_file()):
        name = source.relative_to(files)
        target = root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        programs = name.parts[:2] == ("kind", "bin") or name.parts[:3] == ("usr", "local", "bin")
        target.chmod(0o755 if programs else 0o644)
    wanted = root / "etc/systemd/system/multi-user.target.wants"
    wanted.mkdir(parents=True)
    for unit in ENABLED:
        (wanted / unit).symlink_to(f"/etc/systemd/system/{unit}")
    (root / "etc/systemd/system/systemd-binfmt.service").symlink_to("/dev/null")


def _programs(root: Path, programs: Path) -> None:
    _copy(programs, root / "usr/local/bin", ["containerd", "containerd-shim-runc-v2", "ctr"])
    _copy(programs, root / "usr/local/sbin", ["runc"])
    _copy(programs, root / "usr/bin", ["kubelet"])
    for name in ("kubeadm", "kubectl", "crictl"):
        (root / "usr/bin" / name).symlink_to("kubelet")
    (root / "opt/cni").mkdir(parents=True)
    (root / "opt/cni/bin").symlink_to("/usr/lib/cni")


def _copy(programs: Path, target: Path, names: Iterable[str]) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for name in names:
        shutil.copyfile(programs / name, target / name)
        (target / name).chmod(0o755)


def _configuration(root: Path, programs: Path, sandbox: str) -> None:
    spec = json.loads(run([programs / "ctr", "oci", "spec"]).stdout)
    del spec["process"]["rlimits"]
    spec.setdefault("hooks", {}).setdefault("createContainer", []).append({"path": "/kind/bin/mount-product-files.sh"})
    containerd = root / "etc/containerd"
    (containerd / "cri-base.json").write_text(json.dumps(spec))
    config = (containerd / "config.toml").read_text()
    config = config.replace("restrict_oom_score_adj = false", "restrict_oom_score_adj = true")
    config = config.replace("SystemdCgroup = true", "SystemdCgroup = false")
    old = next(line for line in config.splitlines() if "sandbox_image" in line)
    (containerd / "config.toml").write_text(config.replace(old, f'  sandbox_image = "{sandbox}"'))
    (root / "etc/default/kubelet").write_text(KUBELET_DEFAULTS)
    (root / "etc/kubernetes/manifests").mkdir(parents=True)
    (root / "kind/manifests").mkdir(parents=True)
    (root / "kind/version").write_text(f"v{kubernetes()}")
    (root / "kind/manifests/default-storage.yaml").write_text(json.dumps(storage.storage_class()))
