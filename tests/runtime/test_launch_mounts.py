"""Mounts: what the operations do to a mount namespace, and to nothing else."""

from __future__ import annotations

import ctypes
import os
import stat
import threading
from pathlib import Path

import pytest

from orlop.runtime.launch import LaunchFailed
from orlop.runtime.ops import (
    Chroot,
    Clone,
    Copyup,
    Execve,
    Exit,
    Fsconfig,
    Fsmount,
    Fsopen,
    Groups,
    Mask,
    Mkdir,
    Mount,
    MountSetattr,
    MoveMount,
    MoveRoot,
    Op,
    Open,
    OpenTree,
    PivotRoot,
    Propagation,
    SetIds,
    Setns,
    Sync,
    Target,
    Umount,
    Unshare,
)
from orlop.runtime.optable import SKIP_MISSING
from orlop.runtime.plan import Step

pytestmark = pytest.mark.root

CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUSER = 0x20000, 0x20000000, 0x10000000
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC = 1, 32, 4096, 16384
MS_PRIVATE, MS_SLAVE, MS_SHARED = 1 << 18, 1 << 19, 1 << 20
EMPTY, RECURSIVE, CLONE = 0x1000, 0x8000, 1
SET_FLAG, SET_STRING, CREATE = 0, 1, 6


def rooted(helper, rootfs: Path, *ops: Op | Step) -> list[Op | Step]:
    """In a mount namespace with the root file system, a mount of its own, in slot 0."""
    return [*helper.private_mounts(), OpenTree(0, -1, str(rootfs), CLONE), MoveMount(0, -1, "/"), *ops]


def entered(script: str) -> list[Op | Step]:
    sh = Execve(("/bin/sh",), ("sh", "-c", script), ("PATH=/bin",))
    return [Mkdir(0, "/proc", 0o755, 0, 0), Mount("proc", 0, "/proc", "proc", 0, ""), PivotRoot(0), sh]


def tmpfs(slot: int, *options: str) -> list[Op | Step]:
    return [
        Fsopen(30, "tmpfs"),
        *(Fsconfig(30, SET_STRING, *option.split("=")) for option in options),
        Fsconfig(30, CREATE, "", ""),
        Fsmount(slot, 30, 2),
    ]


# --- making and attaching


def test_mounts_a_configured_file_system(helper, rootfs):
    steps = [*tmpfs(1, "size=64k", "mode=0711"), Target(0, "/data", 1, 0), MoveMount(1, 0, "/data")]
    ended = helper.run(
        rooted(helper, rootfs, *steps, *entered("grep ' /data ' /proc/self/mountinfo; stat -c %a /data"))
    )
    assert "nosuid" in ended.output
    assert "size=64k" in ended.output
    assert ended.output.endswith("711\n")


def test_the_kernels_message_comes_with_a_failure(helper, rootfs):
    with pytest.raises(LaunchFailed, match="fsconfig: EINVAL: tmpfs: Unknown parameter 'nonsense'"):
        helper.run([Fsopen(30, "tmpfs"), Fsconfig(30, SET_STRING, "nonsense", "1")])
    with pytest.raises(LaunchFailed, match="fsconfig: EINVAL: tmpfs: Bad value for 'size'"):
        helper.run([Fsopen(30, "tmpfs"), Fsconfig(30, SET_STRING, "size", "many")])
    with pytest.raises(LaunchFailed, match="fsopen: ENODEV"):
        helper.run([Fsopen(30, "nonsense")])


def test_binds_a_tree_with_what_is_mounted_in_it(helper, rootfs, tmp_path):
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "file").write_text("bound")
    steps = [
        Mount("tmpfs", -1, str(source / "sub"), "tmpfs", 0, ""),
        OpenTree(1, -1, str(source), CLONE | RECURSIVE),
        Target(0, "/data", 1, 0),
        MoveMount(1, 0, "/data"),
        MountSetattr(1, EMPTY | RECURSIVE, 1 | 8, 0, 0, -1),
    ]
    script = "cat /data/file; echo; grep -c ' /data.* ro,.*noexec' /proc/self/mountinfo; touch /data/sub/x"
    ended = helper.run(rooted(helper, rootfs, *steps, *entered(script)))
    assert ended.output.splitlines()[:2] == ["bound", "2"]
    assert "Read-only file system" in ended.output
    assert ended.code


def test_binds_a_file_over_a_file(helper, rootfs, tmp_path):
    (tmp_path / "hosts").write_text("mine")
    steps = [
        OpenTree(1, -1, str(tmp_path / "hosts"), CLONE),
        Target(0, "/etc/hosts", 1, 0),
        MoveMount(1, 0, "/etc/hosts"),
    ]
    assert helper.run(rooted(helper, rootfs, *steps, *entered("cat /etc/hosts"))).output == "mine"


