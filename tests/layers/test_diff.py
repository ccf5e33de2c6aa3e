"""Layers out of directories, and back: applying a difference gives the upper tree again."""

from __future__ import annotations

import errno
import io
import os
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orlop.layers.apply import apply
from orlop.layers.diff import diff_overlay, diff_trees
from orlop.layers.limits import Limits, Ownership, WhiteoutFormat
from orlop.layers.pack import Member, file, pack
from orlop.layers.unpack import Unpacker
from orlop.spec.errors import Aborted, FailedPrecondition, ResourceExhausted
from orlop.wire import tar
from orlop.wire.tar import Entry

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


def put(root: Path, data: bytes, whiteouts: WhiteoutFormat = WhiteoutFormat.REMOVE) -> None:
    root.mkdir(exist_ok=True)
    apply(io.BytesIO(data), "", root, whiteouts)


def facts(root: Path) -> dict[str, tuple[Any, ...]]:
    """Everything about a tree that a layer carries; inodes as the smallest name that shares them."""
    first: dict[int, str] = {}
    found = {}
    for path in sorted(root.rglob("*")):
        name, info = str(path.relative_to(root)), path.lstat()
        regular = stat.S_ISREG(info.st_mode)
        found[name] = (
            info.st_mode,
            info.st_uid,
            info.st_gid,
            info.st_rdev,
            info.st_mtime_ns,
            path.read_bytes() if regular else b"",
            os.readlink(path) if path.is_symlink() else "",
            first.setdefault(info.st_ino, name) if regular else "",
            [
                (x, os.getxattr(path, x, follow_symlinks=False))
                for x in sorted(os.listxattr(path, follow_symlinks=False))
            ],
        )
    return found


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[tuple[Path, Path, Path]]:
    """(lower, upper, merged) of a real overlay on a tmpfs."""
    base = tmp_path / "base"
    base.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", base], check=True)
    lower, upper, work, merged = (base / name for name in ("lower", "upper", "work", "merged"))
    for each in (lower, upper, work, merged):
        each.mkdir()
    try:
        yield lower, upper, merged
    finally:
        subprocess.run(["umount", "-q", merged], check=False)
        subprocess.run(["umount", base], check=True)


def mount(lower: str, upper: Path, merged: Path) -> None:
    options = f"lowerdir={lower},upperdir={upper},workdir={upper.parent / 'work'}"
    subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", merged], check=True)


def test_whiteouts_work_on_a_real_overlay(mounted: tuple[Path, Path, Path]) -> None:
    lower, upper, merged = mounted
    second = lower.parent / "second"
    put(lower, b"".join(pack([file("a/1", b""), file("a/2", b""), file("b/1", b""), file("c", b"")])))
    layer = pack([file("a/.wh.1", b""), file("b/.wh..wh..opq", b""), file("b/2", b""), file(".wh.c", b"")])
    put(second, b"".join(layer), WhiteoutFormat.OVERLAY)
    mount(f"{second}:{lower}", upper, merged)
    assert sorted(facts(merged)) == ["a", "a/2", "b", "b/2"]


def test_the_difference_of_an_overlay_makes_the_same_tree(mounted: tuple[Path, Path, Path], tmp_path: Path) -> None:
    lower, upper, merged = mounted
    base = b"".join(
        pack(
            [
                file("a/1", b"1"),
                file("a/2", b""),
                file("b/1", b""),
                file("c", b"", mode=0o4755),
                Member(Entry(path=b"d", kind=tar.DIRECTORY, mode=0o711)),
                file("d/x", b""),
            ]
        )
    )
    put(lower, base)
    mount(str(lower), upper, merged)
    (merged / "a/1").unlink()
    (merged / "a/2").write_text("changed")
    subprocess.run(["rm", "-r", merged / "b"], check=True)
    (merged / "b").mkdir()
    (merged / "b/new").write_text("new")
    os.link(merged / "b/new", merged / "b/link")
    os.symlink("/target", merged / "s")
    os.mkfifo(merged / "pipe")
    os.mknod(merged / "null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    os.chown(merged / "c", 5, 6)
    try:
        os.setxattr(merged / "a/2", "user.note", b"x")
    except OSError as error:  # a tmpfs has them since Linux 6.6
        if error.errno != errno.EOPNOTSUPP:
            raise
    (merged / os.fsdecode(b"caf\xe9")).write_text("")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(merged / "sock"))
    expected = facts(merged)
    del expected["sock"]
    layer = b"".join(diff_overlay(upper))
    assert layer == b"".join(diff_overlay(upper))
    copy = tmp_path / "copy"
    put(copy, base)
    put(copy, layer)
    assert facts(copy) == expected


