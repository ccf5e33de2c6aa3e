"""Files in a root file system that is not trusted: nothing is ever made, opened or changed outside of it."""

from __future__ import annotations

import ctypes
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orlop.runtime.launch import LaunchFailed
from orlop.runtime.ops import (
    Chdir,
    Chown,
    Exit,
    Mkdir,
    Mknod,
    Mount,
    MoveMount,
    Op,
    Open,
    OpenTree,
    PivotRoot,
    Setxattr,
    Symlink,
    Target,
    WriteFile,
)
from orlop.runtime.optable import SKIP_MISSING
from orlop.runtime.plan import Step

pytestmark = pytest.mark.root

PROC_MAGIC = 0x9FA0
ROOT = Open(0, -1, "{}", os.O_PATH, 0, 0)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory of the host that a root file system tries to reach."""
    directory = tmp_path / "outside"
    directory.mkdir()
    (directory / "file").write_text("host")
    return directory


def within(root: Path, *ops: Op | Step) -> list[Op | Step]:
    return [Open(0, -1, str(root), os.O_PATH, 0, 0), *ops, Exit(0)]


def tree(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


# --- what is made


def test_makes_a_directory_with_its_parents(helper, rootfs):
    helper.run(within(rootfs, Mkdir(0, "/srv/a/b", 0o1770, 5, 6)))
    made = (rootfs / "srv/a/b").stat()
    assert (made.st_mode & 0o7777, made.st_uid, made.st_gid) == (0o1770, 5, 6)
    parent = (rootfs / "srv/a").stat()
    assert (parent.st_mode & 0o7777, parent.st_uid) == (0o755, 0)


def test_keeps_a_directory_as_it_is(helper, rootfs):
    (rootfs / "tmp").chmod(0o700)
    helper.run(within(rootfs, Mkdir(0, "/tmp", 0o777, 5, 6)))
    assert (rootfs / "tmp").stat().st_mode & 0o7777 == 0o700
    assert (rootfs / "tmp").stat().st_uid == 0


def test_an_attribute_is_set_inside_the_root_only(helper, rootfs, outside):
    (rootfs / "etc/link").symlink_to(outside)
    helper.run(within(rootfs, Setxattr(0, "/tmp", "trusted.orlop", b"u:r:t")))
    assert os.getxattr(rootfs / "tmp", "trusted.orlop") == b"u:r:t"
    with pytest.raises(LaunchFailed, match="setxattr: ENOENT"):
        helper.run(within(rootfs, Setxattr(0, "/etc/link", "trusted.orlop", b"x")))
    assert not os.listxattr(outside)


def test_a_file_in_the_way_of_a_directory_is_an_error(helper, rootfs):
    (rootfs / "etc/file").touch()
    for path in ("/etc/file", "/etc/file/below"):
        with pytest.raises(LaunchFailed, match="ENOTDIR"):
            helper.run(within(rootfs, Mkdir(0, path, 0o755, 0, 0)))


def test_a_target_is_like_what_will_be_mounted(helper, rootfs, outside):
    sources = [Open(1, -1, str(outside), os.O_PATH, 0, 0), Open(2, -1, str(outside / "file"), os.O_PATH, 0, 0)]
    helper.run(
        within(rootfs, *sources, Target(0, "/a/dir", 1, 0), Target(0, "/a/file", 2, 0), Target(0, "/a/other", -1, 0))
    )
    assert (rootfs / "a/dir").is_dir()
    assert (rootfs / "a/file").read_bytes() == b""
    assert (rootfs / "a/other").is_dir()


def test_a_target_that_is_there_is_kept(helper, rootfs, outside):
    (rootfs / "etc/hosts").write_text("kept")
    helper.run(within(rootfs, Open(2, -1, str(outside / "file"), os.O_PATH, 0, 0), Target(0, "/etc/hosts", 2, 0)))
    assert (rootfs / "etc/hosts").read_text() == "kept"


def test_a_target_of_the_wrong_kind_is_an_error(helper, rootfs, outside):
    with pytest.raises(LaunchFailed, match="EISDIR"):
        helper.run(within(rootfs, Open(2, -1, str(outside / "file"), os.O_PATH, 0, 0), Target(0, "/etc", 2, 0)))
    (rootfs / "etc/hosts").touch()
    with pytest.raises(LaunchFailed, match="ENOTDIR"):
        helper.run(within(rootfs, Target(0, "/etc/hosts", -1, 0)))


def test_makes_nodes(helper, rootfs):
    helper.run(
        within(
            rootfs,
            Mknod(0, "/dev/null", stat.S_IFCHR | 0o666, 1, 3, 0, 0),
            Mknod(0, "/dev/sub/pipe", stat.S_IFIFO | 0o640, 0, 0, 5, 6),
            Mknod(0, "/dev/null", stat.S_IFCHR | 0o600, 1, 3, 7, 7),  # again: kept
        )
    )
    null, pipe = (rootfs / "dev/null").stat(), (rootfs / "dev/sub/pipe").stat()
    assert (stat.S_ISCHR(null.st_mode), null.st_mode & 0o777, null.st_rdev, null.st_uid) == (
        True,
        0o666,
        os.makedev(1, 3),
        0,
    )
    assert (stat.S_ISFIFO(pipe.st_mode), pipe.st_mode & 0o777, pipe.st_uid, pipe.st_gid) == (True, 0o640, 5, 6)


def test_another_node_under_the_name_is_an_error(helper, rootfs):
    os.mknod(rootfs / "dev/null", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    with pytest.raises(LaunchFailed, match="EEXIST"):
        helper.run(within(rootfs, Mknod(0, "/dev/null", stat.S_IFCHR | 0o666, 1, 3, 0, 0)))


def test_makes_links_and_keeps_those_that_are_right(helper, rootfs):
    link = Symlink(0, "/dev/fd", "/proc/self/fd")
    helper.run(within(rootfs, link, link))
    assert os.readlink(rootfs / "dev/fd") == "/proc/self/fd"
    with pytest.raises(LaunchFailed, match="symlink: EEXIST"):
        helper.run(within(rootfs, Symlink(0, "/dev/fd", "/proc")))


def test_writes_in_one_call_and_only_on_the_file_system_named(helper, rootfs):
    path = str(rootfs / "etc/new")
    helper.run([WriteFile(-1, path, os.O_CREAT | os.O_EXCL, 0, b"data"), Exit(0)])
    assert Path(path).read_bytes() == b"data"
    with pytest.raises(LaunchFailed, match="EXDEV: not on the file system"):
        helper.run([WriteFile(-1, path, 0, PROC_MAGIC, b"no")])
    assert Path(path).read_bytes() == b"data"


def test_a_fifo_in_place_of_a_kernel_file_does_not_hold_the_helper_up(helper, rootfs):
    os.mkfifo(rootfs / "etc/fifo")
    with pytest.raises(LaunchFailed, match="ENXIO"):
        helper.run(within(rootfs, WriteFile(0, "/etc/fifo", 0, PROC_MAGIC, b"1")))


def test_changes_an_owner(helper, rootfs):
    helper.run(within(rootfs, Open(1, 0, "/etc", os.O_PATH, 0, 0), Chown(1, 5, 6)))
    assert ((rootfs / "etc").stat().st_uid, (rootfs / "etc").stat().st_gid) == (5, 6)


# --- links that lead out


@pytest.mark.parametrize("link", ["{outside}", "../../../../../../../../../../..{outside}", "/proc/self/root{outside}"])
def test_no_link_leads_out_of_the_root(helper, rootfs, outside, link):
    """Links are taken as the container takes them: what they name is looked for, and made, inside the root."""
    (rootfs / "link").symlink_to(link.format(outside=outside))
    before = tree(outside)
    file = Open(1, -1, "/etc/passwd", os.O_PATH, 0, 0)
    for op in (
        Mkdir(0, "/link/dir", 0o755, 0, 0),
        Target(0, "/link/target", -1, 0),
        Target(0, "/link/file2", 1, 0),
        Mknod(0, "/link/node", stat.S_IFIFO | 0o600, 0, 0, 0, 0),
        Symlink(0, "/link/sym", "x"),
        WriteFile(0, "/link/file", os.O_CREAT, 0, b"guest"),
    ):
        try:
            helper.run(within(rootfs, file, op))
        except LaunchFailed:  # what is not there inside, or can't be made there
            pass
    assert tree(outside) == before
    assert (outside / "file").read_text() == "host"


def test_a_link_to_what_is_missing_has_that_made_inside(helper, rootfs, outside):
    """/var/run -> /run in an image that has no /run."""
    (rootfs / "var").mkdir()
    (rootfs / "var/run").symlink_to("/run")
    (rootfs / "var/lock").symlink_to("../run/lock")
    (rootfs / "etc/resolv.conf").symlink_to("/run/resolve/stub")
    source = Open(1, -1, str(outside / "file"), os.O_PATH, 0, 0)
    helper.run(
        within(
            rootfs,
            source,
            Target(0, "/var/run/secrets/token", -1, 0),
            Mkdir(0, "/var/lock", 0o755, 0, 0),
            Mkdir(0, "/run/resolve", 0o755, 0, 0),
            Target(0, "/etc/resolv.conf", 1, 0),
        )
    )
    assert (rootfs / "run/secrets/token").is_dir()
    assert (rootfs / "run/lock").is_dir()
    assert (rootfs / "run/resolve/stub").read_bytes() == b""
    assert os.readlink(rootfs / "var/run") == "/run"


def test_links_that_go_in_circles_end(helper, rootfs):
    (rootfs / "a").symlink_to("/b")
    (rootfs / "b").symlink_to("/a")
    (rootfs / "c").symlink_to("/c/c")
    for path in ("/a/x", "/c/x"):
        with pytest.raises(LaunchFailed, match="ELOOP"):
            helper.run(within(rootfs, Mkdir(0, path, 0o755, 0, 0)))


def test_links_that_always_lead_on_end(helper, rootfs):
    """Each is only found dangling when the one before it has been made."""
    for index in range(40):
        (rootfs / f"l{index}").symlink_to(f"/d{index}/../l{index + 1}")
    with pytest.raises(LaunchFailed, match=r"E(NOENT|LOOP)"):
        helper.run(within(rootfs, Mkdir(0, "/l0/x", 0o755, 0, 0)))


def test_dots_in_a_path_do_not_lead_out(helper, rootfs, outside):
    up = "/../../../../../.." + str(outside)
    helper.run(within(rootfs, Mkdir(0, up + "/made", 0o755, 0, 0)))
    assert tree(outside) == ["file"]
    assert (rootfs / (str(outside).lstrip("/")) / "made").is_dir()
    with pytest.raises(LaunchFailed, match="EINVAL"):
        helper.run(within(rootfs, Mknod(0, "/etc/..", stat.S_IFIFO, 0, 0, 0, 0)))


def test_names_and_paths_that_are_too_long_are_refused(helper, rootfs):
    for path in ("/" + "x" * 256, "/x" * 3000, "/etc/" + "x" * 256 + "/y"):
        for op in (Mkdir(0, path, 0o755, 0, 0), Mknod(0, path, stat.S_IFIFO, 0, 0, 0, 0)):
            with pytest.raises(LaunchFailed, match="ENAMETOOLONG"):
                helper.run(within(rootfs, op))


def test_magic_links_inside_the_root_are_not_followed(helper, rootfs, outside):
    """A file system that contains a mounted proc could lead back to the helper's own descriptors."""
    (rootfs / "out").symlink_to("/proc/self/fd/9")
    steps = [
        *helper.private_mounts(),
        Open(0, -1, str(rootfs), os.O_PATH, 0, 0),
        *(Open(slot, -1, str(outside), os.O_PATH, 0, 0) for slot in range(1, 12)),
        Mount("proc", 0, "/proc", "proc", 0, ""),
        Mkdir(0, "/out/made", 0o755, 0, 0),
    ]
    with pytest.raises(LaunchFailed, match="ELOOP"):
        helper.run([*steps, Exit(0)])
    assert tree(outside) == ["file"]


