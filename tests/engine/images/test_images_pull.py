"""Pulling: what arrives, what is refused, and what an interrupted pull leaves."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from orlop.engine.images.images import Images
from orlop.engine.images.progress import Progress
from orlop.registry.faults import Corrupt, Cut, Fault, Hang
from orlop.registry.server import Registry
from orlop.snapshots.copy import CopySnapshotter
from orlop.spec.digest import Digest
from orlop.spec.errors import (
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OrlopError,
    ResourceExhausted,
    Unavailable,
)
from orlop.spec.image import OCI_LAYER_GZIP
from orlop.spec.platform import Platform

pytestmark = pytest.mark.root
Make = Callable[..., Any]
ARM = Platform(os="linux", architecture="arm64")
BASE = {"etc/": b"", "etc/passwd": b"root", "bin/tool": b"#!"}
TOP = {"etc/hosts": b"127.0.0.1", "etc/.wh.passwd": b""}


def tree(images: Images, chain_id: str) -> set[str]:
    root = images.snapshots.directory(chain_id)
    return {str(path.relative_to(root)) for path in root.rglob("*")}


def leftovers(images: Images) -> list[str]:
    """What a failed pull must not leave: snapshots that are not committed, leases, claims."""
    active = [s.key for s in images.snapshots.walk() if s.state != "committed"]
    leases = [row[0] for row in images.database.read("SELECT resource FROM leases")]
    locks = os.listdir(Path(images.snapshots.root) / "locks")  # type: ignore[attr-defined]
    return active + leases + locks


def test_pulled_image_is_named_unpacked_and_whole(images: Images, publish: Make, sample: Make) -> None:
    made = sample(BASE, TOP)
    name = publish("app:1", made)
    image = images.pull(name)
    assert image.name == name
    assert image.manifest_digest == image.digest == made.manifest.digest
    assert image.config.defaults.cmd == ("sh",)
    assert image.tags == (name,)
    assert image.repository_digests == (f"{name.removesuffix(':1')}@{image.digest}",)
    assert {blob.digest for blob in images.content.walk()} == set(made.blobs)
    assert tree(images, image.chain_id) >= {"etc/hosts", "etc/passwd"}  # the whiteout is a device of that name
    assert images.snapshots.stat(image.chain_id).parent == image.config.rootfs.diff_ids[0]
    assert images.resolve(name) == image
    assert leftovers(images) == []


def test_pulling_again_fetches_no_blob(images: Images, publish: Make, sample: Make, registry: Registry) -> None:
    name = publish("app:1", sample(BASE, TOP))
    images.pull(name)
    before = len(registry.seen)
    seen: list[Progress] = []
    images.pull(name, progress=seen.append)
    assert not [s for s in list(registry.seen)[before:] if "/blobs/" in s.target]
    assert {p.action for p in seen} == {"resolving", "exists"}


def test_layers_that_another_image_brought_are_reused(images: Images, publish: Make, sample: Make) -> None:
    first = images.pull(publish("one:1", sample(BASE)))
    second = images.pull(publish("two:1", sample(BASE, TOP)))
    assert images.snapshots.stat(second.chain_id).parent == first.chain_id
    assert len(list(images.snapshots.walk())) == 2


def test_index_gives_the_image_for_the_platform(images: Images, publish: Make, sample: Make, index_of: Make) -> None:
    here, there = sample(BASE), sample(TOP, platform=ARM)
    made = index_of(there, here)
    name = publish("multi:1", made)
    image = images.pull(name, "linux/amd64")
    assert (image.digest, image.manifest_digest) == (made.manifest.digest, here.manifest.digest)
    assert not image.complete
    assert not images.content.has(there.manifest.digest)
    other = images.pull(name, "linux/arm64")
    assert other.manifest_digest == there.manifest.digest
    assert other.complete  # both are here now


def test_all_platforms(images: Images, publish: Make, sample: Make, index_of: Make) -> None:
    made = index_of(sample(BASE), sample(TOP, platform=ARM))
    image = images.pull(publish("multi:1", made), "linux/amd64", all_platforms=True)
    assert image.complete
    assert {blob.digest for blob in images.content.walk()} == set(made.blobs)
    assert len(list(images.snapshots.walk())) == 1


def test_missing_platform_names_those_that_exist(images: Images, publish: Make, sample: Make, index_of: Make) -> None:
    name = publish("multi:1", index_of(sample(BASE), sample(TOP, platform=ARM)))
    with pytest.raises(NotFound, match=r"no image for platform linux/s390x; there are: linux/amd64, linux/arm64"):
        images.pull(name, "linux/s390x")


def test_image_for_another_platform_is_refused_unless_asked_for(images: Images, publish: Make, sample: Make) -> None:
    name = publish("arm:1", sample(BASE, platform=Platform(os="linux", architecture="s390x")))
    with pytest.raises(FailedPrecondition, match=r"is for platform linux/s390x.*--platform linux/s390x"):
        images.pull(name)
    assert images.pull(name, "linux/s390x").platform.architecture == "s390x"


def test_by_digest(images: Images, publish: Make, sample: Make) -> None:
    made = sample(BASE)
    name = publish("app:1", made).removesuffix(":1")
    image = images.pull(f"{name}@{made.manifest.digest}")
    assert image.tags == ()
    assert image.repository_digests == (f"{name}@{made.manifest.digest}",)
    assert images.resolve(f"{name}@{made.manifest.digest}").id == image.id


def test_wrong_diff_id_is_refused_and_leaves_nothing(images: Images, publish: Make, sample: Make) -> None:
    name = publish("bad:1", sample(BASE, TOP, diff_ids=("sha256:" + "0" * 64, "sha256:" + "1" * 64)))
    with pytest.raises(DataLoss, match="but the image's configuration says sha256:000"):
        images.pull(name)
    assert leftovers(images) == []
    assert images.list() == []


def test_layer_count_must_agree(images: Images, publish: Make, sample: Make) -> None:
    name = publish("bad:1", sample(BASE, diff_ids=("sha256:" + "0" * 64, "sha256:" + "1" * 64)))
    with pytest.raises(InvalidArgument, match="the manifest has 1 layers, but its configuration lists 2"):
        images.pull(name)


def test_hostile_layer_is_refused_and_leaves_nothing(images: Images, publish: Make, sample: Make) -> None:
    name = publish("evil:1", sample(BASE, {"../../escape": b"x"}))
    with pytest.raises(OrlopError):
        images.pull(name)
    assert leftovers(images) == []
    assert os.listdir(images.content.root / "ingest") == []


def test_corrupt_blob_is_refused(images: Images, publish: Make, sample: Make, registry: Registry) -> None:
    made = sample(BASE)
    name = publish("app:1", made)
    layer = next(d for d, data in made.blobs.items() if data[:2] == b"\x1f\x8b")
    registry.faults.add(Fault(rf"GET .*/blobs/{layer}", Corrupt()))
    with pytest.raises(OrlopError):
        images.pull(name)
    assert leftovers(images) == []


def test_interrupted_pull_resumes(images: Images, publish: Make, sample: Make, registry: Registry) -> None:
    made = sample({"big": os.urandom(300_000)})
    name = publish("app:1", made)
    layer = next(d for d, data in made.blobs.items() if data[:2] == b"\x1f\x8b")
    registry.faults.add(Fault(rf"GET .*/blobs/{layer}", Cut(100_000), count=1))
    with pytest.raises(Unavailable):
        images.pull(name)
    assert leftovers(images) == []
    assert [p.stat().st_size for p in (images.content.root / "ingest").glob("sha256-*")] == [100_000]
    images.pull(name)
    asked = [s.headers.get("range") for s in registry.seen if layer in s.target and s.method == "GET"]
    assert asked[-1] == "bytes=100000-"


def test_bad_partial_is_fetched_again_from_the_start(images: Images, publish: Make, sample: Make) -> None:
    made = sample({"big": os.urandom(300_000)})
    name = publish("app:1", made)
    images.content.prepare()
    layer = next(d for d, data in made.blobs.items() if data[:2] == b"\x1f\x8b")
    (images.content.root / "ingest" / layer.replace(":", "-")).write_bytes(b"garbage" * 100)
    image = images.pull(name)
    assert tree(images, image.chain_id) == {"big"}
    assert leftovers(images) == []


def test_interrupt_leaves_nothing_half_unpacked(
    images: Images, publish: Make, sample: Make, registry: Registry
) -> None:
    name = publish("app:1", sample({"big": os.urandom(300_000)}, TOP))
    registry.faults.add(Fault(r"GET .*/blobs/", Hang(30), skip=1))
    begun = time.monotonic()
    threading.Timer(0.5, signal.pthread_kill, (threading.get_ident(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        images.pull(name)
    assert time.monotonic() - begun < 5  # does not wait for the registry
    assert leftovers(images) == []


def test_failing_watcher_fails_the_pull(images: Images, publish: Make, sample: Make) -> None:
    def fail(step: Progress) -> None:
        if step.action in ("downloading", "extracting"):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        images.pull(publish("app:1", sample(BASE, TOP)), progress=fail)
    assert leftovers(images) == []


def test_two_pull_the_same_image_at_once(make_images: Make, publish: Make, sample: Make, registry: Registry) -> None:
    made = sample({"a": os.urandom(500_000)}, {"b": os.urandom(500_000)}, {"c": b""}, TOP)
    name = publish("app:1", made)
    pullers = [make_images() for _ in range(4)]  # as good as processes: flock(2) locks are per open file
    failures: list[BaseException] = []

    def pull(images: Images) -> None:
        try:
            images.pull(name)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=pull, args=(each,)) for each in pullers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    layers = [d for d, data in made.blobs.items() if data[:2] == b"\x1f\x8b"]
    for layer in layers:
        fetched = [s for s in registry.seen if s.method == "GET" and layer in s.target]
        assert len(fetched) == 1
    assert len(list(pullers[0].snapshots.walk())) == 4
    assert leftovers(pullers[0]) == []


def test_killed_pull_is_cleaned_up_and_finished_by_the_next(
    make_images: Make, publish: Make, sample: Make, registry: Registry, tmp_path: Path
) -> None:
    name = publish("app:1", sample({"big": os.urandom(300_000)}, BASE, TOP))
    script = f"""
