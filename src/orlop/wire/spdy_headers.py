"""Header blocks of SPDY/3.1: pairs of names and values, compressed. Sans I/O.

One zlib stream goes through all blocks of a direction, so none may be left out; both sides know its dictionary in
advance.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable

from orlop.spec.errors import InvalidArgument

MAX_BLOCK = 65536  # bytes of a header block, unpacked
MAX_PAIRS = 256  # headers in a block

Headers = tuple[tuple[str, str], ...]
"""Names in lower case. A name with several values comes once for each."""

_WORDS = (
    "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow"
    " authorization cache-control connection content-base content-encoding content-language content-length"
    " content-location content-md5 content-range content-type date etag expect expires from host if-match"
    " if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma"
    " proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade"
    " user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie"
    " keep-alive origin"
)
_TEXT = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden"
    "404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable"
    "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
    "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,"
    "publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)
# Section 2.6.10.1: words with their length before them, then text.
DICTIONARY = (
    b"".join(struct.pack(">I", len(word)) + word.replace("_", " ").encode() for word in _WORDS.split()) + _TEXT.encode()
)

_U32 = struct.Struct(">I")


class ProtocolError(InvalidArgument):
    """The peer broke the protocol: the connection can only be closed."""


class Packer:
    """Makes the header blocks that one side sends."""

    def __init__(self) -> None:
        self._deflate = zlib.compressobj(zdict=DICTIONARY)

    def pack(self, headers: Iterable[tuple[str, str]]) -> bytes:
        return self._deflate.compress(_encode_headers(headers)) + self._deflate.flush(zlib.Z_SYNC_FLUSH)


class Unpacker:
    """Reads the header blocks that one side sends."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)

    def unpack(self, block: bytes) -> Headers:
        """Raises ProtocolError."""
        try:
            plain = self._inflate.decompress(block, MAX_BLOCK)
        except zlib.error as error:
            raise ProtocolError(f"spdy header block: {error}") from error
        if self._inflate.unconsumed_tail or self._inflate.unused_data:
            raise ProtocolError(f"spdy header block: more than {MAX_BLOCK} bytes, or bytes after its end")
        return _decode_headers(plain)


def _encode_headers(headers: Iterable[tuple[str, str]]) -> bytes:
    """Section 2.6.10: a count, then names and values, each with its length. Several values of one name are a string,
    NUL between them."""
    values: dict[str, list[str]] = {}
    for name, value in headers:
        values.setdefault(name.lower(), []).append(value)
    parts = [_U32.pack(len(values))]
    for name, several in values.items():
        for text in (name.encode(), "\0".join(several).encode()):
            parts += [_U32.pack(len(text)), text]
    return b"".join(parts)


def _decode_headers(plain: bytes) -> Headers:
    if len(plain) < 4:
        raise ProtocolError("spdy header block: cut short")
    (count,) = _U32.unpack_from(plain)
    if count > MAX_PAIRS:
        raise ProtocolError(f"spdy header block: {count} headers, at most {MAX_PAIRS} are accepted")
    at = 4
    texts = []
    for _ in range(2 * count):
        if at + 4 > len(plain):
            raise ProtocolError("spdy header block: cut short")
        (length,) = _U32.unpack_from(plain, at)
        if at + 4 + length > len(plain):
            raise ProtocolError("spdy header block: cut short")
        texts.append(plain[at + 4 : at + 4 + length])
        at += 4 + length
    if at != len(plain):
        raise ProtocolError("spdy header block: bytes after the last header")
    try:
        decoded = [text.decode() for text in texts]
    except UnicodeDecodeError as error:
        raise ProtocolError("spdy header block: not UTF-8") from error
    return tuple(
        (name.lower(), value)
        for name, joined in zip(decoded[::2], decoded[1::2], strict=True)
        for value in joined.split("\0")
    )
