"""The tar codec against the standard library's, against itself, and against hostile archives."""

from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orlop.spec.errors import InvalidArgument, OrlopError, Unimplemented
from orlop.wire import tar
from orlop.wire.tar_encode import encode, padding
from orlop.wire.tar_pax import format_record, format_time, parse_records, parse_time


def read(data: bytes, step: int = 0, limits: tar.HeaderLimits | None = None) -> list[tuple[tar.Entry, bytes]]:
    """All entries with their stored contents, fed `step` bytes at a time."""
    decoder = tar.Decoder(limits)
    pieces = [data[at : at + step] for at in range(0, len(data), step)] if step else [data]
    found: list[tuple[tar.Entry, bytes]] = []

    def drain() -> None:
        while True:
            while decoder.remaining and (piece := decoder.take()):
                found[-1] = (found[-1][0], found[-1][1] + bytes(piece))
            if decoder.remaining:
                return
            entry = decoder.next_entry()
            if not isinstance(entry, tar.Entry):
                return
            found.append((entry, b""))

    for piece in pieces:
        decoder.feed(piece)
        drain()
    decoder.close()
    drain()
    return found


def archive(*members: tuple[tar.Entry, bytes]) -> bytes:
    return b"".join(encode(e) + data + padding(len(data)) for e, data in members) + tar.END_OF_ARCHIVE


def header(name: bytes = b"f", flag: bytes = b"0", size: bytes = b"0", **at: tuple[int, bytes]) -> bytes:
    """A header block by hand; `at` overrides bytes: name=(offset, bytes)."""
    block = bytearray(512)
    block[: len(name)] = name
    block[100:108] = b"0000644\0"
    block[124 : 124 + len(size)] = size
    block[156:157] = flag
    block[257:265] = b"ustar\x0000"
    for offset, data in at.values():
        block[offset : offset + len(data)] = data
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def pax(*records: tuple[bytes, bytes], flag: bytes = b"x") -> bytes:
    body = b"".join(format_record(*record) for record in records)
    return header(b"pax", flag, b"%o" % len(body)) + body + padding(len(body))


component = st.binary(min_size=1, max_size=60).filter(lambda b: not set(b) & {0, 0x2F} and b not in (b".", b".."))
paths = st.lists(component, min_size=1, max_size=6).map(b"/".join)
kinds = st.sampled_from([tar.FILE, tar.HARDLINK, tar.SYMLINK, tar.CHAR, tar.BLOCKDEV, tar.DIRECTORY, tar.FIFO])
big = st.integers(0, (1 << 32) - 2)


@st.composite
def members(draw: st.DrawFn) -> tuple[tar.Entry, bytes]:
    kind = draw(kinds)
    data = draw(st.binary(max_size=1500)) if kind is tar.FILE else b""
    segments = None
    size = len(data)
    if kind is tar.FILE and draw(st.booleans()):
        segments, size = draw(sparse_maps(len(data)))
    device = kind in (tar.CHAR, tar.BLOCKDEV)
    entry = tar.Entry(
        path=draw(paths) + (b"/" if kind is tar.DIRECTORY else b""),
        kind=kind,
        mode=draw(st.integers(0, 0o7777)),
        uid=draw(big),
        gid=draw(big),
        size=size,
        stored=len(data),
        mtime_ns=draw(st.integers(-(10**19), 10**19)),
        atime_ns=draw(st.none() | st.integers(-(10**19), 10**19)),
        link=draw(paths) if kind in (tar.HARDLINK, tar.SYMLINK) else b"",
        major=draw(big) if device else 0,
        minor=draw(big) if device else 0,
        uname=draw(component | st.just(b"")),
        gname=draw(component | st.just(b"")),
        xattrs=tuple(
            draw(
                st.dictionaries(
                    component.filter(lambda b: b"=" not in b), st.binary(min_size=1, max_size=99), max_size=3
                )
            ).items()
        ),
        segments=segments,
    )
    return entry, data