def test_magic_links_are_not_followed_after_the_root_has_changed_either(helper, rootfs, outside):
    (rootfs / "out").symlink_to("/proc/self/fd/9")
    steps = [
        *helper.private_mounts(),
        *(Open(slot, -1, str(outside), os.O_PATH, 0, 0) for slot in range(1, 12)),
        OpenTree(0, -1, str(rootfs), 1),
        MoveMount(0, -1, "/"),
        Mount("proc", 0, "/proc", "proc", 0, ""),
        PivotRoot(0),
    ]
    for op in (
        Mkdir(-1, "/out/made", 0o755, 0, 0),
        WriteFile(-1, "/out/file", 0, 0, b"guest"),
        OpenTree(20, -1, "/out", 1),
    ):
        with pytest.raises(LaunchFailed, match="ELOOP"):
            helper.run([*steps, op, Exit(0)])
    assert tree(outside) == ["file"]
    assert (outside / "file").read_text() == "host"


def test_a_working_directory_outside_the_root_is_refused(helper, rootfs, outside):
    (rootfs / "out").symlink_to("/proc/self/fd/9")
    steps = [
        *helper.private_mounts(),
        *(Open(slot, -1, str(outside), os.O_PATH, 0, 0) for slot in range(1, 12)),
        OpenTree(0, -1, str(rootfs), 1),
        MoveMount(0, -1, "/"),
        Mount("proc", 0, "/proc", "proc", 0, ""),
        PivotRoot(0),
    ]
    outside_of = "EPERM: the working directory is outside the container"
    for op, why in ((Chdir(-1, "/proc/self/fd/9"), "ELOOP"), (Chdir(-1, "/out"), "ELOOP"), (Chdir(5, ""), outside_of)):
        with pytest.raises(LaunchFailed, match=why):
            helper.run([*steps, op, Exit(0)])
    assert helper.run([*steps, Chdir(-1, "/etc"), helper.sh("pwd")]).output == "/etc\n"


