"""Which images there are and what each is made of."""

import os
import shutil
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from e2e.images import bases, wheels
from e2e.images.bases import Base
from e2e.images.store import ROOT, key, sources

REGISTRY = "milepost.local"
EPOCH = 1_600_000_000  # one fixed time for the files of a context: builders count times into their layer caches


@dataclass(frozen=True)
class Image:
    """An image of this repository: the directory its Dockerfile is in, and the wheels that are put beside it."""

    name: str
    directory: str
    base: Base
    files: tuple[str, ...] = ("Dockerfile",)
    lock: str = ""
    dists: tuple[str, ...] = ()
    tag_prefix: str = ""

    @property
    def key(self) -> str:
        """Identify everything that decides the image's content: the second build of the same content is skipped."""
        inputs = [ROOT / self.directory / name for name in self.files]
        inputs += [path for dist in self.dists for path in sources(ROOT / dist)]
        inputs += [ROOT / self.lock] if self.lock else []
        return key(self.name, self.base.key, files=inputs)

    @property
    def ref(self) -> str:
        """Name the image as clusters know it."""
        return f"{REGISTRY}/{self.name}:{self.tag_prefix}{self.key}"

    @property
    def bases(self) -> tuple[Base, ...]:
        """The base images to have at hand."""
        return (self.base,)

    @property
    def arguments(self) -> Mapping[str, str]:
        """Build arguments: the Dockerfiles' own default base, spelt out so that builder and Dockerfile agree."""
        return {"BASE": self.base.name}

    def write_context(self, target: Path) -> None:
        """Lay out the build context in the empty directory `target`."""
        for name in self.files:
            shutil.copy(ROOT / self.directory / name, target / name)
        if self.lock:
            shutil.copytree(wheels.dependencies(ROOT / self.lock), target / "wheels" / "deps")
        for dist in self.dists:
            shutil.copytree(wheels.own(ROOT / dist), target / "wheels" / "own", dirs_exist_ok=True)
        settle_times(target)


@dataclass(frozen=True)
class TaskImage:
    """A task's image: any directory with a Dockerfile, FROM milepost/runner or from a base image."""

    directory: Path
    name: str

    @property
    def dockerfile(self) -> str:
        """The text of its Dockerfile."""
        return (self.directory / "Dockerfile").read_text()

    @property
    def runner(self) -> Image | None:
        """The runner image, if this one is built on it."""
        return RUNNER if "milepost/runner" in self.dockerfile else None

    @property
    def bases(self) -> tuple[Base, ...]:
        """The base images that its Dockerfile names."""
        return tuple(base for base in bases.ALL if base.name in self.dockerfile)

    @property
    def key(self) -> str:
        """Identify the directory's content and what is below it."""
        below = [self.runner.key] if self.runner else []
        below += [base.key for base in self.bases]
        return key(self.name, *below, files=sources(self.directory))

    @property
    def ref(self) -> str:
        """Name the image as clusters know it."""
        return f"{REGISTRY}/{self.name}:{self.key}"

    @property
    def arguments(self) -> Mapping[str, str]:
        """Give the exact runner to a Dockerfile that declares `ARG RUNNER`; others name milepost/runner:<version>."""
        return {"RUNNER": self.runner.ref} if self.runner and "ARG RUNNER" in self.dockerfile else {}

    def write_context(self, target: Path) -> None:
        """Copy the directory."""
        for path in sources(self.directory):
            copy = target / path.relative_to(self.directory)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
        settle_times(target)


def settle_times(directory: Path) -> None:
    """Set all times below `directory` to EPOCH."""
    for path in [directory, *directory.rglob("*")]:
        os.utime(path, (EPOCH, EPOCH))


def runner_names() -> tuple[str, ...]:
    """Give the names by which users' Dockerfiles know the runner image."""
    version = tomllib.loads((ROOT / "runner-image" / "pyproject.toml").read_text())["project"]["version"]
    return tuple(f"docker.io/milepost/runner:{tag}" for tag in (version, "latest"))


CONTROL_PLANE = Image(
    name="control-plane",
    directory="operator",
    base=bases.PYTHON,
    lock="locks/operator.txt",
    dists=("operator", "runner-image"),
)
RUNNER = Image(
    name="runner",
    directory="runner-image",
    base=bases.PYTHON,
    lock="locks/runner.txt",
    dists=("runner-image",),
)
POSTGRES = Image(
    name="postgres",
    directory="e2e/images/postgres",
    base=bases.POSTGRES,
    files=("Dockerfile", "docker-entrypoint.sh"),
    tag_prefix="15-",
)
IMAGES: Mapping[str, Image] = {image.name: image for image in (CONTROL_PLANE, RUNNER, POSTGRES)}
