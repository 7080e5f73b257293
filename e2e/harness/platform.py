"""What this machine offers: the cluster, its kubectl and helm, and the images, built and loaded once."""

import shutil
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from e2e.cluster.binaries import binaries
from e2e.cluster.capabilities import Capability
from e2e.cluster.provider import Cluster, choose
from e2e.harness.kubectl import Kubectl
from e2e.images.build import BuiltImage, build_all, build_task, building_beside

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Platform:
    """A cluster that is up."""

    cluster: Cluster
    _loaded: set[str] = field(default_factory=set)

    @classmethod
    def bring_up(cls, nodes: int = 1) -> "Platform":
        """Take the cluster that `choose` gives, and start or repair it; build the images meanwhile."""
        platform = cls(choose())
        with building_beside(platform.cluster.image_builder):
            platform.cluster.up(nodes)
        return platform

    def can(self, capability: Capability) -> bool:
        """Whether the cluster offers it."""
        return capability in self.cluster.capabilities

    @cached_property
    def kubectl(self) -> Kubectl:
        return Kubectl(self.program("kubectl"), self.cluster.kubeconfig)

    def program(self, name: str) -> Path:
        """Find kubectl or helm: those built with the host cluster, else those on PATH, else build them."""
        found = None if self.cluster.own_programs else shutil.which(name)
        return Path(found) if found else binaries() / name

    def images(self) -> dict[str, BuiltImage]:
        """Build the repository's images and put them on the nodes."""
        built = build_all(self.cluster.image_builder)
        for image in built.values():
            self.load(image)
        return built

    def task_image(self, directory: Path, name: str) -> BuiltImage:
        """Build a task's image from a directory with a Dockerfile and put it on the nodes."""
        built = build_task(directory, name, self.cluster.image_builder)
        self.load(built)
        return built

    def load(self, image: BuiltImage) -> None:
        """Put an image on the nodes unless they have it."""
        if image.ref not in self._loaded and image.ref not in self._present():
            self.cluster.load_images(image.archive)
        self._loaded.add(image.ref)

    def _present(self) -> set[str]:
        """Names of the images that the first node reports; it reports 50 at most unless told otherwise."""
        if not self.can(Capability.NODE_ACCESS):
            return set()
        listed = self.cluster.node_exec(0, ["ctr", "--namespace", "k8s.io", "images", "ls", "-q"])
        return set(listed.stdout.split()) if listed.returncode == 0 else set()