@st.composite
def sparse_maps(draw: st.DrawFn, stored: int) -> tuple[tuple[tar.Segment, ...], int]:
    cuts = sorted(draw(st.lists(st.integers(0, stored), max_size=5)))
    lengths = [b - a for a, b in zip([0, *cuts], [*cuts, stored], strict=True)]
    found, at = [], 0
    for length in lengths:
        at += draw(st.integers(0, 1 << 40))
        found.append(tar.Segment(at, length))
        at += length
    return tuple(found), at + draw(st.integers(0, 1 << 40))


def normal(entry: tar.Entry) -> tar.Entry:
    import msgspec

    return msgspec.structs.replace(entry, xattrs=tuple(sorted(entry.xattrs)))


@settings(max_examples=150, deadline=None)
@given(st.lists(members(), max_size=4), st.sampled_from([0, 1000, 512, 77]))
def test_reads_back_what_it_writes(items: list[tuple[tar.Entry, bytes]], step: int) -> None:
    found = read(archive(*items), step)
    assert [(normal(e), data) for e, data in found] == [(normal(e), data) for e, data in items]


@settings(max_examples=100, deadline=None)
@given(st.lists(members(), max_size=3))
def test_tarfile_reads_what_we_write(items: list[tuple[tar.Entry, bytes]]) -> None:
    items = [(e, data) for e, data in items if e.mtime_ns % 10**9 == 0 or e.mtime_ns >= 0]
    with tarfile.open(fileobj=io.BytesIO(archive(*items)), encoding="utf-8", errors="surrogateescape") as stdlib:
        found = stdlib.getmembers()
    assert [f.name.encode("utf-8", "surrogateescape") for f in found] == [e.path.rstrip(b"/") for e, _ in items]
    for info, (entry, _) in zip(found, items, strict=True):
        assert (info.mode, info.uid, info.gid, info.size) == (entry.mode, entry.uid, entry.gid, entry.size)
        assert info.linkname.encode("utf-8", "surrogateescape") == entry.link


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.text(st.characters(codec="utf-8", exclude_characters="\0/\n"), min_size=1, max_size=150),
            st.binary(max_size=2000),
        ),
        max_size=4,
    ),
    st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    st.integers(0, 0o7777),
    big,
    st.integers(0, 1 << 40),
)
def test_reads_what_tarfile_writes(files: list[tuple[str, bytes]], form: int, mode: int, uid: int, mtime: int) -> None:
    out, expected = io.BytesIO(), []
    with tarfile.open(fileobj=out, mode="w", format=form, encoding="utf-8") as stdlib:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.uid, info.gid, info.mtime = len(data), mode, uid, uid, mtime
            try:
                stdlib.addfile(info, io.BytesIO(data))
            except ValueError:
                continue  # ustar can't hold it
            expected.append((name.encode(), data, mode, uid, mtime * 10**9))
    assert [(e.path, d, e.mode, e.uid, e.mtime_ns) for e, d in read(out.getvalue())] == expected


@settings(max_examples=300, deadline=None)
@given(st.lists(members(), min_size=1, max_size=3), st.data())
def test_damage_never_gets_past_the_errors(items: list[tuple[tar.Entry, bytes]], data: st.DataObject) -> None:
    damaged = bytearray(archive(*items))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        read(bytes(damaged[: data.draw(st.integers(0, len(damaged)))]), data.draw(st.sampled_from([0, 300])))
    except OrlopError:
        pass


@given(st.binary(max_size=2048))
def test_noise_never_gets_past_the_errors(noise: bytes) -> None:
    try:
        read(noise)
    except OrlopError:
        pass


def test_old_gnu_sparse_with_extension_blocks() -> None:
    pairs = [(4096 * 2 * n, 1) for n in range(27)]

    def block(some: list[tuple[int, int]]) -> bytes:
        return b"".join(b"%011o\0%011o\0" % pair for pair in some)

    first = header(
        flag=b"S",
        size=b"%o" % 27,
        magic=(257, b"ustar  \0"),
        map=(386, block(pairs[:4])),
        more=(482, b"\1"),
        real=(483, b"%011o\0" % 1_000_000),
    )
    second = block(pairs[4:25]) + b"\1" + bytes(7)
    third = block(pairs[25:]).ljust(512, b"\0")
    data = first + second + third + bytes(range(27)).ljust(512, b"\0") + tar.END_OF_ARCHIVE
    for step in (0, 100):
        ((entry, stored),) = read(data, step)
        assert entry.segments == tuple(pairs)
        assert (entry.size, entry.stored, stored) == (1_000_000, 27, bytes(range(27)))


