"""Write OCI image archives by hand: no daemon, no builder, the same bytes from the same inputs.

The archives are what `ctr images import`, `kind load image-archive`, `docker load`, `buildah pull oci-archive:` and
`skopeo copy oci-archive:` read. Layers are kept uncompressed: they never travel, and importing them is faster.
"""

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

MEDIA = "application/vnd.oci.image"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True)
class File:
    """A file of a layer: `data` for a regular file, `link` for a symbolic link, neither for a directory."""

    path: str
    data: bytes | Path | None = None
    mode: int = 0o755
    link: str = ""
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True)
class Layer:
    """An uncompressed tar, in memory or on disk, known by its digest (which is also its diff id)."""

    content: bytes | Path
    digest: str
    size: int


@dataclass(frozen=True)
class Image:
    """An image: `names` as given in Pod specs, and `config` as in the OCI image configuration ("Entrypoint", "Env")."""

    names: tuple[str, ...]
    layers: tuple[Layer, ...]
    config: Mapping[str, object] = field(default_factory=dict)


def layer(files: Iterable[File]) -> Layer:
    """Make a layer from files, in the order given, with all times set to zero."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for file in files:
            info = tarfile.TarInfo(file.path.lstrip("/"))
            info.mode, info.uid, info.gid = file.mode, file.uid, file.gid
            data = file.data.read_bytes() if isinstance(file.data, Path) else file.data
            if file.link:
                info.type, info.linkname = tarfile.SYMTYPE, file.link
            elif data is None:
                info.type = tarfile.DIRTYPE
            else:
                info.size = len(data)
            tar.addfile(info, io.BytesIO(data) if info.isreg() and data is not None else None)
    return _layer_of(buffer.getvalue())


def layer_from_tar(tar: Path) -> Layer:
    """Take an uncompressed tar as it is; it is read again when the archive is written."""
    with tar.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return Layer(tar, f"sha256:{digest}", tar.stat().st_size)


def write_archive(target: Path, images: Iterable[Image]) -> None:
    """Write one archive of all images; layers that several of them share are stored once."""
    blobs: dict[str, bytes | Path] = {}
    index: list[dict[str, object]] = []
    docker: list[dict[str, object]] = []
    for image in images:
        blobs |= {part.digest: part.content for part in image.layers}
        config = _add(blobs, _json(_config(image)))
        layers = [_descriptor(f"{MEDIA}.layer.v1.tar", part.digest, part.size) for part in image.layers]
        described = _descriptor(f"{MEDIA}.config.v1+json", config, len(_bytes(blobs[config])))
        manifest = _json(
            {"schemaVersion": 2, "mediaType": f"{MEDIA}.manifest.v1+json", "config": described, "layers": layers}
        )
        entry = _descriptor(f"{MEDIA}.manifest.v1+json", _add(blobs, manifest), len(manifest))
        for name in image.names:
            names = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name}
            index.append({**entry, "annotations": names})
        paths = [_path(part.digest) for part in image.layers]
        docker.append({"Config": _path(config), "RepoTags": list(image.names), "Layers": paths})
    partial = target.with_name(f".{target.name}.partial")
    with tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as tar:
        _put(tar, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
        top = {"schemaVersion": 2, "mediaType": f"{MEDIA}.index.v1+json", "manifests": index}
        _put(tar, "index.json", _json(top))
        _put(tar, "manifest.json", _json(docker))
        for digest in sorted(blobs):
            _put(tar, _path(digest), blobs[digest])
    partial.replace(target)


def _config(image: Image) -> dict[str, object]:
    machine = platform.machine()
    return {
        "architecture": ARCHITECTURES.get(machine, machine),
        "os": "linux",
        "config": dict(image.config),
        "rootfs": {"type": "layers", "diff_ids": [part.digest for part in image.layers]},
        "history": [{"created_by": "milepost e2e"} for _ in image.layers],
    }


def _layer_of(data: bytes) -> Layer:
    return Layer(data, f"sha256:{hashlib.sha256(data).hexdigest()}", len(data))


def _add(blobs: dict[str, bytes | Path], data: bytes) -> str:
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    blobs[digest] = data
    return digest


def _descriptor(media: str, digest: str, size: int) -> dict[str, object]:
    return {"mediaType": media, "digest": digest, "size": size}


def _put(tar: tarfile.TarFile, name: str, content: bytes | Path) -> None:
    info = tarfile.TarInfo(name)
    info.mode = 0o644
    if isinstance(content, Path):
        info.size = content.stat().st_size
        with content.open("rb") as stream:
            tar.addfile(info, stream)
    else:
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))


def _bytes(content: bytes | Path) -> bytes:
    return content if isinstance(content, bytes) else content.read_bytes()


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _path(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")
