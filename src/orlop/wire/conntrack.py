"""ctnetlink without input or output: which flows the kernel tracks, and forgetting one.

What is needed of linux/netfilter/nfnetlink_conntrack.h to find the flows that were begun to one port of a protocol,
and to delete them. Framing and attributes are rtnetlink's; the kernel filters dumps by tuple since 5.8.
"""

from __future__ import annotations

import struct

import msgspec

from orlop.spec.errors import Internal
from orlop.wire.rtnetlink import NLA_F_NESTED, NLM_F_ACK, NLM_F_DUMP, Message, Request, attribute, attributes

_NEW, _GET, _DELETE = 0x100, 0x101, 0x102  # subsystem 1, messages 0 to 2
_ORIGINAL, _FILTER = 1, 25
_TUPLE_IP, _TUPLE_PROTOCOL = 1, 2
_DESTINATION4, _DESTINATION6 = 2, 4
_NUMBER, _DESTINATION_PORT = 1, 3
_FILTER_ORIGINAL = 1
_BY_NUMBER, _BY_DESTINATION_PORT = 1 << 3, 1 << 5  # CTA_FILTER_F_*
PROTOCOLS = {"udp": 17, "sctp": 132}  # of IP

_BODY = struct.Struct("=BBH")  # family, version, resource
_PORT = struct.Struct(">H")


class Flow(msgspec.Struct, frozen=True):
    """A tracked flow as its first packet had it. `original` is the kernel's own description, to name it by."""

    family: int
    destination: bytes
    port: int
    original: bytes


def _nested(kind: int, *parts: bytes) -> bytes:
    return attribute(kind | NLA_F_NESTED, b"".join(parts))


def flows_to(family: int, protocol: int, port: int) -> Request:
    """A dump of the flows that were begun to a port."""
    wanted = _nested(
        _TUPLE_PROTOCOL, attribute(_NUMBER, bytes((protocol,))), attribute(_DESTINATION_PORT, _PORT.pack(port))
    )
    which = attribute(_FILTER_ORIGINAL, struct.pack("=I", _BY_NUMBER | _BY_DESTINATION_PORT))
    return Request(_GET, NLM_F_DUMP, _BODY.pack(family, 0, 0) + _nested(_ORIGINAL, wanted) + _nested(_FILTER, which))


def forget(flow: Flow) -> Request:
    return Request(_DELETE, NLM_F_ACK, _BODY.pack(flow.family, 0, 0) + _nested(_ORIGINAL, flow.original))


def flow_of(message: Message) -> Flow:
    if len(message.body) < _BODY.size:
        raise Internal(f"ctnetlink: {len(message.body)} bytes where {_BODY.size} are due")
    family, _version, _resource = _BODY.unpack_from(message.body)
    original = attributes(message.body, _BODY.size).get(_ORIGINAL, b"")
    parts = attributes(original)
    addresses = attributes(parts.get(_TUPLE_IP, b""))
    port = attributes(parts.get(_TUPLE_PROTOCOL, b"")).get(_DESTINATION_PORT, b"")
    return Flow(
        family=family,
        destination=addresses.get(_DESTINATION4) or addresses.get(_DESTINATION6, b""),
        port=_PORT.unpack(port)[0] if len(port) == _PORT.size else 0,
        original=original,
    )
