"""Content digests: `algorithm:hex` (image-spec, descriptor.md, "Digests")."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orlop.spec.errors import InvalidArgument

if TYPE_CHECKING:
    import hashlib

_HEX_LENGTH = {"sha256": 64, "sha384": 96, "sha512": 128}
_HEX = frozenset("0123456789abcdef")


class Digest(str):
    """A checked digest. It is a `str`, so it compares, hashes and serialises as one."""

    __slots__ = ()

    def __new__(cls, text: str) -> Digest:
        if isinstance(text, Digest):
            return text
        algorithm, colon, hexes = text.partition(":")
        if not colon or algorithm not in _HEX_LENGTH:
            raise InvalidArgument(f"digest {text[:160]!r}: want sha256, sha384 or sha512 and a colon before the hex")
        if len(hexes) != _HEX_LENGTH[algorithm] or not _HEX.issuperset(hexes):
            raise InvalidArgument(f"digest {text[:160]!r}: want {_HEX_LENGTH[algorithm]} lower-case hex digits")
        return super().__new__(cls, text)

    @classmethod
    def of(cls, data: bytes, algorithm: str = "sha256") -> Digest:
        """The digest of `data`."""
        import hashlib  # loads OpenSSL, which most commands never need

        return cls(f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}")

    @property
    def algorithm(self) -> str:
        return self.partition(":")[0]

    @property
    def hex(self) -> str:
        return self.partition(":")[2]

    @property
    def short(self) -> str:
        """The first twelve hex digits, as Docker shows an ID."""
        return self.hex[:12]

    def hasher(self) -> hashlib._Hash:
        """A fresh hash object of this digest's algorithm."""
        import hashlib

        return hashlib.new(self.algorithm)


def sha256_hex(data: bytes) -> str:
    """The SHA-256 of a small piece of data, in hex, without OpenSSL: that takes longer to load than a start may."""
    try:
        from _sha256 import sha256  # type: ignore[import-not-found]
    except ImportError:  # another Python
        from hashlib import sha256
    return str(sha256(data).hexdigest())
