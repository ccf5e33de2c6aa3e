"""Tar headers, without I/O: ustar, pax, GNU long names, base-256 numbers, GNU and pax sparse files.

`Decoder` takes bytes as they come and gives out entries and their contents; `encode` does the reverse. Names are
bytes, as the kernel's are: a pax header says "UTF-8" and real archives hold anything. Sources: POSIX.1-2017 pax,
"ustar Interchange Format" and "pax Extended Header"; GNU tar manual, "Basic Tar Format" and "Storing Sparse Files".

    decoder = Decoder()
    decoder.feed(data)                  # as often as there is data, then decoder.close()
    entry = decoder.next_entry()        # Entry, NEED_DATA or END
    piece = decoder.take()              # contents of that entry as they lie in the archive; b"" when none is at hand
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from orlop.spec.errors import InvalidArgument, Unimplemented
from orlop.wire.tar_numbers import field_bytes, number
from orlop.wire.tar_pax import Pax, parse_records, parse_time, xattrs_of
from orlop.wire.tar_sparse import Segment, extension, old_map, parse_map_block, pax_map, real_size, validated

BLOCK = 512
END_OF_ARCHIVE = bytes(2 * BLOCK)

FILE: Final = "file"
HARDLINK: Final = "hard link"
SYMLINK: Final = "symlink"
CHAR: Final = "character device"
BLOCKDEV: Final = "block device"
DIRECTORY: Final = "directory"
FIFO: Final = "fifo"
Kind = Literal["file", "hard link", "symlink", "character device", "block device", "directory", "fifo"]

_KINDS: dict[int, Kind] = {
    0: FILE,
    ord("0"): FILE,
    ord("7"): FILE,  # "contiguous file": a regular one everywhere that counts
    ord("1"): HARDLINK,
    ord("2"): SYMLINK,
    ord("3"): CHAR,
    ord("4"): BLOCKDEV,
    ord("5"): DIRECTORY,
    ord("6"): FIFO,
    ord("S"): FILE,  # old GNU sparse
}
# what messages call the header field behind a pax key
_FIELD_OF = {
    key: key.decode().rpartition(".")[2] for key in (b"size", b"uid", b"gid", b"SCHILY.devmajor", b"SCHILY.devminor")
}
_LONG_NAME, _LONG_LINK, _LABEL = ord("L"), ord("K"), ord("V")
_PAX_LOCAL, _PAX_GLOBAL = (ord("x"), ord("X")), ord("g")
_ZEROS = bytes(BLOCK)


class HeaderLimits(msgspec.Struct, frozen=True):
    """What a header may claim, in bytes; more is refused before it is buffered."""

    max_pax: int = 1 << 20
    max_path: int = 4095  # PATH_MAX less the NUL
    max_xattrs: int = 1 << 20


class Entry(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One archive member. `size` is the file's length; `stored` the bytes of contents in the archive, which differ
    where `segments` (sparse) says which ranges are there. Times are nanoseconds since 1970."""

    path: bytes
    kind: Kind = FILE
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    size: int = 0
    stored: int = 0
    mtime_ns: int = 0
    atime_ns: int | None = None
    link: bytes = b""
    major: int = 0
    minor: int = 0
    uname: bytes = b""
    gname: bytes = b""
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    segments: tuple[Segment, ...] | None = None


class _Signal(msgspec.Struct, frozen=True):
    name: str


NEED_DATA: Final = _Signal("need data")
END: Final = _Signal("end of archive")


