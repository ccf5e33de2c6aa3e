"""A layer's bytes, uncompressed, in chunks: gzip with many members (eStargz), zstd with many frames, or plain."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import IO, Protocol, cast

from orlop.layers.limits import Limits
from orlop.spec.errors import InvalidArgument, ResourceExhausted

CHUNK = 1 << 19


class Readable(Protocol):
    """All that is asked of a source: up to `size` bytes, b"" at the end. It may block."""

    def read(self, size: int, /) -> bytes: ...


class Counted:
    """A source that counts what was read from it, for ratio and progress."""

    def __init__(self, source: Readable, progress: Callable[[int], object] | None = None) -> None:
        self._source = source
        self._progress = progress
        self.count = 0

    def read(self, size: int = -1, /) -> bytes:
        data = self._source.read(size if size > 0 else CHUNK)
        self.count += len(data)
        if self._progress is not None and data:
            self._progress(len(data))
        return data

    def readinto(self, buffer: memoryview, /) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False


def chunks(source: Counted, compression: str, limits: Limits) -> Iterator[bytes]:
    """The uncompressed bytes. Reads `source` to its end, so that who checks its digest has seen every byte.

    Raises `InvalidArgument` for damaged or truncated data or an unknown compression, `ResourceExhausted` for a bomb.
    """
    opened = _OPENERS.get(compression)
    if opened is None:
        raise InvalidArgument(f"layer compression {compression!r} is not known: want gzip, zstd or none")
    total = 0
    for chunk in opened(source):
        total += len(chunk)
        if total > limits.max_size:
            raise ResourceExhausted(f"layer unpacks to more than the limit of {limits.max_size} bytes")
        if total > limits.ratio_floor and total > limits.max_ratio * source.count:
            raise ResourceExhausted(
                f"layer expands more than {limits.max_ratio} times: refused as a decompression bomb"
            )
        yield chunk


def _plain(source: Counted) -> Iterator[bytes]:
    while data := source.read(CHUNK):
        yield data


def _gzip(source: Counted) -> Iterator[bytes]:
    import gzip

    from isal import igzip, isal_zlib

    opened = cast("IO[bytes]", igzip.open(source, "rb"))  # type: ignore[no-untyped-call]
    with opened as stream:
        while True:
            try:
                data = stream.read(CHUNK)
            except (EOFError, gzip.BadGzipFile, isal_zlib.IsalError) as error:  # type: ignore[misc]
                raise InvalidArgument(f"layer is not valid gzip: {_line(error)}") from error
            if not data:
                return
            yield data


def _zstd(source: Counted) -> Iterator[bytes]:
    import sys

    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    with zstd.ZstdFile(cast("IO[bytes]", source), mode="rb") as stream:
        while True:
            try:
                data = stream.read(CHUNK)
            except (EOFError, zstd.ZstdError) as error:
                raise InvalidArgument(f"layer is not valid zstd: {_line(error)}") from error
            if not data:
                return
            yield data


def _line(error: Exception) -> str:
    text = str(error).strip().rstrip(".").splitlines()
    return (text[0][:1].lower() + text[0][1:])[:160] if text else type(error).__name__


_OPENERS: dict[str, Callable[[Counted], Iterator[bytes]]] = {"": _plain, "gzip": _gzip, "zstd": _zstd}