contents = st.sampled_from([b"", b"x", b"y"])
names = st.sampled_from([b"a", b"b", b"a/b", b"a/b/c", b"b/c", b"d"])
members = st.builds(
    lambda path, kind, data, mode: Member(
        Entry(
            path=path,
            kind=kind,
            link=b"x" + data,
            mode=mode,
            size=len(data) if kind is tar.FILE else 0,
            stored=len(data) if kind is tar.FILE else 0,
            major=1,
        ),
        data if kind is tar.FILE else b"",
    ),
    names,
    st.sampled_from([tar.FILE, tar.FILE, tar.DIRECTORY, tar.SYMLINK, tar.FIFO]),
    contents,
    st.sampled_from([0o644, 0o755]),
)


def trees(items: list[Member]) -> bytes:
    """A tar in which no entry stands below a file: parents come first, and those that are files lose their children."""
    taken: dict[bytes, Member] = {}
    for item in sorted(items, key=lambda m: m.entry.path):
        parts = item.entry.path.split(b"/")
        above = [taken.get(b"/".join(parts[:n])) for n in range(1, len(parts))]
        if all(a is None or a.entry.kind is tar.DIRECTORY for a in above):
            taken[item.entry.path] = item
    return b"".join(pack(taken.values()))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(members, max_size=7), st.lists(members, max_size=7))
def test_the_difference_of_two_trees_turns_one_into_the_other(
    tmp_path: Path, one: list[Member], two: list[Member]
) -> None:
    import shutil

    lower, upper = tmp_path / "lower", tmp_path / "upper"
    put(lower, trees(one))
    put(upper, trees(two))
    put(lower, b"".join(diff_trees(lower, upper)))
    assert facts(lower) == facts(upper)
    assert b"".join(diff_trees(lower, upper)) == tar.END_OF_ARCHIVE
    shutil.rmtree(lower)
    shutil.rmtree(upper)


def test_describes_the_directories_above_a_change(tmp_path: Path) -> None:
    for name, data in (("lower", b"1"), ("upper", b"2")):
        put(
            tmp_path / name,
            trees([Member(Entry(path=b"d", kind=tar.DIRECTORY, mode=0o700)), file("d/f", data), file("e", b"")]),
        )
    decoder = tar.Decoder()
    decoder.feed(b"".join(diff_trees(tmp_path / "lower", tmp_path / "upper")))
    found = iter(decoder.next_entry, tar.END)
    assert [each.path for each in found if isinstance(each, Entry)] == [b"d/", b"d/f"]


def test_refuses_what_a_layer_can_not_say(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    os.setxattr(tmp_path / "f", "trusted.overlay.metacopy", b"")
    with pytest.raises(FailedPrecondition, match=r"'f' has trusted.overlay.metacopy"):
        list(diff_overlay(tmp_path))
    (tmp_path / "f").rename(tmp_path / ".wh.f")
    with pytest.raises(FailedPrecondition, match="begins with"):
        list(diff_overlay(tmp_path))


def test_limits_depth(tmp_path: Path) -> None:
    inner = tmp_path
    for _ in range(300):
        inner = inner / "d"
    inner.mkdir(parents=True)
    with pytest.raises(ResourceExhausted, match="deeper than the limit"):
        list(diff_overlay(tmp_path))


def test_a_file_that_shrinks_while_it_is_read_is_an_error() -> None:
    shrunk = Member(Entry(path=b"f", size=10, stored=10), lambda: iter([b"12345"]))
    with pytest.raises(Aborted, match="changed its size"):
        list(pack([shrunk]))


def test_reader_of_a_failed_layer_leaves_no_thread(tmp_path: Path) -> None:
    import threading

    before = set(threading.enumerate())
    with pytest.raises(Exception, match="truncated"):
        put(tmp_path / "t", b"".join(pack([file("f", bytes(9 << 20))]))[: 8 << 20])
    assert set(threading.enumerate()) <= before  # those of earlier tests may end meanwhile


def test_unpacker_may_be_fed_byte_by_byte(tmp_path: Path) -> None:
    root = os.open(tmp_path, os.O_RDONLY)
    unpacker = Unpacker(root, WhiteoutFormat.OVERLAY, Limits(), Ownership())
    data = b"".join(pack([file("d/" + "n" * 150, b"contents"), file("e", b"")]))
    for at in range(len(data)):
        unpacker.feed(data[at : at + 1])
    unpacker.finish()
    unpacker.close()
    os.close(root)
    assert (tmp_path / "d" / ("n" * 150)).read_bytes() == b"contents"
