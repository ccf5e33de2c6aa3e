"""One suite for every snapshotter: the life of snapshots, what mounting them shows, and what a crash leaves."""

from __future__ import annotations

import errno
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orlop.metadata.database import Database
from orlop.runtime.host import probe_host
from orlop.runtime.idmaps import user_namespace
from orlop.snapshots.copy import CopySnapshotter
from orlop.snapshots.detached import detached, overlay_by_mount
from orlop.snapshots.directory import DirectorySnapshotter, Usage
from orlop.snapshots.mounts import Overlay
from orlop.snapshots.overlay import OverlaySnapshotter
from orlop.snapshots.snapshotter import Snapshotter
from orlop.spec.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, OutOfRange
from orlop.spec.runtime import IDMapping
from orlop.sys.mounts import move_mount

pytestmark = pytest.mark.root
KINDS: dict[str, type[DirectorySnapshotter]] = {"overlay": OverlaySnapshotter, "copy": CopySnapshotter}


@pytest.fixture(scope="module")
def tmpfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A tmpfs, which takes overlay's upper directories wherever the tests run."""
    path = tmp_path_factory.mktemp("snapshots")
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", path], check=True)
    yield path
    subprocess.run(["umount", "-l", path], check=True)  # databases are still open


@pytest.fixture(params=sorted(KINDS))
def snapshots(request: pytest.FixtureRequest, tmpfs: Path) -> DirectorySnapshotter:
    directory = tmpfs / str(len(os.listdir(tmpfs)))
    directory.mkdir()
    return KINDS[request.param](directory / "snapshots", Database(directory / "db"))


@contextmanager
def mounted(snapshots: Snapshotter, key: str, target: Path) -> Iterator[Path]:
    """Attach the snapshot, as the launch helper does in a container."""
    target.mkdir(exist_ok=True)
    fd = detached(snapshots.mounts(key))
    try:
        move_mount(fd, str(target))
    finally:
        os.close(fd)
    try:
        yield target
    finally:
        subprocess.run(["umount", target], check=True)


def layer(snapshots: Snapshotter, name: str, parent: str, change: Callable[[Path], object], at: Path) -> None:
    """Commit a layer whose change is made through the mount, so that whiteouts are the snapshotter's own."""
    snapshots.prepare(f"make-{name}", parent)
    with mounted(snapshots, f"make-{name}", at) as tree:
        change(tree)
    snapshots.commit(name, f"make-{name}")


def test_life_of_a_snapshot(snapshots: Snapshotter, tmp_path: Path) -> None:
    assert snapshots.prepare("a").kind == "active"
    (snapshots.directory("a") / "file").write_text("one")
    committed = snapshots.commit("base", "a")
    assert (committed.kind, committed.record.size) == ("committed", 3)
    assert snapshots.find("a") is None
    assert snapshots.prepare("b", "base").parent == "base"
    assert [s.key for s in snapshots.walk()] == ["base", "b"]
    snapshots.remove("b")
    snapshots.remove("base")
    assert list(snapshots.walk()) == []
    snapshots.remove("base")


def test_container_sees_writes_whiteouts_and_opaque_directories(snapshots: Snapshotter, tmp_path: Path) -> None:
    def base(tree: Path) -> None:
        (tree / "etc").mkdir()
        (tree / "etc" / "passwd").write_text("root")
        (tree / "gone").write_text("x")
        (tree / "dir").mkdir()
        (tree / "dir" / "old").write_text("x")

    def change(tree: Path) -> None:
        (tree / "gone").unlink()
        (tree / "dir" / "old").unlink()
        (tree / "dir").rmdir()
        (tree / "dir").mkdir()
        (tree / "dir" / "new").write_text("y")

    layer(snapshots, "base", "", base, tmp_path / "m")
    layer(snapshots, "change", "base", change, tmp_path / "m")
    snapshots.prepare("container", "change")
    with mounted(snapshots, "container", tmp_path / "m") as root:
        assert sorted(os.listdir(root)) == ["dir", "etc"]
        assert os.listdir(root / "dir") == ["new"]
        assert (root / "etc" / "passwd").read_text() == "root"
        (root / "etc" / "passwd").write_text("changed")
    snapshots.view("look", "base")
    with mounted(snapshots, "look", tmp_path / "m") as root:
        assert (root / "etc" / "passwd").read_text() == "root"
        assert sorted(os.listdir(root)) == ["dir", "etc", "gone"]


def test_view_is_read_only(snapshots: Snapshotter, tmp_path: Path) -> None:
    layer(snapshots, "one", "", lambda tree: (tree / "f").write_text("1"), tmp_path / "m")
    layer(snapshots, "two", "one", lambda tree: (tree / "g").write_text("2"), tmp_path / "m")
    for parent in ("one", "two"):
        snapshots.view(f"view-{parent}", parent)
        with mounted(snapshots, f"view-{parent}", tmp_path / "m") as root:
            with pytest.raises(OSError, match="Read-only"):
                (root / "h").write_text("")