# --- races


@contextmanager
def swapping(root: Path, outside: Path) -> Iterator[list[int]]:
    """While this goes on, root/x is now a directory, now a link to outside; counts how often."""
    stop, count = threading.Event(), [0]
    (root / "x").mkdir()
    (root / "y").symlink_to(outside)
    libc = ctypes.CDLL(None)

    def swap() -> None:
        while not stop.is_set():
            at, exchange = -100, 2
            count[0] += not libc.renameat2(at, bytes(root / "x"), at, bytes(root / "y"), exchange)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield count
    finally:
        stop.set()
        thread.join()


def test_a_link_swapped_in_during_the_walk_leads_nowhere(helper, rootfs, outside):
    file = Open(1, -1, "/etc/passwd", os.O_PATH, 0, 0)
    ops: list[Op | Step] = []
    for index in range(150):
        ops += [
            Step(op, "", SKIP_MISSING | 8)
            for op in (
                Mkdir(0, f"/x/d{index}", 0o755, 0, 0),
                Target(0, f"/x/t{index}", -1, 0),
                Target(0, f"/x/f{index}", 1, 0),
                Mknod(0, f"/x/n{index}", stat.S_IFIFO | 0o600, 0, 0, 0, 0),
                WriteFile(0, "/x/file", 0, 0, b"guest"),
            )
        ]
    with swapping(rootfs, outside) as count:
        for _ in range(8):
            try:
                helper.run(within(rootfs, file, *ops))
            except LaunchFailed:
                pass
    assert count[0] > 1000
    assert tree(outside) == ["file"]
    assert (outside / "file").read_text() == "host"