import os
from pathlib import Path
from orlop.content.store import ContentStore
from orlop.engine.images.images import Images
from orlop.metadata.database import Database
from orlop.snapshots.overlay import OverlaySnapshotter
root = Path({str(tmp_path / "root")!r}); root.mkdir(exist_ok=True)
database = Database(root / "orlop.db")
images = Images(ContentStore(root / "content"), OverlaySnapshotter(root / "snapshots", database), database)
def die(step):
    if step.action == "extracting" and step.total > 100_000:
        os.kill(os.getpid(), 9)
images.pull({name!r}, progress=die)
"""
    assert subprocess.run([sys.executable, "-c", script], env={**os.environ}).returncode == -9
    images = make_images()
    assert [s for s in images.snapshots.walk() if s.state == "active"]
    image = images.pull(name)
    images.collect()
    assert leftovers(images) == []
    assert len(list(images.snapshots.walk())) == 3
    assert tree(images, image.chain_id)


def test_moved_tag_leaves_the_old_image_without_a_tag(images: Images, publish: Make, sample: Make) -> None:
    old = images.pull(publish("app:1", sample(BASE)))
    new = images.pull(publish("app:1", sample(TOP)))
    assert images.resolve(new.name).id == new.id
    kept = images.by_id(old.id)
    assert kept.tags == ()
    assert kept.repository_digests == (f"{old.name.removesuffix(':1')}@{old.digest}",)


def test_unknown_layer_type_is_refused(images: Images, publish: Make, sample: Make) -> None:
    made = sample(BASE)
    raw = made.blobs[made.manifest.digest].replace(OCI_LAYER_GZIP.encode(), b"application/x-strange")
    made.blobs[Digest.of(raw)] = raw
    del made.blobs[made.manifest.digest]
    made.manifest = msgspec.structs.replace(made.manifest, digest=str(Digest.of(raw)), size=len(raw))
    with pytest.raises(OrlopError, match="application/x-strange"):
        images.pull(publish("odd:1", made))


def test_copy_snapshotter_stacks_layers_in_order(make_images: Make, publish: Make, sample: Make) -> None:
    images = make_images(driver=CopySnapshotter)
    image = images.pull(publish("app:1", sample(BASE, TOP, {"etc/late": b""})))
    assert tree(images, image.chain_id) == {"etc", "etc/hosts", "etc/late", "bin", "bin/tool"}
    assert leftovers(images) == []


def test_directories_that_a_layer_does_not_describe_keep_their_mode(
    images: Images, publish: Make, sample: Make
) -> None:
    image = images.pull(publish("app:1", sample({"secret/": b"", "secret/a": b""}, {"secret/b": b""})))
    mode = (images.snapshots.directory(image.chain_id) / "secret").stat().st_mode
    assert mode == (images.snapshots.directory(image.config.rootfs.diff_ids[0]) / "secret").stat().st_mode


def test_full_disk_is_one_clear_error_and_leaves_room(
    make_images: Make, publish: Make, sample: Make, tmp_path: Path
) -> None:
    (tmp_path / "root").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", tmp_path / "root"], check=True)
    try:
        images = make_images()
        small = images.pull(publish("small:1", sample(BASE)))
        for big in (sample({"big": os.urandom(4 << 20)}), sample({"zeros": b"\1" * (4 << 20)})):
            with pytest.raises(ResourceExhausted, match="no space left on device"):
                images.pull(publish("big:1", big))
            assert leftovers(images) == []
            images.collect()
        assert images.resolve(small.name) == small
        assert images.pull(publish("other:1", sample(TOP))).id
        images.database.close()
    finally:
        subprocess.run(["umount", "-l", tmp_path / "root"], check=True)


def test_pushed_image_can_be_pulled_elsewhere(
    images: Images, make_images: Make, publish: Make, sample: Make, index_of: Make, registry: Registry
) -> None:
    made = index_of(sample(BASE, TOP), sample(TOP, platform=ARM))
    pulled = images.pull(publish("app:1", made), "linux/amd64")
    target = f"{registry.address}/else/where:2"
    images.tag(pulled.name, target)
    assert images.push(target) == pulled.manifest_digest  # the index is not here whole
    images.pull(pulled.name, "linux/amd64", all_platforms=True)
    images.tag(pulled.name, target)
    steps: list[Progress] = []
    assert images.push(target, steps.append) == made.manifest.digest
    assert {step.action for step in steps} >= {"exists"}
    other = make_images(root="other").pull(target, "linux/arm64")
    assert other.digest == pulled.digest


def test_push_of_what_is_not_here(images: Images) -> None:
    with pytest.raises(NotFound, match="no such image"):
        images.push("127.0.0.1:1/x:y")


def test_loaded_image_has_a_repository_digest_once_it_is_pushed(
    images: Images, make_images: Make, publish: Make, sample: Make, registry: Registry
) -> None:
    pulled = images.pull(publish("app:1", sample(BASE)))
    buffer = io.BytesIO()
    images.save([pulled.name], buffer)
    other = make_images(root="other")
    (loaded,) = other.load(io.BytesIO(buffer.getvalue()))
    assert loaded.repository_digests == ()
    other.push(loaded.name)
    assert other.resolve(loaded.name).repository_digests == pulled.repository_digests
