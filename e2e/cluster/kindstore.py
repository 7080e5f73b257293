"""The images kubeadm asks for, made of our one Kubernetes program, and a containerd store that holds them."""

import re
from pathlib import Path

from e2e.cluster.binaries import pause_archive
from e2e.cluster.processes import Daemon
from e2e.cluster.shell import Problem, run, wait_until
from e2e.cluster.versions import kubernetes
from e2e.images import oci

# kube-proxy runs these of the node's Debian; the further names are what the first one answers to.
XTABLES = "usr/sbin/xtables-nft-multi"
XTABLES_NAMES = tuple(f"{family}tables{verb}" for family in ("ip", "ip6") for verb in ("", "-save", "-restore"))
TOOLS = ("usr/sbin/conntrack", "usr/sbin/nft", XTABLES)
ENV: dict[str, object] = {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]}
KUBE_NAMES = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "etcd")


def kubeadm_images(programs: Path) -> list[str]:
    """Give the image names that kubeadm of this Kubernetes asks for."""
    return run(
        [programs / "kubeadm", "config", "images", "list", f"--kubernetes-version=v{kubernetes()}"]
    ).stdout.split()


def fill_store(target: Path, programs: Path, rootfs: Path, names: list[str], scratch: Path) -> None:
    """Make the images and import them into the containerd store `target`, which becomes a node's own."""
    archive = scratch / "images.tar"
    oci.write_archive(archive, _images(programs, rootfs, names))
    config = scratch / "containerd.toml"
    socket = scratch / "containerd.sock"
    cri = [f"io.containerd.{name}" for name in ("grpc.v1.cri", "cri.v1.images", "cri.v1.runtime", "nri.v1.nri")]
    config.write_text(
        f'version = 3\nroot = "{target}"\nstate = "{scratch}/state"\ndisabled_plugins = {cri}\n'
        f'[grpc]\naddress = "{socket}"\n[ttrpc]\naddress = "{socket}.ttrpc"\n'
    )
    target.mkdir(parents=True)
    daemon = Daemon("containerd", scratch, scratch)
    daemon.ensure(["unshare", "--mount", programs / "containerd", "--config", config])
    ctr: list[str | Path] = [programs / "ctr", f"--address={socket}", "--namespace=k8s.io"]
    try:
        wait_until(
            "containerd", lambda: socket.exists() and not run([*ctr, "images", "ls"], check=False).returncode, 20
        )
        run([*ctr, "images", "import", "--label=io.cri-containerd.pinned=pinned", archive])
        run([*ctr, "content", "prune", "references"])  # the layers are unpacked, and only take room now
        listed = run([*ctr, "images", "ls", "--quiet"]).stdout.split()
    except Problem as problem:
        raise Problem(f"{problem}\n{daemon.last_words()}") from problem
    finally:
        daemon.stop()
    if missing := set(names) - set(listed):
        raise Problem(f"the node's store lacks {', '.join(sorted(missing))}")


def _images(programs: Path, rootfs: Path, names: list[str]) -> list[oci.Image]:
    links = [oci.File(f"usr/local/bin/{name}", link="kube") for name in KUBE_NAMES]
    kube = oci.layer([oci.File("usr/local/bin/kube", programs / "kube"), *links])
    tools = oci.layer(_tools(rootfs))
    layers = dict.fromkeys(KUBE_NAMES, (kube,)) | {
        "kube-proxy": (kube, tools),
        "coredns": (oci.layer([oci.File("coredns", programs / "coredns")]),),
        "pause": (oci.layer([oci.File("pause", pause_archive().parent / "pause")]),),
    }
    configs: dict[str, dict[str, object]] = {
        "coredns": {"Entrypoint": ["/coredns"]},
        "pause": {"Entrypoint": ["/pause"], "User": "65535:65535"},
    }
    images = []
    for ref in names:
        name = ref.rsplit(":", 1)[0].rsplit("/", 1)[1]
        images.append(oci.Image((ref,), layers[name], {**ENV, **configs.get(name, {})}))
    return images


def _tools(rootfs: Path) -> list[oci.File]:
    """The programs kube-proxy calls with every library they load, the extensions of iptables among them."""
    extensions = sorted(path.relative_to(rootfs) for path in rootfs.glob("usr/lib/*/xtables/*.so"))
    wanted = [*TOOLS, *(str(path) for path in extensions)]
    listing = run(["chroot", rootfs, "ldd", *(f"/{path}" for path in wanted)], check=False).stdout
    libraries = set(re.findall(r"(?:=> )?(/\S+) \(0x", listing))
    folders = {"tmp": 0o1777, "run": 0o755, "var": 0o755, "var/run": 0o755, "etc": 0o755}
    files = [oci.File(name, mode=mode) for name, mode in folders.items()]
    files += [oci.File(name, link=f"usr/{name}") for name in ("bin", "lib", "lib64", "sbin")]
    for path in sorted({*wanted, *(library.lstrip("/") for library in libraries)}):
        inside = path if path.startswith("usr/") else f"usr/{path}"  # Debian's /lib is a link to /usr/lib
        files.append(oci.File(inside, _content(rootfs, inside)))
    return [*files, *(oci.File(f"usr/sbin/{name}", link="xtables-nft-multi") for name in XTABLES_NAMES)]


def _content(rootfs: Path, path: str) -> Path:
    """Follow links inside of `rootfs`, as a chroot would."""
    real = run(["chroot", rootfs, "readlink", "-f", f"/{path}"]).stdout.strip()
    return rootfs / real.lstrip("/")
