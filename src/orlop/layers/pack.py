"""Write a layer: entries in, tar bytes out, and compressed ones. Same input, same bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import msgspec

from orlop.layers.tree import shown
from orlop.spec.errors import Aborted, InvalidArgument
from orlop.wire.tar import END_OF_ARCHIVE, Entry
from orlop.wire.tar_encode import encode, padding


class Member(msgspec.Struct, frozen=True):
    """An entry and its contents: bytes, or a function that opens them when their turn has come."""

    entry: Entry
    contents: bytes | Callable[[], Iterator[bytes]] = b""


def pack(members: Iterable[Member]) -> Iterator[bytes]:
    """A tar archive in pieces. Raises `Aborted` when contents are not as long as their entry says."""
    for member in members:
        yield encode(member.entry)
        left = member.entry.stored
        for piece in (member.contents,) if isinstance(member.contents, bytes) else member.contents():
            left -= len(piece)
            if left < 0:
                break
            yield piece
        if left:
            raise Aborted(f"{shown(member.entry.path)} changed its size while it was read")
        yield padding(member.entry.stored)
    yield END_OF_ARCHIVE


def file(path: str | bytes, data: bytes, mode: int = 0o644, **fields: object) -> Member:
    """A regular file, for tests and small images."""
    name = path.encode() if isinstance(path, str) else path
    entry = Entry(path=name, size=len(data), stored=len(data), mode=mode)
    return Member(msgspec.structs.replace(entry, **fields) if fields else entry, data)


def compress(pieces: Iterable[bytes], compression: str, level: int | None = None) -> Iterator[bytes]:
    """The pieces as one "gzip", "zstd" or ("") plain stream. Neither clock nor file name enters it. `level`: 0 to 3
    for gzip (isal's), 1 to 19 for zstd."""
    found = _COMPRESSORS.get(compression)
    if found is None:
        raise InvalidArgument(f"layer compression {compression!r} is not known: want gzip, zstd or none")
    return found(pieces, level)


def _plain(pieces: Iterable[bytes], level: int | None) -> Iterator[bytes]:
    yield from pieces


def _gzip(pieces: Iterable[bytes], level: int | None) -> Iterator[bytes]:
    from isal import isal_zlib

    # 31: a gzip header, which isal writes with time 0 and an unknown system
    compressor = isal_zlib.compressobj(2 if level is None else level, isal_zlib.DEFLATED, 31)
    for piece in pieces:
        if data := compressor.compress(piece):
            yield data
    yield compressor.flush()


def _zstd(pieces: Iterable[bytes], level: int | None) -> Iterator[bytes]:
    import sys

    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    compressor = zstd.ZstdCompressor(level=3 if level is None else level)
    for piece in pieces:
        if data := compressor.compress(piece):
            yield data
    yield compressor.flush()


_COMPRESSORS: dict[str, Callable[[Iterable[bytes], int | None], Iterator[bytes]]] = {
    "": _plain,
    "gzip": _gzip,
    "zstd": _zstd,
}
