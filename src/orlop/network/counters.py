"""What a network namespace's devices have carried so far (/proc/net/dev, proc(5))."""

from __future__ import annotations

from pathlib import Path

import msgspec

from orlop.spec.errors import DataLoss, NotFound


class Counters(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    rx_bytes: int
    rx_packets: int
    rx_errors: int
    rx_dropped: int
    tx_bytes: int
    tx_packets: int
    tx_errors: int
    tx_dropped: int


def counters(pid: int) -> tuple[Counters, ...]:
    """Of the namespace that a process is in. Raises NotFound where it has ended."""
    try:
        return parse(Path(f"/proc/{pid}/net/dev").read_text())
    except OSError as error:
        raise NotFound(f"process {pid} has ended") from error


def parse(text: str) -> tuple[Counters, ...]:
    found = []
    for line in text.splitlines()[2:]:
        name, colon, rest = line.partition(":")
        fields = rest.split()
        if not colon or len(fields) < 12:
            raise DataLoss(f"/proc/net/dev: unreadable line {line[:80]!r}")
        numbers = [int(field) for field in fields]
        found.append(
            Counters(
                name=name.strip(),
                rx_bytes=numbers[0],
                rx_packets=numbers[1],
                rx_errors=numbers[2],
                rx_dropped=numbers[3],
                tx_bytes=numbers[8],
                tx_packets=numbers[9],
                tx_errors=numbers[10],
                tx_dropped=numbers[11],
            )
        )
    return tuple(found)
