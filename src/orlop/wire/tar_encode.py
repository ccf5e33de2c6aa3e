"""Write tar headers: ustar, with a pax header before it for whatever ustar can't hold.

The same entry always gives the same bytes: records are sorted, nothing is taken from the clock or the machine.
"""

from __future__ import annotations

from orlop.spec.errors import InvalidArgument
from orlop.wire import tar
from orlop.wire.tar_numbers import octal
from orlop.wire.tar_pax import XATTR, Pax, format_record, format_time

_FLAGS: dict[tar.Kind, bytes] = {
    tar.FILE: b"0",
    tar.HARDLINK: b"1",
    tar.SYMLINK: b"2",
    tar.CHAR: b"3",
    tar.BLOCKDEV: b"4",
    tar.DIRECTORY: b"5",
    tar.FIFO: b"6",
}
_MAX_ID, _MAX_SIZE = 8**7, 8**11  # what fields of 8 and 12 bytes hold in octal
_NAME, _OWNER = 100, 31  # longest path or link target, and user or group name, without pax


def padding(size: int) -> bytes:
    """The zeros that follow `size` bytes of contents."""
    return bytes(-size % tar.BLOCK)


def encode(entry: tar.Entry) -> bytes:
    """The header of an entry. `entry.stored` bytes of contents come after it, then `padding(entry.stored)`. A sparse
    file's map (pax format 1.0) is part of what is returned."""
    path = entry.path
    if entry.kind is tar.DIRECTORY and not path.endswith(b"/"):
        path += b"/"
    if not path or b"\0" in path or b"\0" in entry.link:
        raise InvalidArgument(f"tar: path {path[:160]!r} is empty or holds a NUL byte")
    table = _map_block(entry)
    records = _records(entry, path)
    if records and not _is_text(b"".join(records.values())):
        records[b"hdrcharset"] = b"BINARY"
    extended = b"".join(format_record(key, records[key]) for key in sorted(records, key=_charset_first))
    header = _header(entry, path, entry.stored + len(table))
    if not extended:
        return header + table
    named = tar.Entry(path=b"PaxHeaders/" + _plain(path.strip(b"/").rpartition(b"/")[2])[:80], mode=0o644)
    return _block(named, named.path, b"x", len(extended)) + extended + padding(len(extended)) + header + table


def _charset_first(key: bytes) -> tuple[bool, bytes]:
    return key != b"hdrcharset", key  # it says how to read the records after it


def _records(entry: tar.Entry, path: bytes) -> Pax:
    """What ustar can't say about the entry."""
    sparse = entry.segments is not None
    candidates: tuple[tuple[bytes, bytes, bool], ...] = (
        (b"path", path, not sparse and (len(path) > _NAME or not path.isascii())),
        (b"linkpath", entry.link, len(entry.link) > _NAME or not entry.link.isascii()),
        (b"size", b"%d" % entry.stored, entry.stored >= _MAX_SIZE),
        (b"uid", b"%d" % entry.uid, entry.uid >= _MAX_ID),
        (b"gid", b"%d" % entry.gid, entry.gid >= _MAX_ID),
        (b"mtime", format_time(entry.mtime_ns), _needs_pax_time(entry.mtime_ns)),
        (b"atime", format_time(entry.atime_ns or 0), entry.atime_ns is not None),
        (b"uname", entry.uname, len(entry.uname) > _OWNER or not entry.uname.isascii()),
        (b"gname", entry.gname, len(entry.gname) > _OWNER or not entry.gname.isascii()),
        (b"SCHILY.devmajor", b"%d" % entry.major, entry.major >= _MAX_ID),
        (b"SCHILY.devminor", b"%d" % entry.minor, entry.minor >= _MAX_ID),
        (b"GNU.sparse.major", b"1", sparse),
        (b"GNU.sparse.minor", b"0", sparse),
        (b"GNU.sparse.name", path, sparse),
        (b"GNU.sparse.realsize", b"%d" % entry.size, sparse),
    )
    records = {key: value for key, value, needed in candidates if needed}
    for name, value in entry.xattrs:
        if not name or b"=" in name or b"\0" in name:
            raise InvalidArgument(f"tar: attribute name {name[:80]!r} can't be written")
        records[XATTR + name] = value
    return records


def _needs_pax_time(nanoseconds: int) -> bool:
    return bool(nanoseconds % 1_000_000_000) or not 0 <= nanoseconds // 1_000_000_000 < _MAX_SIZE


def _map_block(entry: tar.Entry) -> bytes:
    if entry.segments is None:
        return b""
    numbers = [len(entry.segments), *(number for segment in entry.segments for number in segment)]
    text = b"".join(b"%d\n" % number for number in numbers)
    return text + padding(len(text))


def _header(entry: tar.Entry, path: bytes, stored: int) -> bytes:
    if entry.segments is not None:
        path = b"GNUSparseFile.0/" + _plain(path)[-80:]
    return _block(entry, path, _FLAGS[entry.kind], stored)


def _block(entry: tar.Entry, path: bytes, flag: bytes, stored: int) -> bytes:
    """One 512-byte header. Values that are in the pax header stand here as far as they fit."""
    seconds = entry.mtime_ns // 1_000_000_000
    device = entry.kind in (tar.CHAR, tar.BLOCKDEV)
    parts = (
        _plain(path)[:_NAME].ljust(100, b"\0"),
        octal(entry.mode & 0o7777, 8),
        octal(_fitting(entry.uid, _MAX_ID), 8),
        octal(_fitting(entry.gid, _MAX_ID), 8),
        octal(_fitting(stored, _MAX_SIZE), 12),
        octal(_fitting(seconds, _MAX_SIZE), 12),
        b" " * 8,
        flag,
        _plain(entry.link)[:_NAME].ljust(100, b"\0"),
        b"ustar\x0000",
        _plain(entry.uname)[:_OWNER].ljust(32, b"\0"),
        _plain(entry.gname)[:_OWNER].ljust(32, b"\0"),
        octal(_fitting(entry.major, _MAX_ID), 8) if device else b"0000000\0",
        octal(_fitting(entry.minor, _MAX_ID), 8) if device else b"0000000\0",
    )
    block = b"".join(parts).ljust(tar.BLOCK, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _fitting(value: int, limit: int) -> int:
    return value if 0 <= value < limit else 0


def _plain(text: bytes) -> bytes:
    return text if text.isascii() else text.decode("ascii", "replace").encode("ascii", "replace")


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
