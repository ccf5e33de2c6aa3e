"""Detach keys, in Docker's syntax, and the machine that finds them in what a user types. Pure."""

from __future__ import annotations

from orlop.spec.errors import InvalidArgument

DEFAULT_KEYS = "ctrl-p,ctrl-q"

_NAMED = {"DEL": 127}
_CONTROL = {f"ctrl-{name}": code for code, name in enumerate("@abcdefghijklmnopqrstuvwxyz[\\]^_")}


def parse_detach_keys(text: str) -> bytes:
    """`ctrl-p,ctrl-q` as the bytes a terminal sends. An empty text means Docker's default.

    >>> parse_detach_keys("ctrl-a,d")
    b'\\x01d'
    """
    return bytes(_code(key, text) for key in (text or DEFAULT_KEYS).split(","))


def _code(key: str, text: str) -> int:
    code = _CONTROL.get(key.lower(), _NAMED.get(key))
    if code is None and len(key) == 1 and key.isascii():
        code = ord(key)
    if code is None:
        raise InvalidArgument(f"detach keys {text[:80]!r}: unknown key {key[:20]!r}; want a character or ctrl-<letter>")
    return code


class KeyFinder:
    """Finds a sequence of keys in input that arrives in pieces.

    Keys that may begin the sequence are held back until it is clear that they don't: then they are passed on, in order.

    >>> finder = KeyFinder(b"pq")
    >>> finder.feed(b"ap"), finder.feed(b"pq")
    ((b'a', False), (b'p', True))
    """

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._held = 0  # how many keys of the sequence have come

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """What is to be passed on, and whether the sequence is complete; what follows it is dropped."""
        passed = bytearray()
        for byte in data:
            passed += self._step(byte)
            if self._keys and self._held == len(self._keys):
                self._held = 0
                return bytes(passed), True
        return bytes(passed), False

    def _step(self, byte: int) -> bytes:
        seen = self._keys[: self._held] + bytes([byte])
        for start in range(len(seen) + 1):  # the longest end of what was seen that may begin the sequence
            if self._keys.startswith(seen[start:]):
                self._held = len(seen) - start
                return seen[:start]
        return seen

    def flush(self) -> bytes:
        """The keys that are held back, when no more will come."""
        held, self._held = self._keys[: self._held], 0
        return held
