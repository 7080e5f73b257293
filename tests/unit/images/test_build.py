"""What images are made of, and when they count as changed; the building itself is proven by running it."""

import hashlib
import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from e2e.images import bases, buildah, catalog, store
from e2e.images.catalog import IMAGES, TaskImage


def write(directory: Path, **files: str) -> Path:
    for name, text in files.items():
        path = directory / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return directory


@pytest.mark.parametrize("image", IMAGES.values(), ids=list(IMAGES))
def test_an_image_is_named_after_its_content_and_its_inputs_exist(image: catalog.Image) -> None:
    assert image.ref == f"milepost.local/{image.name}:{image.tag_prefix}{image.key}"
    assert all((store.ROOT / image.directory / name).is_file() for name in image.files)
    assert f"ARG BASE={image.base.name}" in (store.ROOT / image.directory / "Dockerfile").read_text()


def test_byte_code_and_caches_are_no_sources(tmp_path: Path) -> None:
    write(tmp_path, **{"a.py": "", "a.pyc": "", "__pycache____a.cpython-311.pyc": "", "b__c.sql": ""})
    assert [str(path.relative_to(tmp_path)) for path in store.sources(tmp_path)] == ["a.py", "b/c.sql"]


def test_a_key_changes_with_content_and_mode_but_not_with_time(tmp_path: Path) -> None:
    write(tmp_path, a="1")
    first = store.key("x", files=[tmp_path / "a"])
    (tmp_path / "a").touch()
    assert store.key("x", files=[tmp_path / "a"]) == first
    (tmp_path / "a").chmod(0o755)
    executable = store.key("x", files=[tmp_path / "a"])
    write(tmp_path, a="2")
    assert len({first, executable, store.key("x", files=[tmp_path / "a"])}) == 3


def test_a_task_on_the_runner_is_rebuilt_with_it_and_gets_its_exact_name(tmp_path: Path) -> None:
    write(tmp_path, Dockerfile="ARG RUNNER=docker.io/milepost/runner:0.1.0\nFROM ${RUNNER}\n")
    task = TaskImage(tmp_path, "mine")
    assert task.arguments == {"RUNNER": IMAGES["runner"].ref}
    assert task.bases == ()


def test_a_task_on_a_plain_base_needs_that_base_and_no_runner(tmp_path: Path) -> None:
    write(tmp_path, Dockerfile=f"FROM {bases.DEBIAN.name}\n")
    task = TaskImage(tmp_path, "mine")
    assert (task.bases, task.runner, task.arguments) == ((bases.DEBIAN,), None, {})


def test_contexts_carry_one_fixed_time(tmp_path: Path) -> None:
    source = write(tmp_path / "in", Dockerfile="FROM scratch\n", code__main="x")
    target = tmp_path / "out"
    target.mkdir()
    TaskImage(source, "mine").write_context(target)
    assert {path.stat().st_mtime for path in target.rglob("*")} == {catalog.EPOCH}
    assert (target / "code" / "main").read_text() == "x"


def test_what_buildah_wrote_becomes_an_archive_with_the_name_that_was_asked_for(tmp_path: Path) -> None:
    layer = hashlib.sha256(b"layer").hexdigest()
    manifest = json.dumps({"mediaType": "application/vnd.oci.image.manifest.v1+json"})
    written = write(tmp_path / "dir", **{"manifest.json": manifest, "version": "1.1", layer: "layer"})
    buildah._pack(written, "milepost.local/x:1", tmp_path / "x.tar")
    digest = hashlib.sha256(manifest.encode()).hexdigest()
    with tarfile.open(tmp_path / "x.tar") as tar:
        assert set(tar.getnames()) == {"oci-layout", "index.json", f"blobs/sha256/{layer}", f"blobs/sha256/{digest}"}
        index = json.load(tar.extractfile("index.json") or pytest.fail("no index"))
    (entry,) = index["manifests"]
    assert entry["digest"] == f"sha256:{digest}"
    assert entry["annotations"]["io.containerd.image.name"] == "milepost.local/x:1"


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_the_database_entrypoint_is_a_valid_script() -> None:
    script = store.ROOT / "e2e/images/postgres/docker-entrypoint.sh"
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
