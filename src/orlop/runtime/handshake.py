"""What the launch helper says and how its parent answers, as a table of transitions. Pure.

on CLONED   preparing -> cloned; cloned -> cloned: a stage handed over to the next
on SYNC     preparing, cloned -> waiting, until the parent says go on: back to where it was
on FAILED   preparing, cloned -> failed
at the end  cloned -> running: execve closed the connection; preparing -> died: the helper was killed
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
    """Where a launch stands. Every method returns a new value. `pids` are those of all clones, oldest first.

    A clone does nothing before its pid has been told, so a sync point is never ahead of the pid that it is about.
    """

    phase: Phase = "preparing"
    pids: tuple[int, ...] = ()

    @property
    def pid(self) -> int:
        """Of the process that is to become the program; 0 before it is there."""
        return self.pids[-1] if self.pids else 0

    def heard(self, message: Message) -> Handshake:
        """After a message."""
        new = (message.value,) if message.kind == CLONED else ()
        return Handshake(self._next(_EVENTS.get(message.kind, "?")), self.pids + new)

    def answered(self) -> Handshake:
        """After the parent said that it may go on."""
        return Handshake("cloned" if self.pids else "preparing", self.pids)

    def ended(self) -> Handshake:
        """After the end of the control connection."""
        return Handshake(self._next("end"), self.pids)

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
