"""Archives: what is saved can be loaded, here and by others; what is hostile is refused."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import json
import lzma
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orlop.engine.images.images import Images
from orlop.spec.digest import Digest
from orlop.spec.errors import DataLoss, InvalidArgument, OrlopError, Unimplemented

pytestmark = pytest.mark.root
Make = Callable[..., Any]


@pytest.fixture
def pulled(images: Images, publish: Make, sample: Make) -> Any:
    image = images.pull(publish("team/app:1", sample({"etc/": b"", "etc/f": b"1"}, {"g": b"2"})))
    return images.tag(image.name, "app:latest")


def saved(images: Images, *names: str) -> bytes:
    buffer = io.BytesIO()
    images.save(names, buffer)
    return buffer.getvalue()


def archive(members: dict[str, bytes | tuple[bytes, str]]) -> io.BytesIO:
    """A tar of files, or of links: (type, target)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            if isinstance(data, tuple):
                member.type, member.linkname = data
                tar.addfile(member)
            else:
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    buffer.seek(0)
    return buffer


def old_docker(sample: Make, *trees: dict[str, bytes], tags: tuple[str, ...] = ("old:1",)) -> dict[str, Any]:
    """An archive as Docker wrote it before it knew OCI layouts; equal layers are symbolic links."""
    made = sample(*trees, compress=False)
    config = next(data for data in made.blobs.values() if data.startswith(b'{"created"'))
    tars = {str(Digest.of(data)): data for data in made.blobs.values() if not data.startswith(b"{")}
    members: dict[str, Any] = {}
    paths, seen = [], {}
    for number, diff_id in enumerate(json.loads(config)["rootfs"]["diff_ids"]):
        path = f"{number:064x}/layer.tar"
        members[f"{number:064x}/VERSION"] = b"1.0"
        members[path] = (tarfile.SYMTYPE, f"../{seen[diff_id]}") if diff_id in seen else tars[diff_id]
        seen.setdefault(diff_id, path)
        paths.append(path)
    name = f"{Digest.of(config).hex}.json"
    members[name] = config
    members["manifest.json"] = json.dumps([{"Config": name, "RepoTags": list(tags), "Layers": paths}]).encode()
    members["repositories"] = b"{}"
    return members


def test_saved_image_loads_elsewhere_with_the_same_digests(make_images: Make, images: Images, pulled: Any) -> None:
    other = make_images(root="other")
    (loaded,) = other.load(io.BytesIO(saved(images, "app")))
    assert (loaded.id, loaded.digest, loaded.chain_id) == (pulled.id, pulled.digest, pulled.chain_id)
    assert loaded.tags == ("app:latest",)
    assert loaded.repository_digests == ()
    assert (other.snapshots.directory(loaded.chain_id) / "g").read_text() == "2"


def test_same_image_is_saved_to_the_same_bytes(images: Images, pulled: Any) -> None:
    assert saved(images, "app") == saved(images, "app")


def test_image_saved_by_id_has_no_name(make_images: Make, images: Images, pulled: Any) -> None:
    (loaded,) = make_images(root="other").load(io.BytesIO(saved(images, pulled.short_id)))
    assert loaded.tags == ()
    assert loaded.id == pulled.id


def test_several_images_in_one_archive(make_images: Make, images: Images, pulled: Any) -> None:
    data = saved(
        images, "app", pulled.name.replace("docker.io/library/", ""), *[n for n in pulled.names if "team" in n]
    )
    loaded = make_images(root="other").load(io.BytesIO(data))
    assert {image.name for image in loaded} == set(pulled.names)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress], ids=["gzip", "bzip2", "xz"])
def test_compressed_archives(make_images: Make, images: Images, pulled: Any, pack: Callable[[bytes], bytes]) -> None:
    (loaded,) = make_images(root="other").load(io.BytesIO(pack(saved(images, "app"))))
    assert loaded.id == pulled.id