class Decoder:
    """A push parser for one archive. Raises `InvalidArgument` for anything that is not a well-formed archive."""

    def __init__(self, limits: HeaderLimits | None = None) -> None:
        self._limits = limits or HeaderLimits()
        self._buffer = b""
        self._position = 0
        self._data = 0  # bytes of the current entry's contents not yet taken
        self._padding = 0  # bytes after them up to the next header
        self._global: Pax = {}
        self._local: Pax | None = None
        self._long_name = self._long_link = b""
        self._closed = self._ended = self._zero_seen = False

    @property
    def remaining(self) -> int:
        """Bytes of the current entry's contents that have not been taken yet."""
        return self._data

    def feed(self, data: bytes) -> None:
        """Append bytes of the archive."""
        if self._ended:
            return  # what follows the end marker is padding
        left = self._buffer[self._position :] if self._position < len(self._buffer) else b""
        self._buffer = left + data if left else data
        self._position = 0

    def close(self) -> None:
        """Say that no more bytes will come."""
        self._closed = True

    def take(self) -> memoryview | bytes:
        """The next bytes of the current entry's contents, as many as are at hand; empty when `remaining` is 0 or more
        data must be fed first."""
        size = min(self._data, len(self._buffer) - self._position)
        if size <= 0:
            self._truncated_if_closed(self._data, "file contents")
            return b""
        start = self._position
        self._position = start + size
        self._data -= size
        return memoryview(self._buffer)[start : self._position]

    def next_entry(self) -> Entry | _Signal:
        """The next member, after skipping what is left of the one before."""
        while True:
            if self._ended:
                return END
            if not self._skip():
                return NEED_DATA
            start = self._position
            block = self._buffer[start : start + BLOCK]
            if len(block) < BLOCK:
                return self._short(block)
            if block == _ZEROS:
                self._position += BLOCK
                self._ended = self._zero_seen
                self._zero_seen = True
                continue
            if self._zero_seen:
                raise InvalidArgument("tar: data after a single zero block")
            entry = self._header(block)
            if entry is NEED_DATA:
                return NEED_DATA
            if entry is not None:
                return entry

    def _skip(self) -> bool:
        left = self._data + self._padding
        if not left:
            return True
        size = min(left, len(self._buffer) - self._position)
        self._position += size
        taken = min(self._data, size)
        self._data -= taken
        self._padding -= size - taken
        if size < left:
            # Archives that end right after the last file's bytes, without padding, exist and are harmless.
            self._truncated_if_closed(self._data, "file contents")
            if self._closed:
                self._ended = True
            return self._closed
        return True

    def _short(self, block: bytes) -> _Signal:
        if not self._closed:
            return NEED_DATA
        if block:
            raise InvalidArgument("tar: truncated in a header")
        if self._local is not None or self._long_name or self._long_link:
            raise InvalidArgument("tar: truncated after an extended header")
        self._ended = True
        return END

    def _truncated_if_closed(self, missing: int, where: str) -> None:
        if self._closed and missing:
            raise InvalidArgument(f"tar: truncated in {where}, {missing} bytes missing")

    def _header(self, block: bytes) -> Entry | _Signal | None:
        """Read one header at the current position; None when it only modifies the next one."""
        check_sum(block)
        flag = block[156]
        kind = _KINDS.get(flag)
        if kind is not None:
            return self._member(block, flag, kind)
        size = number(block[124:136], "size")
        if flag == _LABEL:
            self._position += BLOCK
            self._data, self._padding = 0, _padded(size)
            return None
        if flag not in (*_PAX_LOCAL, _PAX_GLOBAL, _LONG_NAME, _LONG_LINK):
            raise Unimplemented(f"tar: entry {name_of(block)!r} has the unsupported type {chr(flag)!r}")
        return self._modifier(block, flag, size)

    def _modifier(self, block: bytes, flag: int, size: int) -> _Signal | None:
        """A pax header or a GNU long name: buffered whole, so its size is bounded first."""
        limit = self._limits.max_path + 1 if flag in (_LONG_NAME, _LONG_LINK) else self._limits.max_pax
        if size > limit:
            raise InvalidArgument(f"tar: extended header of {size} bytes is over the limit of {limit}")
        start = self._position + BLOCK
        body = self._buffer[start : start + size]
        if len(self._buffer) - start < _padded(size):
            self._truncated_if_closed(_padded(size) - (len(self._buffer) - start), "an extended header")
            return NEED_DATA
        self._position = start + _padded(size)
        if flag == _LONG_NAME:
            self._long_name = body.partition(b"\0")[0]
        elif flag == _LONG_LINK:
            self._long_link = body.partition(b"\0")[0]
        elif flag == _PAX_GLOBAL:
            # An empty value takes a default back (POSIX), so it must not linger as an override either.
            self._global = {key: value for key, value in {**self._global, **parse_records(body)}.items() if value}
            if sum(map(len, self._global.values())) > self._limits.max_pax:
                raise InvalidArgument(f"tar: global headers hold more than the limit of {self._limits.max_pax} bytes")
        else:
            self._local = parse_records(body)
        return None

    def _member(self, block: bytes, flag: int, kind: Kind) -> Entry | _Signal:
        pax = self._overrides()
        at = self._position + BLOCK
        name = pax.get(b"path") or self._long_name or name_of(block)
        if kind is FILE and flag != ord("S") and name.endswith(b"/"):
            kind = DIRECTORY  # how tar wrote directories before it had a type for them
        size = _override(pax, b"size", block[124:136])
        stored = size if kind is FILE else 0  # other kinds have no contents, whatever the field says
        segments: tuple[Segment, ...] | None = None
        if kind is FILE and flag == ord("S"):
            found = self._old_sparse(block, at)
            if found is None:
                return NEED_DATA
            segments, at = found
            size = real_size(block)
        elif kind is FILE and pax and (b"GNU.sparse.size" in pax or b"GNU.sparse.realsize" in pax):
            name = pax.get(b"GNU.sparse.name") or name
            sparse = self._pax_sparse(pax, at, stored)
            if sparse is None:
                return NEED_DATA
            segments, size, used = sparse
            at += used
            stored -= used
        entry = self._entry(block, pax, kind, name, size, stored, segments)
        self._position = at
        self._data, self._padding = stored, -stored % BLOCK
        self._local, self._long_name, self._long_link = None, b"", b""
        return entry

    def _overrides(self) -> Pax:
        if not self._global:
            return self._local or {}
        merged = {**self._global, **(self._local or {})}
        return {key: value for key, value in merged.items() if value}

    def _entry(
        self,
        block: bytes,
        pax: Pax,
        kind: Kind,
        name: bytes,
        size: int,
        stored: int,
        segments: tuple[Segment, ...] | None,
    ) -> Entry:
        link = (
            (pax.get(b"linkpath") or self._long_link or field_bytes(block, 157, 257))
            if kind in (HARDLINK, SYMLINK)
            else b""
        )
        for what, value in (("path", name), ("link target", link)):
            if len(value) > self._limits.max_path:
                raise InvalidArgument(f"tar: {what} of {len(value)} bytes is over the limit of {self._limits.max_path}")
            if b"\0" in value:
                raise InvalidArgument(f"tar: {what} {value[:160]!r} holds a NUL byte")
        if segments is not None:
            validated(segments, size, stored, name)
        device = kind in (CHAR, BLOCKDEV)
        atime = pax.get(b"atime")
        mtime = pax.get(b"mtime")
        return Entry(
            path=name,
            kind=kind,
            mode=number(block[100:108], "mode") & 0o7777,
            uid=_override(pax, b"uid", block[108:116]),
            gid=_override(pax, b"gid", block[116:124]),
            size=size if kind is FILE else 0,
            stored=stored,
            mtime_ns=parse_time(mtime) if mtime else _seconds(block[136:148]),
            atime_ns=parse_time(atime) if atime else None,
            link=link,
            major=_override(pax, b"SCHILY.devmajor", block[329:337]) if device else 0,
            minor=_override(pax, b"SCHILY.devminor", block[337:345]) if device else 0,
            uname=pax.get(b"uname") or field_bytes(block, 265, 297),
            gname=pax.get(b"gname") or field_bytes(block, 297, 329),
            xattrs=xattrs_of(pax, self._limits.max_xattrs) if pax else (),
            segments=segments,
        )

    def _old_sparse(self, block: bytes, at: int) -> tuple[tuple[Segment, ...], int] | None:
        """The map of an old GNU sparse header and where the contents begin; None when more data is needed."""
        segments = list(old_map(block))
        more = bool(block[482])
        while more:
            if at + BLOCK > len(self._buffer):
                self._truncated_if_closed(BLOCK, "a sparse map")
                return None
            if at - self._position > self._limits.max_pax:
                raise InvalidArgument(f"tar: sparse map is over the limit of {self._limits.max_pax} bytes")
            found, more = extension(self._buffer[at : at + BLOCK])
            segments.extend(found)
            at += BLOCK
        return tuple(segments), at

    def _pax_sparse(self, pax: Pax, at: int, stored: int) -> tuple[tuple[Segment, ...], int, int] | None:
        """(segments, real size, bytes of contents that the map itself took) of pax sparse 0.0, 0.1 and 1.0."""
        if b"GNU.sparse.major" not in pax:
            return pax_map(pax), _decimal(pax, b"GNU.sparse.size"), 0
        if (pax[b"GNU.sparse.major"], pax.get(b"GNU.sparse.minor")) != (b"1", b"0"):
            raise Unimplemented(f"tar: sparse format {pax[b'GNU.sparse.major'][:20]!r} is not known")
        limit = min(stored, self._limits.max_pax)
        parsed = parse_map_block(self._buffer[at : at + limit])
        if parsed is not None:
            segments, used = parsed
            return segments, _decimal(pax, b"GNU.sparse.realsize"), used
        if len(self._buffer) - at >= limit:
            raise InvalidArgument("tar: sparse map does not end inside its file or limit")
        self._truncated_if_closed(limit, "a sparse map")
        return None


