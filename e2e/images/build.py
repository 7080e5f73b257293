"""Build images into archives that are kept by content, and bring them onto a cluster."""

import json
import os
import shutil
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster.binaries import binaries
from e2e.cluster.kubectl import Kubectl
from e2e.cluster.provider import Cluster, choose
from e2e.cluster.shell import Problem, beside
from e2e.images import bases
from e2e.images.buildah import Buildah
from e2e.images.builder import Builder
from e2e.images.catalog import IMAGES, Image, TaskImage, runner_names
from e2e.images.docker_engine import DockerEngine
from e2e.images.store import cache_directory, locked

KEPT_ARCHIVES = 4  # of each image, newest first
KEPT_SECONDS = 1800  # and those used lately: another checkout may be loading one now


@dataclass(frozen=True)
class BuiltImage:
    """An image in an archive: `digest` is that of its manifest, or of its configuration in a Docker archive."""

    name: str
    ref: str
    archive: Path
    digest: str
    seconds: float

    @property
    def repository(self) -> str:
        """The part of `ref` that chart values call repository."""
        return self.ref.rpartition(":")[0]

    @property
    def tag(self) -> str:
        """The part of `ref` that chart values call tag."""
        return self.ref.rpartition(":")[2]


def default_builder() -> str:
    """The one whose images the cluster can take, if there is any to be had; MILEPOST_BUILDER has the last word."""
    if named := os.environ.get("MILEPOST_BUILDER"):
        return named
    try:
        return choose().image_builder
    except Problem:
        return "buildah" if bases.can_be_made() else "docker"


def builder_named(name: str) -> Builder:
    """Give the builder `buildah` or `docker`."""
    return DockerEngine() if name == "docker" else Buildah()


def build_all(builder: str = "", only: Iterable[str] = ()) -> dict[str, BuiltImage]:
    """Build the repository's images (or those named), skipping what is built already; keys are image names."""
    chosen = list(only) or list(IMAGES)
    return {name: build(IMAGES[name], builder or default_builder()) for name in chosen}


@contextmanager
def building_beside(builder: str) -> Iterator[None]:
    """Build all images in a process of its own meanwhile.

    It says nothing. What it could not build, `build_all` tries again, and says why it can't be.
    """
    with beside([sys.executable, "-m", "e2e.images", "build", "--builder", builder]):
        yield


def build_task(directory: Path, name: str, builder: str = "") -> BuiltImage:
    """Build a task's image from any directory with a Dockerfile; `name` becomes milepost.local/<name>."""
    image = TaskImage(directory.resolve(), name)
    chosen = builder or default_builder()
    if image.runner:
        build(image.runner, chosen)
    return build(image, chosen)


def build(image: Image | TaskImage, builder: str) -> BuiltImage:
    """Build one image unless its archive is there."""
    started = time.monotonic()
    archive = cache_directory(f"images/{builder}") / f"{image.name}-{image.key}.tar"
    if not archive.exists():
        with locked(f"images-{builder}"):
            if not archive.exists():
                _build(image, builder_named(builder), archive)
    archive.touch()
    return BuiltImage(image.name, image.ref, archive, _digest(archive), time.monotonic() - started)


def ensure_loaded(cluster: Cluster, images: Iterable[BuiltImage]) -> list[str]:
    """Bring onto every running node the images that it does not hold; gives the names of those that were loaded."""
    held = [set(names) for names in _held(cluster)]
    missing = [image for image in images if any(image.ref not in names for names in held)]
    for image in missing:
        cluster.load_images(image.archive)
    return [image.ref for image in missing]


def _held(cluster: Cluster) -> Iterator[list[str]]:
    kubectl = Kubectl(shutil.which("kubectl") or binaries() / "kubectl", cluster.kubeconfig)
    for node, _ in enumerate(kubectl.items("nodes")):
        listed = cluster.node_exec(node, ["ctr", "--namespace=k8s.io", "images", "ls", "--quiet"])
        if listed.returncode == 0:  # a node that is off takes its images when it is back
            yield listed.stdout.split()


def _build(image: Image | TaskImage, builder: Builder, archive: Path) -> None:
    for base in image.bases:
        _provide_base(base, builder)
    if isinstance(image, TaskImage) and image.runner:
        _provide_runner(image.runner, builder, archive.parent)
    with tempfile.TemporaryDirectory(prefix="milepost-context-") as scratch:
        context = Path(scratch)
        image.write_context(context)
        builder.build(context, image.ref, image.arguments)
    partial = archive.with_name(f".{archive.name}.partial")
    partial.unlink(missing_ok=True)
    builder.save(image.ref, partial)
    partial.replace(archive)
    _forget_old(archive.parent, image.name)


def _provide_base(base: bases.Base, builder: Builder) -> None:
    """Have the base in the builder, once per recipe: a tag of its own remembers which recipe the name stands for."""
    marker = f"{base.name}-{base.key}"
    if builder.has(marker):
        return
    if bases.can_be_made():
        builder.load(base.name, bases.archive(base))
    else:
        builder.pull(base.name)
    builder.tag(base.name, marker)


def _provide_runner(runner: Image, builder: Builder, archives: Path) -> None:
    if not builder.has(runner.ref):
        builder.load(runner.ref, archives / f"{runner.name}-{runner.key}.tar")
    for name in runner_names():
        builder.tag(runner.ref, name)


def _digest(archive: Path) -> str:
    with tarfile.open(archive) as tar:
        names = set(tar.getnames())
        stream = tar.extractfile("index.json" if "index.json" in names else "manifest.json")
        if stream is None:
            raise ValueError(f"{archive} is no image archive")
        content = json.load(stream)
    if isinstance(content, dict):
        return str(content["manifests"][0]["digest"])
    return f"sha256:{Path(content[0]['Config']).stem}"


def _forget_old(directory: Path, name: str) -> None:
    length = len(f"{name}-") + 12 + len(".tar")
    mine = [path for path in directory.glob(f"{name}-*.tar") if len(path.name) == length]
    for path in sorted(mine, key=lambda path: path.stat().st_mtime)[:-KEPT_ARCHIVES]:
        if path.stat().st_mtime < time.time() - KEPT_SECONDS:
            path.unlink(missing_ok=True)
