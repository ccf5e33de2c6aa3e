"""How long and how much."""

from __future__ import annotations

import msgspec


class Limits(msgspec.Struct, frozen=True):
    """Times in seconds."""

    idle: float = 4 * 3600  # without a byte in either direction, keep-alives included: kubelet's default
    creation: float = 30  # for the request, and for the streams that belong together
    linger: float = 10  # for the client to read the end and close
    token: float = 60  # between the URL and its use
    tokens: int = 1000  # URLs not used yet
    connections: int = 2000
    buffer: int = 262144  # bytes kept of each stream that nobody reads