def check_sum(block: bytes) -> None:
    """Refuse a header whose checksum is wrong. Historic tars summed signed bytes; that is allowed too."""
    want = number(block[148:156], "checksum")
    have = sum(block) - sum(block[148:156]) + 8 * 32
    if have == want:
        return
    negative = sum(byte >= 128 for byte in block[:148]) + sum(byte >= 128 for byte in block[156:])
    if have - 256 * negative != want:
        raise InvalidArgument(f"tar: header checksum is {want}, computed {have}: not a tar archive or damaged")


def name_of(block: bytes) -> bytes:
    """The path in a header block. Only POSIX headers have a prefix: GNU keeps times in its place."""
    name = field_bytes(block, 0, 100)
    if block[345] and block[257:263] == b"ustar\0":
        return field_bytes(block, 345, 500) + b"/" + name
    return name


def _padded(size: int) -> int:
    return size + -size % BLOCK


def _seconds(field: bytes) -> int:
    seconds = number(field, "mtime", signed=True)
    if not -(1 << 63) <= seconds < 1 << 63:
        raise InvalidArgument("tar: mtime is beyond 64 bits")
    return seconds * 1_000_000_000


def _override(pax: Pax, key: bytes, field: bytes) -> int:
    return _decimal(pax, key) if pax and pax.get(key) else number(field, _FIELD_OF[key])


def _decimal(pax: Pax, key: bytes) -> int:
    text = pax.get(key, b"")
    if not text.isdigit() or len(text) > 19 or int(text) >= 1 << 63:
        raise InvalidArgument(f"tar: {key.decode()} is {text[:40]!r}, want a decimal number below 2**63")
    return int(text)
