"""What an image builder can do; buildah and a Docker engine are the two there are."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol


class Builder(Protocol):
    """Builds images from base images that are in it beforehand: a build itself pulls nothing."""

    name: str

    def has(self, ref: str) -> bool:
        """Tell whether the builder holds an image of this name."""

    def load(self, ref: str, archive: Path) -> None:
        """Take the image `ref` out of an archive."""

    def pull(self, ref: str) -> None:
        """Get the image `ref` from its registry."""

    def build(self, context: Path, ref: str, arguments: Mapping[str, str]) -> None:
        """Build `context` (a directory with a Dockerfile) with build arguments, and name the result `ref`.

        Raises:
            BuildError: the build failed; the message holds its output.
        """

    def tag(self, ref: str, other: str) -> None:
        """Give the image `ref` another name."""

    def save(self, ref: str, archive: Path) -> None:
        """Write the image `ref` into an archive that containerd can import."""


class BuildError(Exception):
    """An image could not be built."""