@pytest.mark.parametrize(
    "records",
    [
        [
            (b"GNU.sparse.size", b"100"),
            (b"GNU.sparse.numblocks", b"2"),
            (b"GNU.sparse.offset", b"10"),
            (b"GNU.sparse.numbytes", b"2"),
            (b"GNU.sparse.offset", b"50"),
            (b"GNU.sparse.numbytes", b"1"),
            (b"path", b"real"),
        ],
        [(b"GNU.sparse.size", b"100"), (b"GNU.sparse.map", b"10,2,50,1"), (b"GNU.sparse.name", b"real")],
    ],
    ids=["0.0", "0.1"],
)
def test_pax_sparse_in_records(records: list[tuple[bytes, bytes]]) -> None:
    data = pax(*records) + header(b"GNUSparseFile.1/real", size=b"3") + b"abc".ljust(512, b"\0") + tar.END_OF_ARCHIVE
    ((entry, stored),) = read(data)
    assert (entry.path, entry.size, entry.segments, stored) == (b"real", 100, ((10, 2), (50, 1)), b"abc")


def test_global_header_sets_defaults_that_a_local_one_overrides() -> None:
    data = (
        pax((b"uid", b"7"), (b"gid", b"8"), flag=b"g")
        + pax((b"uid", b"9"))
        + header(b"a")
        + header(b"b")
        + pax((b"uid", b""))
        + header(b"c")
        + tar.END_OF_ARCHIVE
    )
    assert [(e.path, e.uid, e.gid) for e, _ in read(data)] == [(b"a", 9, 8), (b"b", 7, 8), (b"c", 0, 8)]


def test_binary_charset_keeps_names_as_they_are() -> None:
    data = pax((b"hdrcharset", b"BINARY"), (b"path", b"caf\xe9")) + header(b"caf") + tar.END_OF_ARCHIVE
    assert read(data)[0][0].path == b"caf\xe9"


def test_refuses_unknown_charset() -> None:
    with pytest.raises(Unimplemented, match="hdrcharset"):
        read(pax((b"hdrcharset", b"KLINGON")) + header())


def test_ustar_prefix_and_gnu_times_in_its_place() -> None:
    ustar = header(b"name", prefix=(345, b"some/prefix"))
    gnu = header(b"name", magic=(257, b"ustar  \0"), atime=(345, b"14000000000\0"))
    assert [e.path for e, _ in read(ustar + gnu + tar.END_OF_ARCHIVE)] == [b"some/prefix/name", b"name"]


def test_signed_checksums_of_historic_tars() -> None:
    block = bytearray(header(b"caf\xe9"))
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % (sum(block) - 256)
    assert read(bytes(block) + tar.END_OF_ARCHIVE)[0][0].path == b"caf\xe9"


def test_trailing_slash_makes_a_directory_in_old_archives() -> None:
    assert read(header(b"d/", flag=b"\0"))[0][0].kind is tar.DIRECTORY


def test_links_have_no_contents_whatever_their_size_says() -> None:
    data = header(b"l", flag=b"1", size=b"1000", link=(157, b"t")) + header(b"next") + tar.END_OF_ARCHIVE
    assert [e.path for e, _ in read(data)] == [b"l", b"next"]


def test_archive_may_end_without_its_end_marker() -> None:
    assert len(read(header())) == 1
    assert len(read(header() + bytes(512))) == 1
    assert read(header(size=b"3") + b"abc") == [(read(header(size=b"3") + b"abc")[0][0], b"abc")]


def test_padding_after_the_end_is_ignored() -> None:
    assert len(read(header() + tar.END_OF_ARCHIVE + b"anything" * 5000)) == 1


