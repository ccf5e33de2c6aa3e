"""What of nftables is asked by netlink itself: how often its rules have changed. Without input or output.

Sources: linux/netfilter/nf_tables.h (NFT_MSG_GETGEN, NFTA_GEN_ID), linux/netfilter/nfnetlink.h.
"""

from __future__ import annotations

import struct

from orlop.spec.errors import Internal
from orlop.wire.rtnetlink import Message, Request, attributes

_GET_GENERATION, _NEW_GENERATION = 0xA10, 0xA0F  # subsystem 10, messages 16 and 15
_ID = 1
_BODY = struct.Struct("=BBH")  # family, version, resource


def generation_get() -> Request:
    """Asks for the number of the rules' generation: one more after each transaction in this network namespace."""
    return Request(_GET_GENERATION, 0, _BODY.pack(0, 0, 0))


def generation_of(message: Message) -> int | None:
    """The number, or None where the kernel does not tell."""
    if message.kind != _NEW_GENERATION:
        return None
    value = attributes(message.body, _BODY.size).get(_ID, b"")
    if len(value) != 4:
        raise Internal("nftables: a generation without a number")
    return int.from_bytes(value, "big")
