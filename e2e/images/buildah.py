"""Build with buildah: no daemon, works as root inside containers and machines without a Docker engine."""

import hashlib
import json
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

from e2e.cluster import packages
from e2e.images.builder import BuildError
from e2e.images.store import cache_directory


class Buildah:
    """A buildah with storage of its own in the cache, so that nothing of the machine's own containers is touched."""

    name = "buildah"

    def __init__(self) -> None:
        packages.ensure({"buildah": "buildah"}, cache_directory("log") / "packages.log")
        home = cache_directory("buildah")
        self._environment = {**os.environ, "BUILDAH_ISOLATION": "chroot", "STORAGE_DRIVER": self._driver(home)}
        self._command = ["buildah", "--root", str(home / "root"), "--runroot", str(home / "run")]

    def has(self, ref: str) -> bool:
        """See Builder."""
        return self._buildah("inspect", "--type", "image", ref, check=False).returncode == 0

    def load(self, ref: str, archive: Path) -> None:
        """See Builder."""
        pulled = self._buildah("pull", "--quiet", f"oci-archive:{archive}:{ref}").stdout.strip()
        self._buildah("tag", pulled, ref)

    def pull(self, ref: str) -> None:
        """See Builder."""
        self._buildah("pull", "--quiet", f"docker://{ref}")

    def build(self, context: Path, ref: str, arguments: Mapping[str, str]) -> None:
        """See Builder."""
        given = [f"--build-arg={name}={value}" for name, value in arguments.items()]
        offline = ["--pull-never", "--network=none"]
        self._buildah("build", "--layers", "--format=oci", *offline, *given, "--tag", ref, str(context))

    def tag(self, ref: str, other: str) -> None:
        """See Builder."""
        self._buildah("tag", ref, other)

    def save(self, ref: str, archive: Path) -> None:
        """See Builder.

        By way of a directory, because only there buildah leaves the layers uncompressed: compressing them takes longer
        than all the rest of a rebuild.
        """
        with tempfile.TemporaryDirectory(dir=archive.parent, prefix=".partial-") as scratch:
            self._buildah("push", "--quiet", "--disable-compression", ref, f"dir:{scratch}")
            _pack(Path(scratch), ref, archive)

    def _buildah(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = [*self._command, *arguments]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, check=False)
        if check and done.returncode:
            raise BuildError(f"buildah {arguments[0]} failed ({done.returncode}):\n{done.stdout}{done.stderr}")
        return done

    def _driver(self, home: Path) -> str:
        """Give the storage driver to use: overlay, or vfs where the file system below cannot be overlaid."""
        chosen = home / "driver"
        if not chosen.exists():
            probe = ["buildah", "--root", str(home / "root"), "--runroot", str(home / "run"), "images"]
            environment = {**os.environ, "STORAGE_DRIVER": "overlay"}
            works = subprocess.run(probe, env=environment, capture_output=True, check=False).returncode == 0
            chosen.write_text("overlay" if works else "vfs")
        return chosen.read_text()


def _pack(directory: Path, ref: str, archive: Path) -> None:
    """Turn what buildah wrote (manifest.json, and blobs named by their digests) into an OCI archive."""
    manifest = (directory / "manifest.json").read_bytes()
    digest = hashlib.sha256(manifest).hexdigest()
    (directory / "manifest.json").rename(directory / digest)
    entry = {
        "mediaType": json.loads(manifest)["mediaType"],
        "digest": f"sha256:{digest}",
        "size": len(manifest),
        "annotations": {"io.containerd.image.name": ref, "org.opencontainers.image.ref.name": ref},
    }
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    with tarfile.open(archive, "w") as tar:
        for name in ("oci-layout", "index.json"):
            tar.add(directory / name, name)
        for blob in sorted(path for path in directory.iterdir() if len(path.name) == len(digest)):
            tar.add(blob, f"blobs/sha256/{blob.name}")