def test_view_cannot_be_committed(snapshots: Snapshotter) -> None:
    snapshots.prepare("a")
    snapshots.commit("base", "a")
    snapshots.view("v", "base")
    with pytest.raises(FailedPrecondition, match="is view"):
        snapshots.commit("x", "v")


def test_detached_mount_is_nowhere_on_the_host(snapshots: Snapshotter) -> None:
    snapshots.prepare("a")
    snapshots.commit("base", "a")
    snapshots.prepare("c", "base")
    before = Path("/proc/self/mountinfo").read_text()
    fd = detached(snapshots.mounts("c"))
    assert Path("/proc/self/mountinfo").read_text() == before
    os.close(fd)


def test_root_of_the_tree_keeps_mode_and_owner(snapshots: Snapshotter, tmp_path: Path) -> None:
    def change(tree: Path) -> None:
        os.chown(tree, 12, 34)
        os.chmod(tree, 0o1751)

    layer(snapshots, "base", "", change, tmp_path / "m")
    snapshots.prepare("c", "base")
    with mounted(snapshots, "c", tmp_path / "m") as root:
        info = os.stat(root)
        assert (info.st_uid, info.st_gid, info.st_mode & 0o7777) == (12, 34, 0o1751)


def test_committed_snapshot_cannot_be_mounted(snapshots: Snapshotter) -> None:
    snapshots.prepare("a")
    snapshots.commit("base", "a")
    with pytest.raises(FailedPrecondition, match="is committed"):
        snapshots.mounts("base")


def test_names_are_taken_once(snapshots: Snapshotter) -> None:
    snapshots.prepare("a")
    with pytest.raises(AlreadyExists):
        snapshots.prepare("a")
    snapshots.commit("base", "a")
    snapshots.prepare("b")
    with pytest.raises(AlreadyExists):
        snapshots.commit("base", "b")


def test_parent_must_be_there_and_committed(snapshots: Snapshotter) -> None:
    with pytest.raises(NotFound, match="parent snapshot nothing"):
        snapshots.prepare("a", "nothing")
    snapshots.prepare("b")
    with pytest.raises(FailedPrecondition, match="is active, want committed"):
        snapshots.prepare("c", "b")


def test_snapshot_that_others_stand_on_is_not_removed(snapshots: Snapshotter) -> None:
    snapshots.prepare("a")
    snapshots.commit("base", "a")
    snapshots.prepare("c", "base")
    with pytest.raises(FailedPrecondition, match="c stands on it"):
        snapshots.remove("base")


def test_usage_counts_own_changes_only(snapshots: Snapshotter, tmp_path: Path) -> None:
    layer(snapshots, "base", "", lambda tree: (tree / "f").write_bytes(b"x" * 1000), tmp_path / "m")
    snapshots.prepare("c", "base")
    if isinstance(snapshots, OverlaySnapshotter):
        assert snapshots.usage("c") == Usage(0, 0)
    with mounted(snapshots, "c", tmp_path / "m") as root:
        (root / "g").write_bytes(b"y" * 500)
    assert snapshots.usage("base") == Usage(1000, 1)
    assert snapshots.usage("c").size in (500, 1500)


def test_key_never_becomes_a_path(snapshots: Snapshotter) -> None:
    snapshots.prepare("../../escape")
    assert snapshots.directory("../../escape").is_relative_to(snapshots.root)  # type: ignore[attr-defined]
    assert snapshots.directory("../../escape").parent.name.isdecimal()