def test_remounts_with_the_classic_call(helper, rootfs):
    steps = [
        Mount("tmpfs", 0, "/tmp", "tmpfs", 2, "size=8k"),
        Mount("", 0, "/tmp", "", MS_REMOUNT | MS_BIND | MS_RDONLY | 2, ""),
    ]
    line = helper.run(rooted(helper, rootfs, *steps, *entered("grep ' /tmp ' /proc/self/mountinfo"))).output
    assert line.split()[5].startswith("ro,nosuid")
    assert "size=8k" in line


def test_unmounts(helper, rootfs):
    steps = [Mount("tmpfs", 0, "/tmp", "tmpfs", 0, ""), Umount(0, "/tmp", 0)]
    ended = helper.run(rooted(helper, rootfs, *steps, *entered("grep -c ' /tmp ' /proc/self/mountinfo")))
    assert ended.output == "0\n"


@pytest.mark.parametrize(("flags", "field"), [(MS_SHARED, "shared:"), (MS_PRIVATE, ""), (MS_SLAVE, "master:")])
def test_propagation_of_a_mount(helper, rootfs, flags, field):
    steps = [
        Mount("tmpfs", 0, "/tmp", "tmpfs", 0, ""),
        Propagation(0, "/tmp", MS_SHARED),
        OpenTree(2, 0, "/tmp", CLONE),  # a peer
        MoveMount(2, 0, "/etc"),
        Propagation(0, "/etc", flags),
    ]
    line = helper.run(rooted(helper, rootfs, *steps, *entered("grep ' /etc ' /proc/self/mountinfo"))).output
    tags = line.split(" - ")[0].split()[6:]
    assert [tag.rstrip("0123456789") for tag in tags] == ([field] if field else [])


def test_a_propagation_is_set_on_a_detached_tree(helper, rootfs, tmp_path):
    steps = [
        OpenTree(1, -1, str(tmp_path), CLONE),
        MountSetattr(1, EMPTY, 0, 0, MS_SHARED, -1),
        MoveMount(1, 0, "/tmp"),
    ]
    assert (
        "shared:" in helper.run(rooted(helper, rootfs, *steps, *entered("grep ' /tmp ' /proc/self/mountinfo"))).output
    )


# --- the root


def test_nothing_of_the_hosts_root_remains_after_pivoting(helper, rootfs):
    ended = helper.run(rooted(helper, rootfs, *entered("cut -d' ' -f5 /proc/self/mountinfo; ls /..")))
    assert ended.output.split() == ["/", "/proc", "bin", "dev", "etc", "proc", "tmp"]


def test_pivoting_in_a_namespace_of_shared_mounts_does_not_reach_the_others(helper, rootfs, tmp_path):
    """Two namespaces that share their mounts: the one that changes its root must not unmount the other's."""
    inner = [
        Unshare(CLONE_NEWNS),
        OpenTree(0, -1, str(rootfs), CLONE),
        MountSetattr(0, EMPTY, 0, 0, MS_PRIVATE, -1),  # pivot_root refuses a shared one, and one on a shared one
        Propagation(-1, "/", MS_PRIVATE),
        MoveMount(0, -1, "/"),
        Mount("proc", 0, "/proc", "proc", 0, ""),
        PivotRoot(0),
        Sync("pivoted", ()),
        Exit(0),
    ]
    counts: list[int] = []

    def count(name: str, pid: int, fds: list[int]) -> None:
        counts.append(Path(f"/proc/{holder[0]}/mountinfo").read_text().count(f" {tmp_path}/mounted"))

    holder: list[int] = []
    (tmp_path / "mounted").mkdir()

    def within(name: str, pid: int, fds: list[int]) -> None:
        holder.append(pid)
        other = type(helper)(tmp_path)
        other.output = tmp_path / "other"
        join = [Open(1, -1, f"/proc/{pid}/ns/mnt", 0, 0, 0), Setns(1, CLONE_NEWNS), Clone(0, -1)]
        other.run(join, inner, on_sync=count)
        count("after", 0, [])

    outer = [
        *helper.private_mounts(),
        Mount("tmpfs", -1, str(tmp_path / "mounted"), "tmpfs", 0, ""),
        Propagation(-1, str(tmp_path / "mounted"), MS_SHARED),
        Mkdir(-1, str(tmp_path / "mounted/here"), 0o755, 0, 0),
        Mount("tmpfs", -1, str(tmp_path / "mounted/here"), "tmpfs", 0, ""),
        Propagation(-1, "/", MS_SHARED | MS_REC),
        Clone(0, -1),
    ]
    helper.run(outer, [Sync("made", ()), Exit(0)], on_sync=within)
    assert counts == [2, 2]