def test_old_docker_archive(images: Images, sample: Make) -> None:
    tree = {"etc/": b"", "etc/x": b"1"}
    (loaded,) = images.load(archive(old_docker(sample, tree, {"y": b"2"}, tree)))
    assert loaded.tags == ("old:1",)
    assert loaded.platform.architecture == "amd64"
    assert images.resolve("old:1").chain_id == loaded.chain_id
    assert len(loaded.layers) == 3


def test_loading_twice_is_harmless(images: Images, sample: Make) -> None:
    members = old_docker(sample, {"x": b"1"})
    first = images.load(archive(members))
    assert [i.id for i in images.load(archive(members))] == [i.id for i in first]
    assert len(images.list()) == 1


HOSTILE: dict[str, tuple[Callable[[dict[str, Any]], dict[str, Any]], str]] = {
    "path with ..": (lambda m: {"../../etc/passwd": b"x", **m}, "leads out of the archive"),
    "absolute path": (lambda m: {"/etc/passwd": b"x", **m}, "leads out of the archive"),
    "symlink out": (lambda m: {**m, "a/b": (tarfile.SYMTYPE, "../../../etc/passwd")}, "leads out of the archive"),
    "absolute symlink": (lambda m: {**m, "a": (tarfile.SYMTYPE, "/etc/passwd")}, "leads out of the archive"),
    "hard link out": (lambda m: {**m, "a": (tarfile.LNKTYPE, "../x")}, "leads out of the archive"),
    "device": (lambda m: {**m, "a": (tarfile.CHRTYPE, "")}, "is a character device"),
    "bad digest": (lambda m: {**m, "blobs/sha256/" + "0" * 64: b"x"}, "the bytes that arrived have digest"),
    "bad blob name": (lambda m: {**m, "blobs/sha256/00": b"x"}, "want 64 lower-case hex digits"),
    "huge manifest": (lambda m: {**m, "manifest.json": b"[" + b" " * (5 << 20) + b"]"}, "more than the limit"),
    "no manifest": (lambda m: {k: v for k, v in m.items() if k not in ("manifest.json", "repositories")}, "neither"),
    "empty manifest": (
        lambda m: {k: v for k, v in m.items() if k != "repositories"} | {"manifest.json": b"[]"},
        "neit",
    ),
    "not JSON": (lambda m: {**m, "manifest.json": b"[{"}, "not valid JSON"),
    "wrong type": (lambda m: {**m, "manifest.json": b'[{"Config": 1}]'}, r"\$\[0\]\.Config"),
    "missing layer": (
        lambda m: {k: v for k, v in m.items() if not k.endswith("layer.tar")},
        "is named in it but missing",
    ),
    "link circle": (
        lambda m: {**m, f"{0:064x}/layer.tar": (tarfile.SYMTYPE, "layer.tar")},
        "too many links",
    ),
    "wrong layer": (lambda m: {**m, f"{0:064x}/layer.tar": b"\0" * 10240}, "configuration says"),
    "layer is not a tar": (lambda m: {**m, f"{0:064x}/layer.tar": b"x" * 10240}, "tar"),
    "bad name": (
        lambda m: {**m, "manifest.json": m["manifest.json"].replace(b"old:1", b"has space")},
        "image reference",
    ),
    "reading a file outside by Config": (
        lambda m: {**m, "manifest.json": m["manifest.json"].replace(b'"Config": "', b'"Config": "../../')},
        "leads out of the archive",
    ),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_archive_is_refused_and_leaves_nothing(images: Images, sample: Make, what: str) -> None:
    change, message = HOSTILE[what]
    with pytest.raises(OrlopError, match=message):
        images.load(archive(change(old_docker(sample, {"x": b"1"}))))
    assert images.list() == []
    assert list(images.content.walk()) == []
    assert list(images.snapshots.walk()) == []
    assert not [p for p in (images.content.root / "ingest").glob("*") if not p.name.startswith(".")]


@pytest.mark.parametrize("data", [b"", b"x" * 2000, gzip.compress(b"x")[:10], b"\x1f\x8b" + b"\0" * 100, b"BZh9xx"])
def test_what_is_no_archive(images: Images, data: bytes) -> None:
    with pytest.raises(InvalidArgument):
        images.load(io.BytesIO(data))


def test_truncated_archive(images: Images, sample: Make) -> None:
    data = archive(old_docker(sample, {"x": b"1" * 5000})).getvalue()
    with pytest.raises(InvalidArgument):
        images.load(io.BytesIO(data[:6000]))
    assert list(images.content.walk()) == []


def test_ancient_docker_archive_is_refused_by_name(images: Images) -> None:
    with pytest.raises(Unimplemented, match=r"before 1\.10"):
        images.load(archive({"repositories": b"{}"}))


def test_rotten_blob_is_not_saved(images: Images, pulled: Any) -> None:
    path = images.content.path(pulled.layers[0].digest)
    path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(DataLoss):
        saved(images, "app")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_archive_is_refused_or_loaded_and_nothing_else(
    images: Images, sample: Make, data: st.DataObject
) -> None:
    raw = bytearray(archive(old_docker(sample, {"x": b"1"})).getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(OrlopError):
        images.load(io.BytesIO(bytes(raw[: data.draw(st.integers(0, len(raw)))])))


def run(*command: object) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.peers
class TestPeers:
    """What others make of our store and our archives, and we of theirs."""

    def test_skopeo_and_umoci_read_the_store(self, images: Images, pulled: Any, tmp_path: Path) -> None:
        root = images.content.root
        for name in pulled.names:
            assert json.loads(run("skopeo", "inspect", f"oci:{root}:{name}"))["Digest"] == pulled.digest
        assert json.loads(run("umoci", "stat", "--json", "--image", f"{root}:docker.io/library/app:latest"))["history"]
        run("umoci", "unpack", "--image", f"{root}:docker.io/library/app:latest", tmp_path / "bundle")
        assert (tmp_path / "bundle" / "rootfs" / "g").read_text() == "2"

    def test_store_with_one_platform_of_an_index_stays_readable(
        self, images: Images, publish: Make, sample: Make, index_of: Make, tmp_path: Path
    ) -> None:
        from orlop.spec.platform import Platform

        arm = sample({"arm": b""}, platform=Platform(os="linux", architecture="arm64"))
        name = publish("multi:1", index_of(sample({"amd": b""}), arm))
        images.pull(name, "linux/amd64")
        run("umoci", "unpack", "--image", f"{images.content.root}:{name}", tmp_path / "bundle")
        run("skopeo", "copy", "--all", f"oci:{images.content.root}:{name}", f"dir:{tmp_path}/copy")
        images.pull(name, "linux/amd64", all_platforms=True)
        shown = run("skopeo", "inspect", "--raw", f"oci:{images.content.root}:{name}")
        assert len(json.loads(shown)["manifests"]) == 2

    @pytest.mark.parametrize("transport", ["docker-archive", "oci-archive"])
    def test_skopeo_reads_what_is_saved(self, images: Images, pulled: Any, tmp_path: Path, transport: str) -> None:
        (tmp_path / "a.tar").write_bytes(saved(images, "app"))
        shown = json.loads(run("skopeo", "inspect", f"{transport}:{tmp_path}/a.tar"))
        assert shown["Architecture"] == "amd64"
        run("skopeo", "copy", f"{transport}:{tmp_path}/a.tar", f"oci:{tmp_path}/out:x")

    @pytest.mark.parametrize("transport", ["docker-archive", "oci-archive"])
    def test_what_skopeo_saves_is_loaded(
        self, make_images: Make, images: Images, pulled: Any, tmp_path: Path, transport: str
    ) -> None:
        source = f"oci:{images.content.root}:docker.io/library/app:latest"
        run("skopeo", "copy", source, f"{transport}:{tmp_path}/a.tar:docker.io/library/copied:2")
        with open(tmp_path / "a.tar", "rb") as stream:
            (loaded,) = make_images(root="other").load(stream)
        assert loaded.tags == ("copied:2",)
        assert loaded.chain_id == pulled.chain_id
