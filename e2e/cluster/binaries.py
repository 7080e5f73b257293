"""Kubernetes and its companions, built from source: pinned, cached by the hash of what they are made from."""

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from e2e.cluster import packages, toolchain, versions
from e2e.cluster.shell import beside, locked, run_loudly
from e2e.images.oci import File, Image, layer, write_archive

HERE = Path(__file__).resolve().parent
PAUSE_IMAGE = "localhost/milepost/pause:1"


@dataclass(frozen=True)
class Program:
    """One build: `source` is a package@version or a module directory here; `links` are further names of the result.

    `apart`: it shares next to no code with Kubernetes, so it may be built while that is. `modfile`: the go.mod of the
    directory that holds for it, where there are several.
    """

    name: str
    sources: tuple[str, ...]
    links: tuple[str, ...] = ()
    tags: str = ""
    ldflags: str = "-s -w"
    cgo: bool = False
    produces: tuple[str, ...] = field(default=())
    apart: bool = False
    modfile: str = "go.mod"

    @property
    def files(self) -> tuple[str, ...]:
        return self.produces or (self.name,)


def _kubernetes_flags(version: str) -> str:
    major, minor, _ = version.split(".")
    # A fixed date keeps the binary, and so its hash, the same wherever and whenever it is built.
    facts = {"gitVersion": f"v{version}", "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    facts["buildDate"] = "2026-01-01T00:00:00Z"
    targets = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    return "-s -w " + " ".join(f"-X {target}.{key}={value}" for target in targets for key, value in facts.items())


KUBE_NAMES = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet", "kubectl")
CONTAINERD = "github.com/containerd/containerd/v2/cmd"
HELM = Program("helm", ("helm.sh/helm/v4/cmd/helm@v4.3.1",))
CALICO = Program("calico-felix", ("go/calico",), ("calico",), apart=True)
OTHERS = (
    Program(
        "containerd",
        tuple(f"{CONTAINERD}/{name}@v2.4.2" for name in ("containerd", "containerd-shim-runc-v2", "ctr")),
        tags="no_btrfs no_devmapper no_zfs",
        produces=("containerd", "containerd-shim-runc-v2", "ctr"),
        apart=True,
    ),
    Program("runc", ("github.com/opencontainers/runc@v1.5.2",), tags="seccomp", cgo=True, apart=True),
    CALICO,
    Program("coredns", ("go/coredns",)),
    HELM,
)
KIND = Program("kind", ("sigs.k8s.io/kind@v0.33.0",))
VERSITYGW = Program("versitygw", ("github.com/versity/versitygw/cmd/versitygw@v1.8.0",))


CALICO_KINDS = (
    "bgpconfigurations",
    "clusterinformations",
    "felixconfigurations",
    "globalnetworkpolicies",
    "globalnetworksets",
    "hostendpoints",
    "ipamblocks",
    "ippools",
    "networkpolicies",
    "networksets",
)


def kube() -> Program:
    """Kubernetes of the chosen version, with etcd, kubectl, kubeadm and crictl: one program by many names."""
    minor = versions.chosen()
    return Program(
        "kube",
        ("go/kube",),
        (*KUBE_NAMES, "kubeadm", "crictl"),
        ldflags=_kubernetes_flags(versions.kubernetes()),
        modfile="go.mod" if minor == versions.NEWEST else f"kubernetes-{minor}.mod",
    )


def programs() -> tuple[Program, ...]:
    """All that a cluster on this machine runs."""
    return (kube(), *OTHERS)


def binaries() -> Path:
    """The directory that holds every program of the cluster under its usual name; builds what is not cached."""
    return _linked(programs())


def kube_programs() -> Path:
    """The directory that holds Kubernetes' own programs, etcd and kubectl alone: an API server needs no node."""
    return _linked((kube(),))


def kind_program() -> Path:
    """The path of the kind program; builds it when it is not cached."""
    return _build(KIND) / "kind"


def helm_program() -> Path:
    """The path of the helm program alone: the chart's tests need no cluster."""
    return _build(HELM) / "helm"


def versitygw_program() -> Path:
    """The path of an S3 server over plain directories, for tests: no part of the cluster."""
    return _build(VERSITYGW) / "versitygw"


def _linked(wanted: tuple[Program, ...]) -> Path:
    built = _built(wanted)
    links = {name: home / name for program, home in built.items() for name in program.files}
    links |= {link: home / program.name for program, home in built.items() for link in program.links}
    listing = json.dumps({name: str(path) for name, path in sorted(links.items())})
    home = toolchain.cache() / "bin" / f"all-{_short(listing.encode())}"
    if not home.exists():
        scratch = Path(tempfile.mkdtemp(dir=home.parent))
        for name, path in links.items():
            (scratch / name).symlink_to(os.path.relpath(path, home))
        _publish(scratch, home)
    return home


def _built(wanted: tuple[Program, ...]) -> dict[Program, Path]:
    """Where each of them is. Two are built at once: downloads and linking leave most of a machine idle."""
    lacking = [program for program in wanted if not _home(program).exists()]
    names = [program.name for program in lacking if program.apart]
    if len(names) in (0, len(lacking)):
        return {program: _build(program) for program in wanted}
    with beside([sys.executable, "-m", "e2e.cluster.ahead", *names]):
        together = {program: _build(program) for program in wanted if not program.apart}
    return together | {program: _build(program) for program in wanted if program.apart}


def build_ahead(names: Sequence[str]) -> None:
    """Build those of the cluster's programs that have these names."""
    for program in programs():
        if program.name in names:
            _build(program)


def recipe_hash(program: Program) -> str:
    """The name of the cache entry: changes with the pinned version, the flags or any file of the module."""
    digest = hashlib.sha256(json.dumps([program.sources, program.tags, program.ldflags, program.cgo]).encode())
    own = {program.modfile, program.modfile.replace(".mod", ".sum")}
    for source in program.sources:
        if "@" not in source:
            files = sorted((HERE / source).iterdir())
            for file in [file for file in files if file.suffix not in {".mod", ".sum"} or file.name in own]:
                digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _home(program: Program) -> Path:
    return toolchain.cache() / "bin" / recipe_hash(program)


def _build(program: Program) -> Path:
    home = _home(program)
    if home.exists():
        return home
    home.parent.mkdir(parents=True, exist_ok=True)
    with locked(home.parent / f".lock-{program.name}", f"the build of {program.name}"):
        if home.exists():
            return home
        log = toolchain.cache() / f"log/build-{program.name}.log"
        if program.cgo:
            packages.ensure(packages.BUILD, log)
        scratch = Path(tempfile.mkdtemp(prefix=f"{program.name}-", dir=home.parent))
        try:
            run_loudly(f"build {program.name}", *_command(program, scratch, log))
            _publish(scratch, home)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return home


def _command(program: Program, target: Path, log: Path) -> tuple[list[str], Path, dict[str, str]]:
    env = {**os.environ, "CGO_ENABLED": "1" if program.cgo else "0", "GOBIN": str(target), "GOTOOLCHAIN": "local"}
    env["GOFLAGS"] = f"{env.get('GOFLAGS', '')} -buildvcs=false".strip()
    env.setdefault("GOGC", "400")  # the compiler collects garbage less often: a sixth of the time, for some more memory
    go = ["nice", "-n", "10", str(toolchain.go())]
    quick = ["-trimpath", "-gcflags=all=-dwarf=false"]  # what is stripped need not be made: a sixth of the time
    if program.tags == "" and "@" not in program.sources[0]:
        chdir = ["-C", str(HERE / program.sources[0])]
        flags = [f"-modfile={program.modfile}", *quick, "-ldflags", program.ldflags, "-o", str(target / program.name)]
        return [*go, "build", *chdir, *flags, "."], log, env
    flags = [*quick, "-ldflags", program.ldflags, "-tags", program.tags]
    return [*go, "install", *flags, *program.sources], log, env


def _publish(scratch: Path, home: Path) -> None:
    scratch.chmod(0o755)
    try:
        scratch.rename(home)
    except OSError:
        if not home.exists():
            raise
        shutil.rmtree(scratch)  # another process was first, with the same content


def calico_crds() -> list[Path]:
    """The CustomResourceDefinitions Felix reads, from the pinned module itself."""
    home = toolchain.cache() / "bin" / f"crds-{recipe_hash(CALICO)}"
    if not home.exists():
        module = toolchain.module_dir(HERE / "go/calico", "github.com/projectcalico/calico")
        scratch = Path(tempfile.mkdtemp(dir=home.parent))
        for kind in CALICO_KINDS:
            name = f"crd.projectcalico.org_{kind}.yaml"
            (scratch / name).write_bytes((module / "libcalico-go/config/crd" / name).read_bytes())
        _publish(scratch, home)
    return sorted(home.iterdir())


def pause_archive() -> Path:
    """An OCI archive of the sandbox image, made from a static C program."""
    source = HERE / "pause/pause.c"
    home = toolchain.cache() / "bin" / f"pause-{_short(source.read_bytes() + PAUSE_IMAGE.encode())}"
    if not home.exists():
        log = toolchain.cache() / "log/build-pause.log"
        packages.ensure(packages.BUILD, log)
        home.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=home.parent))
        run_loudly("build pause", ["gcc", "-Os", "-s", "-static", "-o", scratch / "pause", source], log)
        config = {"Entrypoint": ["/pause"], "User": "65535:65535"}
        image = Image((PAUSE_IMAGE,), (layer([File("pause", scratch / "pause")]),), config)
        write_archive(scratch / "pause.oci", [image])
        _publish(scratch, home)
    return home / "pause.oci"


def _short(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