@pytest.mark.parametrize("op", [MoveRoot(0), Chroot(0)])
def test_other_ways_to_change_the_root(helper, rootfs, op):
    sh = Execve(("/bin/sh",), ("sh", "-c", "pwd; ls /"), ("PATH=/bin",))
    ended = helper.run(rooted(helper, rootfs, op, sh))
    assert ended.output.split() == ["/", "bin", "dev", "etc", "proc", "tmp"]


# --- hiding


def null(slot: int = 5) -> Open:
    return Open(slot, -1, "/dev/null", os.O_PATH, 0, 0)


def test_masks_files_and_directories_and_passes_over_what_is_missing(helper, rootfs):
    (rootfs / "etc/secret").write_text("secret")
    (rootfs / "etc/keys").mkdir()
    (rootfs / "etc/keys/key").touch()
    steps = [null(), *(Mask(0, path, 5) for path in ("/etc/secret", "/etc/keys", "/etc/none", "/etc/secret/x"))]
    ended = helper.run(rooted(helper, rootfs, *steps, *entered("cat /etc/secret; ls -A /etc/keys; touch /etc/keys/x")))
    assert "secret" not in ended.output
    assert "key\n" not in ended.output
    assert "Read-only file system" in ended.output


def test_masks_with_the_null_device_alone(helper, rootfs):
    (rootfs / "etc/secret").write_text("secret")
    os.mknod(rootfs / "dev/null", stat.S_IFCHR | 0o666, os.makedev(1, 5))  # not the null device
    for path in ("/dev/null", "/etc/secret"):
        wrong = Open(5, 0, path, os.O_PATH, 0, 0)
        with pytest.raises(LaunchFailed, match="mask: ENODEV"):
            helper.run(rooted(helper, rootfs, wrong, Mask(0, "/etc/secret", 5), *entered("true")))


def test_a_mask_without_a_null_device_is_a_failure(helper, rootfs):
    (rootfs / "etc/secret").write_text("secret")
    missing = Step(Open(5, 0, "/dev/none", os.O_PATH, 0, 0), "", SKIP_MISSING)
    with pytest.raises(LaunchFailed, match="mask: ENODEV"):
        helper.run(rooted(helper, rootfs, missing, Mask(0, "/etc/secret", 5), *entered("true")))


# --- copies


