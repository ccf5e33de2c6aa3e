"""What the launch helper says and how its parent answers, as a table of transitions. Pure.

    preparing --CLONED--> cloned --SYNC--> waiting --go on--> cloned ... --end of file--> running
         any --FAILED--> failed            cloned --end of file--> running: the descriptors were closed by execve
    preparing --end of file--> died
"""

from __future__ import annotations

import struct
from typing import Literal

import msgspec

from orlop.spec.errors import Internal

Phase = Literal["preparing", "cloned", "waiting", "running", "failed", "died"]
CLONED, SYNC, FAILED = 1, 2, 3
GO_ON, GIVE_UP = struct.pack("<I", 1), struct.pack("<I", 0)
MESSAGE_MAX = 4096
_HEAD = struct.Struct("<IIIi")
_EVENTS = {CLONED: "cloned", SYNC: "sync", FAILED: "failed"}
_NEXT: dict[tuple[str, str], Phase] = {
    ("preparing", "cloned"): "cloned",
    ("preparing", "sync"): "waiting",
    ("preparing", "failed"): "failed",
    ("preparing", "end"): "died",
    ("cloned", "cloned"): "cloned",
    ("waiting", "cloned"): "waiting",
    ("cloned", "sync"): "waiting",
    ("cloned", "failed"): "failed",
    ("cloned", "end"): "running",
}


class Message(msgspec.Struct, frozen=True):
    """One datagram: `value` is a pid (CLONED) or an errno (FAILED), `text` a sync point's name or a detail."""

    kind: int
    stage: int
    index: int
    value: int
    text: str


class Handshake(msgspec.Struct, frozen=True):
    """Where a launch stands. Every method returns a new value."""

    phase: Phase = "preparing"
    pid: int = 0

    def heard(self, message: Message) -> Handshake:
        """After a message."""
        pid = message.value if message.kind == CLONED else self.pid
        return Handshake(self._next(_EVENTS.get(message.kind, "?")), pid)

    def answered(self) -> Handshake:
        """After the parent said that it may go on."""
        return Handshake("cloned" if self.pid else "preparing", self.pid)

    def ended(self) -> Handshake:
        """After the end of the control connection."""
        return Handshake(self._next("end"), self.pid)

    def _next(self, event: str) -> Phase:
        try:
            return _NEXT[self.phase, event]
        except KeyError:
            raise Internal(f"launch helper: {event} while {self.phase}") from None


def parse_message(data: bytes) -> Message:
    """Read a datagram of the helper."""
    if len(data) < _HEAD.size:
        raise Internal("launch helper: short message")
    kind, stage, index, value = _HEAD.unpack_from(data)
    return Message(kind, stage, index, value, data[_HEAD.size :].decode("utf-8", "replace"))
