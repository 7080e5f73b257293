import json
import tarfile
from pathlib import Path

from e2e.images.oci import File, Image, layer, layer_from_tar, write_archive


def read(archive: Path, name: str) -> bytes:
    with tarfile.open(archive) as tar:
        member = tar.extractfile(name)
        assert member is not None
        return member.read()


def test_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    for target in (tmp_path / "a", tmp_path / "b"):
        write_archive(target, [Image(("localhost/x:1",), (layer([File("etc"), File("etc/x", b"1")]),))])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_shared_layers_are_stored_once_and_every_name_is_listed(tmp_path: Path) -> None:
    base = layer([File("bin/x", b"program")])
    top = layer([File("bin/y", link="x")])
    archive = tmp_path / "images.tar"
    images = [Image(("a:1", "a:2"), (base,), {"Entrypoint": ["/bin/x"]}), Image(("b:1",), (base, top))]
    write_archive(archive, images)
    with tarfile.open(archive) as tar:
        names = tar.getnames()
    assert names.count("blobs/" + base.digest.replace(":", "/")) == 1
    manifests = json.loads(read(archive, "index.json"))["manifests"]
    assert [m["annotations"]["io.containerd.image.name"] for m in manifests] == ["a:1", "a:2", "b:1"]
    for manifest in manifests:
        body = json.loads(read(archive, "blobs/" + manifest["digest"].replace(":", "/")))
        config = json.loads(read(archive, "blobs/" + body["config"]["digest"].replace(":", "/")))
        assert config["rootfs"]["diff_ids"] == [part["digest"] for part in body["layers"]]
    assert json.loads(read(archive, "manifest.json"))[0]["RepoTags"] == ["a:1", "a:2"]


def test_a_layer_can_be_a_tar_on_disk(tmp_path: Path) -> None:
    made = layer([File("x", b"1", 0o644)])
    assert isinstance(made.content, bytes)
    tar = tmp_path / "layer.tar"
    tar.write_bytes(made.content)
    taken = layer_from_tar(tar)
    assert (taken.digest, taken.size) == (made.digest, made.size)
    archive = tmp_path / "image.tar"
    write_archive(archive, [Image(("x:1",), (taken,))])
    assert read(archive, "blobs/" + taken.digest.replace(":", "/")) == made.content
