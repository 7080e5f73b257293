"""Build with a Docker engine through its API; only the classic builder is asked for, which every engine has."""

from collections.abc import Mapping
from pathlib import Path

import docker
import docker.errors

from e2e.cluster import dockerd
from e2e.images.builder import BuildError


class DockerEngine:
    """The machine's engine, or one started here where it has none."""

    name = "docker"

    def __init__(self) -> None:
        self._client = docker.DockerClient(base_url=dockerd.engine() or dockerd.start(), timeout=600)

    def has(self, ref: str) -> bool:
        """See Builder."""
        try:
            self._client.images.get(ref)
        except docker.errors.ImageNotFound:
            return False
        return True

    def load(self, ref: str, archive: Path) -> None:
        """See Builder."""
        with archive.open("rb") as stream:
            loaded = self._client.images.load(stream)
        loaded[0].tag(ref)

    def pull(self, ref: str) -> None:
        """See Builder."""
        self._client.images.pull(ref)

    def build(self, context: Path, ref: str, arguments: Mapping[str, str]) -> None:
        """See Builder."""
        try:
            self._client.images.build(
                path=str(context), tag=ref, buildargs=dict(arguments), rm=True, forcerm=True, network_mode="none"
            )
        except docker.errors.BuildError as error:
            output = "".join(str(line.get("stream") or line.get("error") or "") for line in error.build_log)
            raise BuildError(f"docker build of {ref} failed:\n{output}") from error

    def tag(self, ref: str, other: str) -> None:
        """See Builder."""
        self._client.images.get(ref).tag(other)

    def save(self, ref: str, archive: Path) -> None:
        """See Builder."""
        with archive.open("wb") as out:
            for part in self._client.images.get(ref).save(named=ref):
                out.write(part)