def test_copies_a_tree_into_a_mount(helper, rootfs):
    data = rootfs / "data"
    (data / "dir").mkdir(parents=True)
    (data / "dir/file").write_bytes(os.urandom(200_000))
    (data / "dir/file").chmod(0o4755)
    os.chown(data / "dir", 5, 6)
    (data / "dir").chmod(0o1770)
    (data / "link").symlink_to("/etc/passwd")
    os.lchown(data / "link", 7, 8)
    os.mkfifo(data / "fifo", 0o640)
    os.mknod(data / "zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    os.utime(data / "dir/file", ns=(10**18, 10**18 + 5))
    os.utime(data / "dir", ns=(10**18, 10**18 + 7))
    found: dict[str, tuple] = {}

    def facts(root: Path) -> dict[str, tuple]:
        return {
            str(p.relative_to(root)): (
                s.st_mode,
                s.st_uid,
                s.st_gid,
                s.st_rdev,
                s.st_mtime_ns if not stat.S_ISFIFO(s.st_mode) else 0,
            )
            # rglob would look behind links, which fs.protected_symlinks allows nobody here
            for directory, names, files in os.walk(root)
            for p in (Path(directory, name) for name in (*names, *files))
            for s in [p.lstat()]
        }

    def look(name: str, pid: int, fds: list[int]) -> None:
        copy = Path(f"/proc/self/fd/{fds[0]}/")
        found.update(facts(copy))
        assert (copy / "dir/file").read_bytes() == (data / "dir/file").read_bytes()

    steps = [*tmpfs(1), Copyup(1, 0, "/data"), Sync("copied", (1,)), Exit(0)]
    helper.run([Clone(0, -1)], rooted(helper, rootfs, *steps), on_sync=look)
    assert found == facts(data)


def test_there_may_be_nothing_to_copy(helper, rootfs):
    assert helper.run(rooted(helper, rootfs, *tmpfs(1), Copyup(1, 0, "/none"), Exit(0))).code == 0


def test_a_copy_that_does_not_fit_is_a_failure(helper, rootfs):
    (rootfs / "data").mkdir()
    (rootfs / "data/big").write_bytes(bytes(1 << 20))
    with pytest.raises(LaunchFailed, match="copyup: ENOSPC"):
        helper.run(rooted(helper, rootfs, *tmpfs(1, "size=64k"), Copyup(1, 0, "/data"), Exit(0)))


# --- hostile roots


@pytest.mark.parametrize("name", ["proc", "dev"])
def test_a_mount_point_that_links_outside_stays_inside(helper, rootfs, tmp_path, name):
    outside = tmp_path / "outside"
    outside.mkdir()
    (rootfs / name).rmdir()
    (rootfs / name).symlink_to(outside)
    seen: list[list[str]] = []

    def look(_: str, pid: int, fds: list[int]) -> None:
        lines = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
        seen.append([line.split()[4] for line in lines if line.split()[4] == str(outside)])

    steps = [
        Mkdir(0, f"/{name}", 0o755, 0, 0),
        Target(0, f"/{name}", -1, 0),
        Mount("tmpfs", 0, f"/{name}", "tmpfs", 0, ""),
        *tmpfs(1),
        MoveMount(1, 0, f"/{name}"),
        Mkdir(0, f"/{name}/below", 0o755, 0, 0),
        PivotRoot(0),
        Sync("done", ()),
        Exit(0),
    ]
    helper.run([Clone(0, -1)], rooted(helper, rootfs, *steps), on_sync=look)
    # the path that the link names, inside the container: twice mounted on there
    assert seen == [[str(outside)] * 2]
    assert list(outside.iterdir()) == []


def test_a_target_swapped_for_a_link_is_mounted_on_inside_or_not_at_all(helper, rootfs, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (rootfs / "x").mkdir()
    (rootfs / "y").symlink_to(outside)
    stop, swaps = threading.Event(), [0]
    libc = ctypes.CDLL(None)

    def swap() -> None:
        while not stop.is_set():
            swaps[0] += not libc.renameat2(-100, bytes(rootfs / "x"), -100, bytes(rootfs / "y"), 2)

    ops: list[Op | Step] = []
    for _ in range(60):
        for op in (
            Target(0, "/x", -1, 0),
            Mount("tmpfs", 0, "/x", "tmpfs", 0, ""),
            OpenTree(1, 0, "/bin", CLONE),
            MoveMount(1, 0, "/x"),
            Mask(0, "/x", 5),
        ):
            ops.append(Step(op, "", SKIP_MISSING))
    seen: list[int] = []

    def look(_: str, pid: int, fds: list[int]) -> None:
        points = [line.split()[4] for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]
        seen.append(sum(point.startswith(str(outside)) for point in points))

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        steps = [
            *helper.private_mounts(),
            Open(0, -1, str(rootfs), os.O_PATH, 0, 0),
            null(),
            *ops,
            Sync("done", ()),
            Exit(0),
        ]
        for _ in range(3):
            try:
                helper.run([Clone(0, -1)], steps, on_sync=look)
            except LaunchFailed:
                pass
    finally:
        stop.set()
        thread.join()
    assert swaps[0] > 100
    assert not any(seen)
    assert list(outside.iterdir()) == []


# --- user namespaces


def test_mounts_in_a_user_namespace(helper, rootfs):
    os.chown(rootfs, 1000, 1000)
    for path in rootfs.iterdir():
        os.chown(path, 1000, 1000)

    def maps(name: str, pid: int, fds: list[int]) -> None:
        for kind in ("uid", "gid"):
            Path(f"/proc/{pid}/{kind}_map").write_text("0 1000 1000\n")

    outside = [OpenTree(0, -1, str(rootfs), CLONE), null(), Clone(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID, -1)]
    rootfs.parent.chmod(0o755)
    inside = [
        Sync("created", ()),
        SetIds(0, 0),
        Groups(()),
        Propagation(-1, "/", MS_SLAVE | MS_REC),
        MoveMount(0, -1, "/"),
        Mount("proc", 0, "/proc", "proc", 0, ""),
        Target(0, "/srv/data", -1, 0),
        Mount("tmpfs", 0, "/srv/data", "tmpfs", 2, ""),
        Mask(0, "/etc", 5),
        PivotRoot(0),
        Execve(("/bin/sh",), ("sh", "-c", "id -u; cat /proc/self/uid_map; stat -c %u /srv"), ("PATH=/bin",)),
    ]
    ended = helper.run(outside, inside, on_sync=maps)
    assert ended.output.split() == ["0", "0", "1000", "1000", "0"]
    assert (rootfs / "srv/data").stat().st_uid == 1000
