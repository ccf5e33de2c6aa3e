"""rtnetlink(7) without input or output: build requests, take answers apart.

A netlink datagram is a row of messages; each is a header (length, type, flags, sequence, port), a fixed structure
that its type names (ifinfomsg, ifaddrmsg, rtmsg) and attributes (length, type, value; padded to four bytes). Byte
order is the machine's. Addresses are packed bytes here, 4 or 6 for each family's 4 or 16.

Requests are `Request` values; `encode` joins several to one datagram, which the kernel works off in order and
answers one by one. What comes in is never trusted: `messages` and the parsers raise `Internal`, and nothing else,
on bytes that are no netlink.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

import msgspec

from orlop.spec.errors import Internal

AF_UNSPEC, AF_INET, AF_INET6 = 0, 2, 10

# nlmsghdr.nlmsg_type
NLMSG_NOOP, NLMSG_ERROR, NLMSG_DONE = 1, 2, 3
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
# nlmsghdr.nlmsg_flags
NLM_F_REQUEST, NLM_F_MULTI, NLM_F_ACK = 0x1, 0x2, 0x4
NLM_F_DUMP_INTR = 0x10
NLM_F_DUMP = 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400
NLM_F_CAPPED, NLM_F_ACK_TLVS = 0x100, 0x200

NLA_F_NESTED, NLA_TYPE_MASK = 0x8000, 0x3FFF
NLMSGERR_ATTR_MSG = 1

IFF_UP = 0x1
IFA_F_NODAD, IFA_F_PERMANENT, IFA_F_NOPREFIXROUTE = 0x02, 0x80, 0x200
RT_SCOPE_UNIVERSE, RT_SCOPE_LINK = 0, 253
RT_TABLE_MAIN, RTPROT_BOOT, RTPROT_RA, RTN_UNICAST = 254, 3, 9, 1

# if_link.h: IFLA_*
_ADDRESS, _NAME, _MTU, _LINK, _MASTER, _LINKINFO, _NS_PID, _GROUP, _NS_FD = 1, 3, 4, 5, 10, 18, 19, 27, 28
_INFO_KIND, _INFO_DATA, _INFO_SLAVE_KIND, _INFO_SLAVE_DATA = 1, 2, 4, 5
_VETH_PEER = 1
_BRPORT_HAIRPIN = 4
# if_addr.h: IFA_*; rtnetlink.h: RTA_*
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST, _IFA_FLAGS = 1, 2, 4, 8
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_TABLE = 1, 4, 5, 6, 15

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_LINK_BODY = struct.Struct("=BxHiII")  # family, type, index, flags, change
_ADDRESS_BODY = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
_ROUTE_BODY = struct.Struct("=BBBBBBBBI")  # family, dst len, src len, tos, table, protocol, scope, type, flags
_U32 = struct.Struct("=I")
_I32 = struct.Struct("=i")


class Request(msgspec.Struct, frozen=True):
    """One message to the kernel. `flags` are without NLM_F_REQUEST, which `encode` adds."""

    kind: int
    flags: int
    body: bytes


class Message(msgspec.Struct, frozen=True):
    """One message from the kernel; `body` is what follows the header."""

    kind: int
    flags: int
    sequence: int
    body: bytes


class Peer(msgspec.Struct, frozen=True):
    """The other end of a veth pair: its name, its hardware address and the namespace it is born in, given by a
    descriptor or by the pid of a process inside (0 and -1: this namespace)."""

    name: str
    address: bytes = b""
    netns_pid: int = 0
    netns_fd: int = -1


class Link(msgspec.Struct, frozen=True):
    """A network device. `master` and `link` (a veth's other end, in its own namespace) are indexes, 0 for none."""

    index: int
    name: str
    flags: int
    mtu: int
    address: bytes
    master: int
    link: int
    kind: str
    group: int

    @property
    def up(self) -> bool:
        return bool(self.flags & IFF_UP)


class Address(msgspec.Struct, frozen=True):
    family: int
    index: int
    prefix: int
    flags: int
    address: bytes
    scope: int = RT_SCOPE_UNIVERSE


class Route(msgspec.Struct, frozen=True):
    """`destination` b"" with `prefix` 0 is the default route."""

    family: int
    prefix: int
    destination: bytes
    gateway: bytes
    oif: int
    table: int
    protocol: int
    kind: int


class Failure(msgspec.Struct, frozen=True):
    """What the kernel answered to a request: errno (0: done) and, where it gave one, its explanation."""

    errno: int
    text: str


# building


def attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def _nested(kind: int, *parts: bytes) -> bytes:
    return attribute(kind | NLA_F_NESTED, b"".join(parts))


def _number(kind: int, value: int) -> bytes:
    return attribute(kind, _U32.pack(value))


def _name(kind: int, name: str) -> bytes:
    return attribute(kind, name.encode() + b"\0")


def encode(requests: Sequence[Request], sequence: int) -> bytes:
    """One datagram with all requests, numbered from `sequence` upward."""
    parts = []
    for number, request in enumerate(requests, sequence):
        size = _HEADER.size + len(request.body)
        parts.append(_HEADER.pack(size, request.kind, request.flags | NLM_F_REQUEST, number, 0))
        parts.append(request.body + b"\0" * (-size % 4))
    return b"".join(parts)


def _link_attributes(
    name: str, address: bytes, mtu: int, master: int, group: int, netns_pid: int, netns_fd: int
) -> list[bytes]:
    return [
        *([_name(_NAME, name)] if name else []),
        *([attribute(_ADDRESS, address)] if address else []),
        *([_number(_MTU, mtu)] if mtu else []),
        *([_number(_MASTER, master)] if master else []),
        *([_number(_GROUP, group)] if group else []),
        *([_number(_NS_PID, netns_pid)] if netns_pid else []),
        *([_number(_NS_FD, netns_fd)] if netns_fd >= 0 else []),
    ]


def link_new(
    name: str,
    kind: str,
    *,
    address: bytes = b"",
    mtu: int = 0,
    master: int = 0,
    group: int = 0,
    up: bool = False,
    hairpin: bool = False,
    peer: Peer | None = None,
) -> Request:
    """Make a device of a kind (`bridge`, `veth`). It is an error if the name is taken. `hairpin` lets a bridge send
    frames back through the port they came from."""
    flags = IFF_UP if up else 0
    info = [attribute(_INFO_KIND, kind.encode())]
    if peer is not None:
        inner = _link_attributes(peer.name, peer.address, mtu, 0, 0, peer.netns_pid, peer.netns_fd)
        info.append(_nested(_INFO_DATA, _nested(_VETH_PEER, _LINK_BODY.pack(0, 0, 0, 0, 0), *inner)))
    body = b"".join(
        (
            _LINK_BODY.pack(AF_UNSPEC, 0, 0, flags, flags),
            *_link_attributes(name, address, mtu, master, group, 0, -1),
            _nested(_LINKINFO, *info),
        )
    )
    return Request(RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, body)


def link_set(
    index: int,
    *,
    name: str = "",
    address: bytes = b"",
    mtu: int = 0,
    master: int = 0,
    group: int = 0,
    up: bool | None = None,
    netns_pid: int = 0,
    netns_fd: int = -1,
) -> Request:
    """Change a device: what is not given stays."""
    flags, change = (IFF_UP if up else 0), (0 if up is None else IFF_UP)
    attributes = _link_attributes(name, address, mtu, master, group, netns_pid, netns_fd)
    return Request(RTM_NEWLINK, NLM_F_ACK, _LINK_BODY.pack(AF_UNSPEC, 0, index, flags, change) + b"".join(attributes))


def link_hairpin(index: int) -> Request:
    """Let the bridge that a device belongs to send frames back to it."""
    data = _nested(_INFO_SLAVE_DATA, attribute(_BRPORT_HAIRPIN, b"\1"))
    info = _nested(_LINKINFO, attribute(_INFO_SLAVE_KIND, b"bridge"), data)
    return Request(RTM_NEWLINK, NLM_F_ACK, _LINK_BODY.pack(AF_UNSPEC, 0, index, 0, 0) + info)


def link_delete(index: int = 0, *, name: str = "", group: int = 0) -> Request:
    """Delete one device by index or by name, or at once all devices of a group."""
    attributes = _link_attributes(name, b"", 0, 0, group, 0, -1)
    return Request(RTM_DELLINK, NLM_F_ACK, _LINK_BODY.pack(AF_UNSPEC, 0, index, 0, 0) + b"".join(attributes))


def link_get(name: str) -> Request:
    return Request(RTM_GETLINK, 0, _LINK_BODY.pack(AF_UNSPEC, 0, 0, 0, 0) + _name(_NAME, name))


def link_dump() -> Request:
    return Request(RTM_GETLINK, NLM_F_DUMP, _LINK_BODY.pack(AF_UNSPEC, 0, 0, 0, 0))


def _family(address: bytes) -> int:
    return AF_INET if len(address) == 4 else AF_INET6


def _address_body(index: int, address: bytes, prefix: int, flags: int) -> bytes:
    parts = [_ADDRESS_BODY.pack(_family(address), prefix, flags & 0xFF, RT_SCOPE_UNIVERSE, index)]
    parts += [attribute(_IFA_LOCAL, address), attribute(_IFA_ADDRESS, address)]
    if len(address) == 4 and prefix < 31:
        host = (1 << (32 - prefix)) - 1
        parts.append(attribute(_IFA_BROADCAST, (int.from_bytes(address, "big") | host).to_bytes(4, "big")))
    if flags:
        parts.append(_number(_IFA_FLAGS, flags))
    return b"".join(parts)


def address_new(index: int, address: bytes, prefix: int, flags: int = 0) -> Request:
    return Request(RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, _address_body(index, address, prefix, flags))


def address_delete(index: int, address: bytes, prefix: int) -> Request:
    return Request(RTM_DELADDR, NLM_F_ACK, _address_body(index, address, prefix, 0))


def address_dump(family: int = AF_UNSPEC) -> Request:
    return Request(RTM_GETADDR, NLM_F_DUMP, _ADDRESS_BODY.pack(family, 0, 0, 0, 0))


def _route_body(family: int, destination: bytes, prefix: int, gateway: bytes, oif: int, metric: int) -> bytes:
    scope = RT_SCOPE_UNIVERSE if gateway or family == AF_INET6 else RT_SCOPE_LINK
    fixed = _ROUTE_BODY.pack(family, prefix, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, scope, RTN_UNICAST, 0)
    return b"".join(
        (
            fixed,
            attribute(_RTA_DST, destination) if destination else b"",
            attribute(_RTA_GATEWAY, gateway) if gateway else b"",
            _number(_RTA_OIF, oif) if oif else b"",
            _number(_RTA_PRIORITY, metric) if metric else b"",
        )
    )


def route_new(
    family: int, *, destination: bytes = b"", prefix: int = 0, gateway: bytes = b"", oif: int = 0, metric: int = 0
) -> Request:
    """A unicast route of the main table; without a destination the default route."""
    body = _route_body(family, destination, prefix, gateway, oif, metric)
    return Request(RTM_NEWROUTE, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, body)


def route_delete(
    family: int, *, destination: bytes = b"", prefix: int = 0, gateway: bytes = b"", oif: int = 0, metric: int = 0
) -> Request:
    return Request(RTM_DELROUTE, NLM_F_ACK, _route_body(family, destination, prefix, gateway, oif, metric))


def route_dump(family: int) -> Request:
    return Request(RTM_GETROUTE, NLM_F_DUMP, _ROUTE_BODY.pack(family, 0, 0, 0, 0, 0, 0, 0, 0))


# taking apart


def messages(data: bytes) -> Iterator[Message]:
    """The messages of one received datagram."""
    offset = 0
    while offset < len(data):
        if len(data) - offset < _HEADER.size:
            raise Internal(f"rtnetlink: {len(data) - offset} stray bytes after the last message")
        size, kind, flags, sequence, _port = _HEADER.unpack_from(data, offset)
        if size < _HEADER.size or size > len(data) - offset:
            raise Internal(f"rtnetlink: message of {size} bytes in {len(data) - offset}")
        yield Message(kind, flags, sequence, data[offset + _HEADER.size : offset + size])
        offset += size + (-size % 4)


def attributes(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """Type (without its flag bits) to value; of a repeated type the last one."""
    found = {}
    while len(data) - offset >= _ATTRIBUTE.size:
        size, kind = _ATTRIBUTE.unpack_from(data, offset)
        if size < _ATTRIBUTE.size or size > len(data) - offset:
            raise Internal(f"rtnetlink: attribute of {size} bytes in {len(data) - offset}")
        found[kind & NLA_TYPE_MASK] = data[offset + _ATTRIBUTE.size : offset + size]
        offset += size + (-size % 4)
    return found


def _unpack(layout: struct.Struct, body: bytes) -> tuple[int, ...]:
    if len(body) < layout.size:
        raise Internal(f"rtnetlink: {len(body)} bytes where {layout.size} are due")
    return layout.unpack_from(body)


def _integer(found: dict[int, bytes], kind: int) -> int:
    return int(_unpack(_U32, found[kind])[0]) if kind in found else 0


def _text(value: bytes) -> str:
    return value.split(b"\0", 1)[0].decode("utf-8", "replace")


def failure_of(message: Message) -> Failure:
    """The outcome that an NLMSG_ERROR (or a failed dump's NLMSG_DONE) carries."""
    code = int(_unpack(_I32, message.body)[0])
    if not message.flags & NLM_F_ACK_TLVS:
        return Failure(abs(code), "")
    # the request follows the code: its header alone if capped, else (on errors only) all of it
    offset = 4
    if message.kind == NLMSG_ERROR:
        (size,) = _unpack(_U32, message.body[4:])
        offset += _HEADER.size if message.flags & NLM_F_CAPPED or code == 0 else size + (-size % 4)
    return Failure(abs(code), _text(attributes(message.body, offset).get(NLMSGERR_ATTR_MSG, b"")))


def link_of(message: Message) -> Link:
    _family, _type, index, flags, _change = _unpack(_LINK_BODY, message.body)
    found = attributes(message.body, _LINK_BODY.size)
    info = attributes(found.get(_LINKINFO, b""))
    return Link(
        index=index,
        name=_text(found.get(_NAME, b"")),
        flags=flags,
        mtu=_integer(found, _MTU),
        address=found.get(_ADDRESS, b""),
        master=_integer(found, _MASTER),
        link=_integer(found, _LINK),
        kind=_text(info.get(_INFO_KIND, b"")),
        group=_integer(found, _GROUP),
    )


def _sized(family: int, value: bytes) -> bytes:
    want = {AF_INET: 4, AF_INET6: 16}.get(family)
    if value and want is not None and len(value) != want:
        raise Internal(f"rtnetlink: address of {len(value)} bytes in family {family}")
    return value


def address_of(message: Message) -> Address:
    family, prefix, flags, scope, index = _unpack(_ADDRESS_BODY, message.body)
    found = attributes(message.body, _ADDRESS_BODY.size)
    own = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS, b"")  # IFA_ADDRESS is the far end on point-to-point links
    return Address(family, index, prefix, _integer(found, _IFA_FLAGS) or flags, _sized(family, own), scope)


def route_of(message: Message) -> Route:
    family, prefix, _src, _tos, table, protocol, _scope, kind, _flags = _unpack(_ROUTE_BODY, message.body)
    found = attributes(message.body, _ROUTE_BODY.size)
    return Route(
        family=family,
        prefix=prefix,
        destination=_sized(family, found.get(_RTA_DST, b"")),
        gateway=found.get(_RTA_GATEWAY, b""),
        oif=_integer(found, _RTA_OIF),
        table=_integer(found, _RTA_TABLE) or table,
        protocol=protocol,
        kind=kind,
    )
