"""Layers onto disk: formats, hostile entries, limits. Trees are made under tmp_path; most of it needs root for owners
and devices."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import random
import stat
import tarfile
from pathlib import Path
from typing import Any

import pytest
from backports import zstd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orlop.layers.apply import apply
from orlop.layers.inherit import inherit
from orlop.layers.limits import Applied, IdRange, Limits, Ownership, WhiteoutFormat
from orlop.layers.pack import Member, compress, file, pack
from orlop.spec.errors import InvalidArgument, PermissionDenied, ResourceExhausted, Unimplemented
from orlop.wire import tar
from orlop.wire.tar import Entry, Segment

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


def entry(path: str | bytes, kind: tar.Kind = tar.FILE, **fields: Any) -> Member:
    defaults = {"mode": 0o755 if kind is tar.DIRECTORY else 0o644}
    return Member(Entry(path=os.fsencode(path), kind=kind, **{**defaults, **fields}))


def folder(path: str, **fields: Any) -> Member:
    return entry(path, tar.DIRECTORY, **fields)


def symlink(path: str, target: str, **fields: Any) -> Member:
    return entry(path, tar.SYMLINK, link=target.encode(), **fields)


def hardlink(path: str, target: str) -> Member:
    return entry(path, tar.HARDLINK, link=target.encode())


def run(target: Path, *members: Member, **options: Any) -> Applied:
    target.mkdir(exist_ok=True)
    return apply(io.BytesIO(b"".join(pack(members))), "", target, **options)


def removing(target: Path, *members: Member, **options: Any) -> Applied:
    return run(target, *members, whiteouts=WhiteoutFormat.REMOVE, **options)


def listing(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def is_whiteout(path: Path) -> bool:
    found = path.lstat()
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


@pytest.fixture
def target(tmp_path: Path) -> Path:
    made = tmp_path / "root"
    made.mkdir()
    (tmp_path / "secret").write_text("outside")
    yield made
    assert (tmp_path / "secret").read_text() == "outside"
    assert sorted(os.listdir(tmp_path)) == ["root", "secret"]
    assert open_below(tmp_path) == []


def open_below(path: Path) -> list[str]:
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            place = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            continue
        if place.startswith(str(path)):
            found.append(place)
    return found


# what a layer can hold


def test_writes_every_kind_of_entry(target: Path) -> None:
    applied = run(
        target,
        folder("etc", mode=0o750, uid=1, gid=2, mtime_ns=5_000_000_001),
        file("etc/passwd", b"root", mode=0o640, uid=3, gid=4, mtime_ns=1_500_000_000_123_456_789),
        symlink("etc/link", "../../../secret", uid=5, gid=6, mtime_ns=7_000_000_000),
        hardlink("etc/hard", "etc/passwd"),
        entry("etc/pipe", tar.FIFO, mode=0o622),
        entry("etc/null", tar.CHAR, major=1, minor=3, mode=0o666, uid=8),
        entry("etc/loop", tar.BLOCKDEV, major=7, minor=300, mode=0o660, gid=9),
        file("etc/empty", b""),
    )
    assert applied.entries == 8
    assert (applied.implied, applied.warnings) == ((b"",), ())
    etc = (target / "etc").stat()
    assert (stat.S_IMODE(etc.st_mode), etc.st_uid, etc.st_gid, etc.st_mtime_ns) == (0o750, 1, 2, 5_000_000_001)
    passwd = (target / "etc/passwd").stat()
    assert (target / "etc/passwd").read_bytes() == b"root"
    assert (stat.S_IMODE(passwd.st_mode), passwd.st_uid, passwd.st_gid, passwd.st_nlink) == (0o640, 3, 4, 2)
    assert passwd.st_mtime_ns == 1_500_000_000_123_456_789
    assert (target / "etc/hard").stat().st_ino == passwd.st_ino
    link = (target / "etc/link").lstat()
    assert (os.readlink(target / "etc/link"), link.st_uid, link.st_gid) == ("../../../secret", 5, 6)
    assert link.st_mtime_ns == 7_000_000_000
    assert (target / "etc/pipe").stat().st_mode == stat.S_IFIFO | 0o622
    null, loop = (target / "etc/null").stat(), (target / "etc/loop").stat()
    assert (null.st_mode, null.st_rdev, null.st_uid) == (stat.S_IFCHR | 0o666, os.makedev(1, 3), 8)
    assert (loop.st_mode, loop.st_rdev, loop.st_gid) == (stat.S_IFBLK | 0o660, os.makedev(7, 300), 9)


def test_modes_are_independent_of_the_umask(target: Path) -> None:
    before = os.umask(0o077)
    try:
        run(
            target,
            folder("d", mode=0o777),
            file("d/f", b"", mode=0o666),
            entry("p", tar.FIFO, mode=0o666),
            file("i/f", b""),
        )
    finally:
        os.umask(before)
    assert [stat.S_IMODE((target / name).stat().st_mode) for name in ("d", "d/f", "p", "i")] == [
        0o777,
        0o666,
        0o666,
        0o755,
    ]


def test_set_id_bits_and_capabilities_survive_the_change_of_owner(target: Path) -> None:
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    run(
        target,
        file("su", b"#!", mode=0o6755, uid=1000, gid=1000),
        file(
            "ping", b"data", mode=0o755, uid=1000, xattrs=((b"security.capability", capability), (b"user.note", b"x"))
        ),
        folder("tmp", mode=0o3777, uid=7),
    )
    assert stat.S_IMODE((target / "su").stat().st_mode) == 0o6755
    assert stat.S_IMODE((target / "tmp").stat().st_mode) == 0o3777
    assert os.getxattr(target / "ping", "security.capability") == capability
    assert os.getxattr(target / "ping", "user.note") == b"x"


def test_read_only_directories_can_be_filled_and_keep_their_times(target: Path) -> None:
    run(target, folder("d", mode=0o555, mtime_ns=10**9), folder("d/e", mode=0, mtime_ns=2 * 10**9), file("d/e/f", b"x"))
    assert [(stat.S_IMODE(p.stat().st_mode), p.stat().st_mtime_ns) for p in (target / "d", target / "d/e")] == [
        (0o555, 10**9),
        (0, 2 * 10**9),
    ]


def test_root_entry_describes_the_target(target: Path) -> None:
    run(target, folder("./", mode=0o711, uid=5, mtime_ns=3 * 10**9), file("./f", b""))
    found = target.stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_mtime_ns) == (0o711, 5, 3 * 10**9)


def test_sparse_files_keep_their_holes(target: Path) -> None:
    segments = (Segment(1 << 20, 4), Segment(5 << 20, 0), Segment(8 << 20, 3))
    sparse = Entry(path=b"s", size=16 << 20, stored=7, segments=segments)
    run(target, Member(sparse, b"abcdefg"), Member(Entry(path=b"hole", size=1 << 30, segments=()), b""))
    data = (target / "s").read_bytes()
    assert len(data) == 16 << 20
    assert (data[1 << 20 : (1 << 20) + 4], data[8 << 20 : (8 << 20) + 3]) == (b"abcd", b"efg")
    assert data.strip(b"\0") == b"abcd" + bytes((7 << 20) - 4) + b"efg"
    assert (target / "s").stat().st_blocks < 100
    assert (target / "hole").stat().st_size == 1 << 30


@pytest.mark.parametrize(
    "form", ["posix --sparse-version=0.0", "posix --sparse-version=0.1", "posix --sparse-version=1.0", "gnu"]
)
def test_sparse_files_of_gnu_tar(target: Path, tmp_path_factory: pytest.TempPathFactory, form: str) -> None:
    import subprocess

    source = tmp_path_factory.mktemp("source")
    with open(source / "s", "wb") as out:
        for n in range(40):
            out.seek(n * 200_000)
            out.write(b"%d" % n * 5000)
        out.truncate(20_000_000)
    done = subprocess.run(
        ["tar", "-S", *f"--format={form}".split(), "-C", source, "-c", "s"], capture_output=True, check=True
    )
    apply(io.BytesIO(done.stdout), "", target)
    assert (target / "s").read_bytes() == (source / "s").read_bytes()
    assert len(done.stdout) < 8_500_000


def test_long_and_strange_names(target: Path) -> None:
    names = ["a" * 255, "/".join(["d" * 200] * 15), "new\nline", " ", "caf\udce9", "-rf", "\\", "..."]
    run(target, *(file(os.fsencode(name), b"x") for name in names))
    assert all((target / name).read_bytes() == b"x" for name in names)


def test_streams_big_files_through(target: Path) -> None:
    data = random.Random(1).randbytes(5_000_001)
    run(target, file("big", data), file("after", b"x"))
    assert (target / "big").read_bytes() == data


# compression and digest

SAMPLE = b"".join(pack([file(f"f{n}", bytes([n]) * 3000) for n in range(100)]))


@pytest.mark.parametrize(
    ("compression", "data"),
    [
        ("", SAMPLE),
        ("gzip", gzip.compress(SAMPLE)),
        ("gzip", b"".join(gzip.compress(SAMPLE[at : at + 777]) for at in range(0, len(SAMPLE), 777))),
        ("gzip", gzip.compress(SAMPLE) + gzip.compress(b"") + bytes(512)),
        ("zstd", zstd.compress(SAMPLE)),
        ("zstd", zstd.compress(SAMPLE[:5000]) + b"\x50\x2a\x4d\x18\x04\0\0\0skip" + zstd.compress(SAMPLE[5000:])),
        ("gzip", b"".join(compress([SAMPLE], "gzip"))),
        ("zstd", b"".join(compress([SAMPLE[:100], SAMPLE[100:]], "zstd"))),
    ],
    ids=["plain", "gzip", "gzip members", "gzip padded", "zstd", "zstd frames", "our gzip", "our zstd"],
)
def test_decompresses_and_digests(target: Path, compression: str, data: bytes) -> None:
    seen: list[int] = []
    applied = apply(io.BytesIO(data), compression, target, progress=seen.append)
    assert applied.diff_id == "sha256:" + hashlib.sha256(SAMPLE).hexdigest()
    assert (applied.size, applied.entries, applied.read, sum(seen)) == (len(SAMPLE), 100, len(data), len(data))
    assert len(listing(target)) == 100


def test_digest_covers_what_follows_the_end_of_the_archive(target: Path) -> None:
    data = SAMPLE + bytes(3 << 20) + b"trailer"
    assert apply(io.BytesIO(data), "", target).diff_id == "sha256:" + hashlib.sha256(data).hexdigest()


def test_a_source_that_gives_little_at_a_time(target: Path) -> None:
    class Slow(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(min(size or 1, 1000))

    assert apply(Slow(gzip.compress(SAMPLE)), "gzip", target).entries == 100


def test_compression_is_deterministic() -> None:
    for compression in ("gzip", "zstd"):
        assert list(compress([SAMPLE], compression)) == list(compress([SAMPLE], compression))
    assert b"".join(compress([SAMPLE], "gzip"))[4:8] == bytes(4)  # no time


@pytest.mark.parametrize(
    ("compression", "data", "message"),
    [
        ("gzip", b"<html>not found</html>", "not valid gzip"),
        ("gzip", gzip.compress(SAMPLE)[:-20], "not valid gzip"),
        ("gzip", gzip.compress(SAMPLE) + b"garbage", "not valid gzip"),
        ("gzip", gzip.compress(SAMPLE)[:-8] + bytes(8), "not valid gzip"),
        ("gzip", gzip.compress(SAMPLE)[:60] + b"\xff" * 50 + gzip.compress(SAMPLE)[110:], "not valid gzip"),
        ("zstd", zstd.compress(SAMPLE)[:-20], "not valid zstd"),
        ("zstd", b"nothing at all", "not valid zstd"),
        ("", gzip.compress(SAMPLE), "checksum|truncated"),
        ("", SAMPLE[:1000], "truncated"),
        ("xz", SAMPLE, "'xz' is not known"),
    ],
)
def test_refuses_damaged_streams(target: Path, compression: str, data: bytes, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message) as caught:
        apply(io.BytesIO(data), compression, target)
    assert "\n" not in str(caught.value)


def test_errors_of_the_source_come_through(target: Path) -> None:
    class Cut(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            data = super().read(min(size or 1, 4096))
            if not data:
                raise ConnectionResetError("cut")
            return data

    for compression, data in (("", SAMPLE), ("gzip", gzip.compress(SAMPLE)[:-9]), ("zstd", zstd.compress(SAMPLE)[:-9])):
        with pytest.raises(ConnectionResetError):
            apply(Cut(data), compression, target)


# names that try to leave


@pytest.mark.parametrize("path", ["../evil", "a/../../evil", "..", "./..", "/../evil", "a/.."])
def test_refuses_dot_dot(target: Path, path: str) -> None:
    with pytest.raises(InvalidArgument, match=r"layer entry '.*path has '\.\.'"):
        run(target, file(path, b"x"))
    assert listing(target) == []


def test_absolute_paths_start_at_the_root_of_the_layer(target: Path) -> None:
    run(target, file("//etc//./evil", b"x"), folder("/"))
    assert listing(target) == ["etc", "etc/evil"]


@pytest.mark.parametrize("link", ["/", "/x/../..", "../../../../..", "."])
def test_symlinked_parents_are_followed_inside_the_root(target: Path, link: str) -> None:
    run(target, symlink("out", link), file("out/etc/evil", b"x"))
    assert (target / "etc/evil").read_bytes() == b"x"


def test_symlinks_to_absolute_paths_stay_inside(target: Path, tmp_path: Path) -> None:
    outside = str(tmp_path).lstrip("/")
    run(
        target,
        symlink("a", str(tmp_path)),
        symlink("b", "a/../" + tmp_path.name),
        file("a/secret", b"in"),
        file("b/two", b"in"),
    )
    assert (target / outside / "secret").read_bytes() == b"in"
    assert (target / outside / "two").read_bytes() == b"in"


def test_symlink_loops_are_an_error(target: Path) -> None:
    with pytest.raises(InvalidArgument, match="layer entry 'a/x': too many levels of symbolic links"):
        run(target, symlink("a", "b"), symlink("b", "a"), file("a/x", b""))


def test_never_writes_through_a_symlink_in_the_last_component(target: Path, tmp_path: Path) -> None:
    for kind in (file("s", b"new"), folder("s"), entry("s", tar.FIFO), symlink("s", "x"), hardlink("s", "other")):
        run(target, file("other", b""), symlink("s", str(tmp_path / "secret")), kind)
        assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o644


def test_a_directory_replaced_by_a_symlink_does_not_redirect_what_follows(target: Path, tmp_path: Path) -> None:
    run(target, folder("d", mode=0o700), file("d/f", b"1"), symlink("d", str(tmp_path)), file("d/secret", b"in"))
    assert (target / str(tmp_path).lstrip("/") / "secret").read_bytes() == b"in"
    assert (target / "d").is_symlink()


def test_a_symlink_replaced_by_a_directory_is_forgotten(target: Path) -> None:
    run(target, folder("real"), symlink("l", "real"), file("l/a", b""), folder("l"), file("l/b", b""))
    assert listing(target) == ["l", "l/b", "real", "real/a"]


def test_refuses_a_file_as_parent(target: Path) -> None:
    with pytest.raises(InvalidArgument, match="layer entry 'f/x': its parent 'f' is not a directory"):
        run(target, file("f", b""), file("f/x", b""))


@pytest.mark.parametrize("link", ["../secret", "/../secret", "a/../../secret"])
def test_refuses_hard_links_with_dot_dot(target: Path, link: str) -> None:
    with pytest.raises(InvalidArgument, match="path has"):
        run(target, hardlink("h", link))


def test_refuses_hard_links_to_what_is_not_there(target: Path, tmp_path: Path) -> None:
    for link in (str(tmp_path / "secret"), "lower/file", "", "/"):
        with pytest.raises(InvalidArgument, match="hard link target"):
            run(target, hardlink("h", link))


def test_hard_links_through_symlinked_parents_stay_inside(target: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="is not in this layer"):
        run(target, symlink("s", str(tmp_path)), hardlink("h", "s/secret"))


def test_a_hard_link_to_a_symlink_links_the_symlink(target: Path, tmp_path: Path) -> None:
    run(target, symlink("s", str(tmp_path / "secret")), hardlink("h", "s"))
    assert (target / "h").lstat().st_ino == (target / "s").lstat().st_ino


def test_refuses_a_hard_link_to_itself_and_to_a_directory(target: Path) -> None:
    with pytest.raises(InvalidArgument, match="hard link to itself"):
        run(target, file("f", b""), hardlink("f", "./f"))
    with pytest.raises(InvalidArgument, match="is a directory"):
        run(target, folder("d"), hardlink("h", "d"))


@pytest.mark.parametrize("name", [".wh.", ".wh..", ".wh...", "d/.wh..."])
@pytest.mark.parametrize("form", list(WhiteoutFormat))
def test_refuses_whiteouts_of_no_name(target: Path, name: str, form: WhiteoutFormat) -> None:
    with pytest.raises(InvalidArgument, match="whiteout of no name"):
        run(target, file(name, b""), whiteouts=form)


def test_refuses_anything_but_a_directory_as_the_root(target: Path) -> None:
    with pytest.raises(InvalidArgument, match="can't take the place of the root"):
        run(target, symlink("./", "/etc"))


# later entries win


def test_later_entries_win(target: Path) -> None:
    everything = [
        file("x", b"old" * 100),
        folder("x"),
        file("x/inside/deep", b""),
        symlink("x", "y"),
        entry("x", tar.FIFO),
        file("x", b"new", mode=0o600),
    ]
    run(target, *everything)
    assert ((target / "x").read_bytes(), listing(target)) == (b"new", ["x"])


def test_a_file_written_twice_does_not_change_its_hard_links(target: Path) -> None:
    run(target, file("a", b"1"), hardlink("b", "a"), file("a", b"2"), hardlink("c", "a"), hardlink("c", "a"))
    assert [(target / name).read_bytes() for name in "abc"] == [b"2", b"1", b"2"]


def test_a_directory_described_twice_keeps_its_contents(target: Path) -> None:
    run(
        target,
        folder("d", xattrs=((b"user.a", b"1"),)),
        file("d/f", b""),
        folder("d", mode=0o700, xattrs=((b"user.b", b"2"),)),
    )
    assert listing(target) == ["d", "d/f"]
    assert os.listxattr(target / "d") == ["user.b"]
    assert stat.S_IMODE((target / "d").stat().st_mode) == 0o700


# attributes, owners, devices


def test_marks_of_overlayfs_and_labels_are_never_taken_from_a_layer(target: Path) -> None:
    marks = (
        (b"trusted.overlay.redirect", b"/etc"),
        (b"user.overlay.opaque", b"y"),
        (b"security.selinux", b"x"),
        (b"user.ok", b"1"),
    )
    run(target, folder("d", xattrs=marks), file("f", b"", xattrs=marks))
    assert os.listxattr(target / "d") == os.listxattr(target / "f") == ["user.ok"]


def test_reports_attributes_that_can_not_be_held(target: Path) -> None:
    applied = run(target, symlink("s", "t", xattrs=((b"user.x", b"1"),)))
    assert applied.warnings == ("layer entry 's': attribute 'user.x' is lost: operation not permitted",)


def test_refuses_devices_where_they_are_not_allowed(target: Path) -> None:
    with pytest.raises(PermissionDenied, match="layer entry 'dev/sda': a block device is not allowed here"):
        run(target, entry("dev/sda", tar.BLOCKDEV, major=8), limits=Limits(devices=False))
    run(target, entry("pipe", tar.FIFO), limits=Limits(devices=False))


def test_refuses_an_overlay_mark_disguised_as_a_device(target: Path) -> None:
    with pytest.raises(InvalidArgument, match="character device 0:0"):
        run(target, entry("etc", tar.CHAR))
    removing(target, entry("etc", tar.CHAR))


@pytest.mark.parametrize("number", [1 << 12, 1 << 32, 1 << 62])
def test_refuses_device_numbers_out_of_range(target: Path, number: int) -> None:
    with pytest.raises(InvalidArgument, match="out of range"):
        run(target, entry("x", tar.CHAR, major=number))


def test_shifts_owners(target: Path) -> None:
    ranges = (IdRange(0, 100_000, 1), IdRange(1, 200_000, 65_535))
    run(target, file("a", b"", uid=0, gid=65_535), ownership=Ownership(uids=ranges, gids=ranges))
    assert ((target / "a").stat().st_uid, (target / "a").stat().st_gid) == (100_000, 265_534)
    with pytest.raises(InvalidArgument, match="layer entry 'b': uid 65536 is not mapped"):
        run(target, file("b", b"", uid=65_536), ownership=Ownership(uids=ranges))


def test_implied_directories_are_shifted_too(target: Path) -> None:
    run(target, file("i/a", b""), ownership=Ownership(uids=(IdRange(0, 700, 9),), gids=(IdRange(0, 800, 9),)))
    assert ((target / "i").stat().st_uid, (target / "i").stat().st_gid) == (700, 800)


def test_unprivileged_user_applies_what_is_possible(target: Path) -> None:
    os.chown(target, 65534, 65534)
    root = os.open(target, os.O_RDONLY)
    data = [
        folder("d", mode=0o555),
        file("d/f", b"x", mode=0o444, uid=9),
        file("d/.wh.gone", b""),
        symlink("s", "d"),
        hardlink("d/h", "s/f"),
    ]
    os.setegid(65534)
    os.seteuid(65534)
    try:
        apply(io.BytesIO(b"".join(pack(data))), "", root, WhiteoutFormat.OVERLAY_USER, ownership=Ownership(keep=False))
        with pytest.raises(PermissionDenied, match="layer entry 'x': operation not permitted"):
            apply(io.BytesIO(b"".join(pack([file("x", b"", uid=1)]))), "", root, WhiteoutFormat.OVERLAY_USER)
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.close(root)
    assert stat.S_IMODE((target / "d").stat().st_mode) == 0o555
    assert (target / "d/f").stat().st_uid == 65534
    assert is_whiteout(target / "d/gone")


def test_can_leave_everything_to_the_caller(target: Path) -> None:
    run(
        target,
        file("a", b"", uid=5, gid=6),
        folder("d", uid=7),
        symlink("s", "a", uid=8),
        ownership=Ownership(keep=False),
    )
    assert {path.lstat().st_uid for path in target.iterdir()} == {0}


@pytest.mark.parametrize("uid", [1 << 32, (1 << 32) - 1])
def test_refuses_owners_beyond_32_bits(target: Path, uid: int) -> None:
    with pytest.raises(InvalidArgument, match="beyond 32 bits"):
        run(target, file("a", b"", uid=uid))


# limits


def test_limits_the_number_of_entries(target: Path) -> None:
    with pytest.raises(ResourceExhausted, match="more than the limit of 10 entries"):
        run(target, *(file("same", b"") for _ in range(11)), limits=Limits(max_entries=10))


def test_limits_the_size(target: Path) -> None:
    with pytest.raises(ResourceExhausted, match="more than the limit of 1048576 bytes"):
        run(target, file("big", bytes(2 << 20)), limits=Limits(max_size=1 << 20))
    with pytest.raises(ResourceExhausted, match="layer entry 'hole': files of the layer hold more"):
        run(target, Member(Entry(path=b"hole", size=1 << 60, segments=()), b""), limits=Limits(max_size=1 << 40))


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_refuses_decompression_bombs(target: Path, compression: str) -> None:
    bomb = b"".join(compress(pack([file("zero", bytes(64 << 20))]), compression))
    with pytest.raises(ResourceExhausted, match="bomb"):
        apply(io.BytesIO(bomb), compression, target, limits=Limits(ratio_floor=16 << 20))
    applied = apply(io.BytesIO(bomb), compression, target)  # small enough to be a plain file of zeros
    assert applied.entries == 1


def test_limits_depth_and_length_of_paths(target: Path) -> None:
    with pytest.raises(ResourceExhausted, match="deeper than the limit of 256"):
        run(target, file("/".join("d" * 257), b""))
    run(target, file("/".join("d" * 256), b""))
    with pytest.raises(InvalidArgument, match="path of 5000 bytes"):
        run(target, file("a/" * 2499 + "aa", b""))
    with pytest.raises(InvalidArgument, match="file name too long"):
        run(target, file("a" * 256, b""))


def test_limits_depth_that_symlinks_make(target: Path) -> None:
    long = "/".join("d" * 200)
    with pytest.raises(ResourceExhausted, match="deeper than the limit of 256"):
        run(
            target,
            file(f"{long}/f", b""),
            symlink(f"{long}/s", long),
            file(f"{long}/s/x", b""),
            symlink("r", f"{long}/e/{long}"),
            file("r/f", b""),
        )


@pytest.mark.parametrize("form", list(WhiteoutFormat))
def test_limits_memory_for_names(target: Path, form: WhiteoutFormat) -> None:
    with pytest.raises(ResourceExhausted, match="names of directories take more than the limit of 20000"):
        run(target, *(folder(f"{n}" + "x" * 200) for n in range(100)), limits=Limits(max_names=20_000), whiteouts=form)
    with pytest.raises(ResourceExhausted, match="names of directories"):
        run(target, *(file(f"{n}/f", b"") for n in range(1000)), limits=Limits(max_names=20_000), whiteouts=form)


def test_limits_attributes_and_headers(target: Path) -> None:
    for limits in (Limits(max_xattrs=1000), Limits(max_pax=1000)):
        with pytest.raises(InvalidArgument, match="the limit of 1000"):
            run(target, file("a", b"", xattrs=((b"user.a", bytes(2000)),)), limits=limits)


def test_a_full_disk_is_a_clear_error(tmp_path: Path) -> None:
    import subprocess

    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=100", "tmpfs", small], check=True)
    try:
        with pytest.raises(ResourceExhausted, match="layer entry 'big': no space left on device"):
            run(small, file("big", random.Random(1).randbytes(3 << 20)))
        with pytest.raises(ResourceExhausted, match="no space left on device"):
            run(small, *(file(f"i{n}", b"") for n in range(200)))
    finally:
        subprocess.run(["umount", small], check=True)


def test_names_are_escaped_in_messages(target: Path) -> None:
    with pytest.raises(InvalidArgument) as caught:
        run(target, hardlink("bad\n\x1b[31m\udcff", "x\ny"))
    assert str(caught.value) == r"layer entry 'bad\n\x1b[31m\udcff': hard link target 'x\ny' is not in this layer"


# whiteouts on overlayfs


@pytest.mark.parametrize(
    ("form", "attribute"),
    [(WhiteoutFormat.OVERLAY, "trusted.overlay.opaque"), (WhiteoutFormat.OVERLAY_USER, "user.overlay.opaque")],
)
def test_overlay_whiteouts(target: Path, form: WhiteoutFormat, attribute: str) -> None:
    run(target, file("etc/.wh.gone", b""), folder("d"), file("d/.wh..wh..opq", b""), file("d/new", b""), whiteouts=form)
    assert is_whiteout(target / "etc/gone")
    assert os.getxattr(target / "d", attribute) == b"y"
    assert listing(target) == ["d", "d/new", "etc", "etc/gone"]


def test_overlay_whiteouts_hide_lower_layers_only(target: Path) -> None:
    run(
        target,
        *(folder("a"), file("a/f", b""), file(".wh.a", b"")),
        *(file(".wh.b", b""), folder("b"), file("b/f", b"")),
        *(file(".wh.c", b""), file("c/f", b"")),
        *(file("x", b"1"), file(".wh.x", b"")),
        *(file(".wh.y", b""), file("y", b"2")),
    )
    for name in "abc":
        assert os.getxattr(target / name, "trusted.overlay.opaque") == b"y"
    assert [(target / name).read_bytes() for name in "xy"] == [b"1", b"2"]
    assert listing(target) == ["a", "a/f", "b", "b/f", "c", "c/f", "x", "y"]


def test_opaque_mark_stays_when_the_directory_is_described_after_it(target: Path) -> None:
    run(target, file("d/.wh..wh..opq", b""), folder("d", mode=0o700, xattrs=((b"user.a", b"1"),)))
    assert sorted(os.listxattr(target / "d")) == ["trusted.overlay.opaque", "user.a"]


def test_aufs_bookkeeping_is_skipped(target: Path) -> None:
    run(target, file(".wh..wh.aufs", b"x"), folder(".wh..wh.plnk"), file(".wh..wh.plnk/1.2", b"x"), file("f", b""))
    assert listing(target) == ["f"]


def test_refuses_a_hard_link_to_a_whiteout(target: Path) -> None:
    with pytest.raises(InvalidArgument, match="is not in this layer"):
        run(target, file(".wh.f", b""), hardlink("h", "f"))


# whiteouts on a copy of the lower layers


def lower(root: Path) -> None:
    removing(root, file("etc/a", b"1"), file("etc/b", b"2"), folder("d"), file("d/deep/f", b"3"), symlink("s", "etc"))


def test_removing_whiteouts(target: Path) -> None:
    lower(target)
    removing(
        target,
        file("etc/.wh.a", b""),
        file(".wh.d", b""),
        file(".wh.never", b""),
        file("no/.wh.where", b""),
        file("s/.wh.b", b""),
    )
    assert listing(target) == ["etc", "s"]


def test_removing_spares_what_the_layer_itself_adds(target: Path) -> None:
    lower(target)
    removing(
        target,
        *(file("etc/a", b"new"), file("etc/.wh..wh..opq", b"")),
        *(file("d/mine", b""), file(".wh.d", b"")),
    )
    assert listing(target) == ["d", "d/mine", "etc", "etc/a", "s"]


def test_removing_never_leaves_the_root(target: Path, tmp_path: Path) -> None:
    removing(target, symlink("out", str(tmp_path)), symlink("up", "../.."))
    removing(target, file("out/.wh.secret", b""), file("up/.wh..wh..opq", b""), file(".wh.out", b""))
    assert (tmp_path / "secret").exists()


# directories without an entry


def test_implied_directories_inherit_from_the_nearest_lower_layer(tmp_path: Path) -> None:
    one, two, three = tmp_path / "1", tmp_path / "2", tmp_path / "3"
    run(
        one,
        folder("usr", mode=0o700, uid=9),
        folder("usr/bin", mode=0o711, uid=5, mtime_ns=7 * 10**9, xattrs=((b"user.a", b"1"),)),
        symlink("lib", "usr"),
    )
    run(two, folder(".", mode=0o701), folder("usr", mode=0o750, gid=8, mtime_ns=3 * 10**9))
    applied = run(three, file("usr/bin/new", b""), file("lib/x", b""), folder("own", mode=0o123), file("own/f", b""))
    assert applied.implied == (b"", b"usr", b"usr/bin", b"lib")
    inherit(three, applied.implied, [two, one])
    assert stat.S_IMODE(three.stat().st_mode) == 0o701
    usr, bin_, lib = ((three / name).stat() for name in ("usr", "usr/bin", "lib"))
    assert (stat.S_IMODE(usr.st_mode), usr.st_uid, usr.st_gid, usr.st_mtime_ns) == (0o750, 0, 8, 3 * 10**9)
    assert (stat.S_IMODE(bin_.st_mode), bin_.st_uid, bin_.st_mtime_ns) == (0o711, 5, 7 * 10**9)
    assert os.getxattr(three / "usr/bin", "user.a") == b"1"
    assert stat.S_IMODE(lib.st_mode) == 0o755


# anything at all

hostile_names = st.sampled_from(
    [
        b"a",
        b"b",
        b"a/b",
        b"b/a",
        b"a/b/c",
        b"./a",
        b"/b",
        b"..",
        b"a/..",
        b".",
        b".wh.a",
        b"a/.wh.b",
        b"a/.wh..wh..opq",
        b".wh...",
    ]
)
hostile_links = hostile_names | st.sampled_from([b"/", b"../..", b"../../secret", b"/secret", b"a/../../secret", b""])
hostile = st.builds(
    lambda path, kind, link, data: Member(
        Entry(path=path, kind=kind, link=link, major=1, minor=3, size=len(data), stored=len(data))
        if kind is tar.FILE
        else Entry(path=path, kind=kind, link=link, major=1, minor=3),
        data if kind is tar.FILE else b"",
    ),
    hostile_names,
    st.sampled_from([tar.FILE, tar.DIRECTORY, tar.SYMLINK, tar.SYMLINK, tar.HARDLINK, tar.FIFO, tar.CHAR]),
    hostile_links,
    st.binary(max_size=20),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(hostile, max_size=12), st.sampled_from(list(WhiteoutFormat)))
def test_no_sequence_of_entries_leaves_the_root(tmp_path: Path, members: list[Member], form: WhiteoutFormat) -> None:
    import shutil

    target = tmp_path / "root"
    target.mkdir(exist_ok=True)
    (tmp_path / "secret").write_text("outside")
    before = (tmp_path / "secret").stat()
    try:
        run(target, *members, whiteouts=form)
    except (InvalidArgument, PermissionDenied, Unimplemented):
        pass
    assert sorted(os.listdir(tmp_path)) == ["root", "secret"]
    assert (tmp_path / "secret").stat() == before
    assert open_below(tmp_path) == []
    shutil.rmtree(target)


def test_same_tree_as_the_standard_library(target: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        archive.add(os.path.dirname(tarfile.__file__) + "/email", "email")
    other = tmp_path_factory.mktemp("other")
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as archive:
        archive.extractall(other)
    apply(io.BytesIO(out.getvalue()), "gzip", target)

    def facts(root: Path) -> list[tuple[Any, ...]]:
        found = [(p, p.lstat()) for p in sorted(root.rglob("*"))]
        return [
            (p.relative_to(root), s.st_mode, s.st_uid, s.st_gid, s.st_mtime_ns // 10**6, p.is_file() and p.read_bytes())
            for p, s in found
        ]

    assert facts(target) == facts(other)