LONG = header(b"././@LongLink", b"L", b"%o" % 5000) + b"a" * 5000 + padding(5000) + header()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"x" * 512, "checksum"),
        (header()[:511] + b"\1", "checksum"),
        (header()[:300], "truncated in a header"),
        (header(size=b"1000") + b"short", "truncated in file contents"),
        (pax((b"uid", b"1")), "truncated after an extended header"),
        (pax((b"comment", b"x" * 600))[:1024], "truncated in an extended header"),
        (header(size=b"\xff" + b"\xff" * 11), "size is negative"),
        (header(size=b"\x80" + b"\xff" * 11), "size is beyond 64 bits"),
        (header(size=b"-1"), "size field"),
        (header(size=b"0o17"), "size field"),
        (header(size=b"1_0"), "size field"),
        (header(size=b"9"), "size field"),
        (pax((b"size", b"-5")) + header(), "size is b'-5'"),
        (pax((b"size", b"9" * 30)) + header(), "size is"),
        (pax((b"uid", b"1e3")) + header(), "uid is"),
        (pax((b"mtime", b"yesterday")) + header(), "time"),
        (pax((b"mtime", b"9" * 19)) + header(), "time"),
        (pax((b"path", b"a\0b")) + header(), "NUL"),
        (pax((b"path", b"a" * 5000)) + header(), "path of 5000 bytes"),
        (LONG, "extended header of 5000 bytes"),
        (header(b"x", b"x", b"77777777777"), "over the limit"),
        (header(b"x", b"x", b"3") + b"abc".ljust(512, b"\0") + header(), "pax record"),
        (header(b"x", b"x", b"10") + b"99 a=b\n".ljust(512, b"\0") + header(), "pax record"),
        (pax((b"SCHILY.xattr.user.a", b"v" * (1 << 20))) + header(), "over the limit"),
        (header() + bytes(512) + header(), "single zero block"),
        (
            pax((b"GNU.sparse.size", b"10"), (b"GNU.sparse.map", b"5,2,4,1")) + header(size=b"3") + bytes(512),
            "out of order",
        ),
        (
            pax((b"GNU.sparse.size", b"10"), (b"GNU.sparse.map", b"5,2,8,4")) + header(size=b"6") + bytes(512),
            "beyond the file",
        ),
        (
            pax((b"GNU.sparse.size", b"10"), (b"GNU.sparse.map", b"5,2")) + header(size=b"3") + bytes(512),
            "covers 2 bytes",
        ),
        (pax((b"GNU.sparse.size", b"10"), (b"GNU.sparse.map", b"5")) + header(size=b"3") + bytes(512), "odd number"),
        (pax((b"GNU.sparse.size", b"10"), (b"GNU.sparse.map", b"a,b")) + header(), "sparse map holds"),
        (
            pax((b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.realsize", b"9"))
            + header(size=b"1000")
            + b"99\n0\n0\n".ljust(512, b"\0"),
            "sparse map",
        ),
    ],
)
def test_refuses_malformed_archives(data: bytes, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message) as caught:
        read(data)
    assert "\n" not in str(caught.value)


def test_refuses_unknown_entry_types_by_name() -> None:
    with pytest.raises(Unimplemented, match=r"b'vol'.*'M'"):
        read(header(b"vol", flag=b"M"))


def test_endless_global_headers_are_bounded() -> None:
    data = b"".join(pax((b"key%d" % n, b"v" * 9000), flag=b"g") for n in range(200))
    with pytest.raises(InvalidArgument, match="global headers"):
        read(data + header())


@given(st.integers(1 - (1 << 63) * 10**9, (1 << 63) * 10**9 - 1))
def test_times_survive(nanoseconds: int) -> None:
    assert parse_time(format_time(nanoseconds)) == nanoseconds


@given(
    st.dictionaries(
        st.binary(min_size=1).filter(lambda k: b"=" not in k and b"GNU" not in k and k != b"hdrcharset"), st.binary()
    )
)
def test_records_survive(records: dict[bytes, bytes]) -> None:
    assert parse_records(b"".join(format_record(*item) for item in records.items())) == records