def test_threads_get_directories_of_their_own(snapshots: Snapshotter) -> None:
    threads = [threading.Thread(target=snapshots.prepare, args=(f"k{i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({snapshots.directory(f"k{i}") for i in range(8)}) == 8


class Killed(BaseException):
    pass


def test_recovery_after_a_crash_while_preparing(snapshots: DirectorySnapshotter) -> None:
    snapshots.prepare("good")
    snapshots.table.reserve("bad", "", snapshots.stat("good").record)
    stray = snapshots.root / "77"
    (stray / "fs" / "deep").mkdir(parents=True)
    assert snapshots.recover() == 2
    assert [s.key for s in snapshots.walk()] == ["good"]
    assert sorted(p.name for p in snapshots.root.iterdir()) == ["1", "lock"]
    assert snapshots.recover() == 0


def test_recovery_after_a_crash_while_removing(snapshots: DirectorySnapshotter) -> None:
    snapshots.prepare("x")
    snapshots.table.condemn("x")
    snapshots.prepare("x")  # the name is free at once
    assert snapshots.recover() == 1
    assert [s.key for s in snapshots.walk()] == ["x"]


def test_recovery_leaves_work_under_way_alone(snapshots: DirectorySnapshotter) -> None:
    snapshots.prepare("x")
    with snapshots._working():
        snapshots.table.reserve("busy", "", snapshots.stat("x").record)
        assert snapshots.recover() == 0
    assert snapshots.find("busy") is not None


def test_failed_prepare_leaves_nothing(snapshots: DirectorySnapshotter, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise Killed

    monkeypatch.setattr(snapshots, "_fill", fail)
    with pytest.raises(Killed):
        snapshots.prepare("x")
    assert list(snapshots.walk()) == []


def test_copy_cannot_stack_layers_later(tmpfs: Path) -> None:
    directory = tmpfs / str(len(os.listdir(tmpfs)))
    directory.mkdir()
    snapshots = CopySnapshotter(directory / "s", Database(directory / "db"))
    snapshots.prepare("a")
    snapshots.commit("base", "a")
    snapshots.prepare("b")
    with pytest.raises(InvalidArgument, match="cannot change a snapshot's parent"):
        snapshots.commit("x", "b", parent="base")


@pytest.fixture
def overlays(tmpfs: Path) -> OverlaySnapshotter:
    directory = tmpfs / str(len(os.listdir(tmpfs)))
    directory.mkdir()
    return OverlaySnapshotter(directory / "snapshots", Database(directory / "db"))


def stack(overlays: OverlaySnapshotter, count: int) -> None:
    """Layers unpacked without parents and stacked afterwards, as pulling does."""
    for i in range(count):
        overlays.prepare(f"p{i}")
        (overlays.directory(f"p{i}") / f"f{i}").write_text(str(i))
    for i in range(count):
        overlays.commit(f"c{i}", f"p{i}", parent=f"c{i - 1}" if i else "")


def test_127_layers(overlays: OverlaySnapshotter, tmp_path: Path) -> None:
    stack(overlays, 128)
    overlays.prepare("c", "c126")
    with mounted(overlays, "c", tmp_path / "m") as root:
        assert len(os.listdir(root)) == 127
    overlays.prepare("d", "c127")
    with pytest.raises(OutOfRange, match="128 layers"):
        overlays.mounts("d")


@pytest.mark.parametrize("layers", [2, 127])
def test_old_kernels_mount_the_same(overlays: OverlaySnapshotter, tmp_path: Path, layers: int) -> None:
    stack(overlays, layers)
    overlays.prepare("c", f"c{layers - 1}")
    (mount,) = overlays.mounts("c")
    assert isinstance(mount, Overlay)
    before = Path("/proc/self/mountinfo").read_text()
    fd = overlay_by_mount(mount)
    assert Path("/proc/self/mountinfo").read_text() == before
    (tmp_path / "m").mkdir()
    move_mount(fd, str(tmp_path / "m"))
    os.close(fd)
    try:
        assert len(os.listdir(tmp_path / "m")) == layers
    finally:
        subprocess.run(["umount", tmp_path / "m"], check=True)


@pytest.mark.parametrize("old", [False, True])
def test_ids_mapped_by_a_user_namespace(
    snapshots: DirectorySnapshotter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: bool
) -> None:
    """What root owns belongs to the root of the namespace, on old kernels too, and nothing stays mounted."""

    def unknown(mount: Overlay) -> int:
        raise OSError(errno.EINVAL, "not in this kernel")

    if probe_host().kernel < (6, 3):
        pytest.skip("the snapshots are on a tmpfs, whose ids can be mapped since Linux 6.3")
    if old:
        monkeypatch.setattr("orlop.snapshots.detached._overlay_by_fsopen", unknown)
    for name, parent in (("c0", ""), ("c1", "c0")):
        snapshots.prepare(f"p-{name}", parent)
        (snapshots.directory(f"p-{name}") / name).write_text(name)
        snapshots.commit(name, f"p-{name}")
    snapshots.prepare("c", "c1")
    before = Path("/proc/self/mountinfo").read_text()
    mapping = (IDMapping(container_id=0, host_id=50_000, size=1000),)
    namespace = user_namespace(mapping, mapping, probe_host())
    try:
        fd = detached(snapshots.mounts("c"), namespace)
    finally:
        os.close(namespace)
    assert Path("/proc/self/mountinfo").read_text() == before
    (tmp_path / "m").mkdir()
    move_mount(fd, str(tmp_path / "m"))
    os.close(fd)
    try:
        assert {entry.name: entry.stat().st_uid for entry in (tmp_path / "m").iterdir()} == {"c0": 50_000, "c1": 50_000}
    finally:
        subprocess.run(["umount", tmp_path / "m"], check=True)


@pytest.mark.parametrize("name", ["a,b", "a:b", "a\\b", "x" * 250, "ünï"])
def test_root_directory_with_an_awkward_name(tmpfs: Path, tmp_path: Path, name: str) -> None:
    directory = tmpfs / f"awkward-{len(os.listdir(tmpfs))}" / name
    directory.mkdir(parents=True)
    overlays = OverlaySnapshotter(directory, Database(directory / "db"))
    stack(overlays, 2)
    overlays.prepare("c", "c1")
    with mounted(overlays, "c", tmp_path / "m") as root:
        (root / "new").write_text("")
        assert sorted(os.listdir(root)) == ["f0", "f1", "new"]


def test_recovery_takes_off_what_a_killed_process_left_mounted(overlays: OverlaySnapshotter) -> None:
    stack(overlays, 1)
    target = overlays.root / ".mount" / "4194303-abc"  # no process has such a number
    target.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", target], check=True)
    overlays.recover()
    assert not target.exists()
    assert str(target) not in Path("/proc/self/mountinfo").read_text()
