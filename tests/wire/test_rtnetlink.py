"""The rtnetlink codec: what is built can be taken apart, and no bytes do harm."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.spec.errors import Internal
from orlop.wire import rtnetlink as rt

names = st.from_regex(r"[a-z][a-z0-9.-]{0,14}", fullmatch=True)
macs = st.binary(min_size=6, max_size=6)
indexes = st.integers(1, 2**31 - 1)
ip4, ip6 = st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16)


def only(request: rt.Request) -> rt.Message:
    """The message as the kernel would see it."""
    (message,) = rt.messages(rt.encode([request], 7))
    assert (message.kind, message.sequence) == (request.kind, 7)
    assert message.flags == request.flags | rt.NLM_F_REQUEST
    return message


@given(names, macs, st.integers(68, 65535), indexes, st.integers(1, 2**31), st.booleans())
def test_link_round_trip(name: str, mac: bytes, mtu: int, master: int, group: int, up: bool) -> None:
    request = rt.link_new(name, "bridge", address=mac, mtu=mtu, master=master, group=group, up=up)
    link = rt.link_of(only(request))
    assert link == rt.Link(0, name, int(up), mtu, mac, master, 0, "bridge", group)
    assert link.up is up


@given(names, names, macs, st.integers(1, 2**22))
def test_veth_carries_its_peer(name: str, peer: str, mac: bytes, pid: int) -> None:
    message = only(rt.link_new(name, "veth", peer=rt.Peer(peer, mac, netns_pid=pid)))
    assert rt.link_of(message).kind == "veth"
    info = rt.attributes(rt.attributes(message.body, 16)[18])
    far = rt.attributes(info[2])[1]
    inner = rt.Message(0, 0, 0, far)
    assert (rt.link_of(inner).name, rt.link_of(inner).address) == (peer, mac)
    assert rt.attributes(far, 16)[19] == struct.pack("=I", pid)


@given(indexes, st.one_of(ip4, ip6), st.integers(0, 32), st.sampled_from([0, rt.IFA_F_NODAD, rt.IFA_F_NOPREFIXROUTE]))
def test_address_round_trip(index: int, address: bytes, prefix: int, flags: int) -> None:
    family = rt.AF_INET if len(address) == 4 else rt.AF_INET6
    message = only(rt.address_new(index, address, prefix, flags))
    assert rt.address_of(message) == rt.Address(family, index, prefix, flags, address)


@given(ip4, st.integers(1, 30))
def test_broadcast_is_the_last_address(address: bytes, prefix: int) -> None:
    found = rt.attributes(only(rt.address_new(1, address, prefix)).body, 8)
    host = (1 << (32 - prefix)) - 1
    assert int.from_bytes(found[4], "big") == int.from_bytes(address, "big") | host


@given(st.one_of(ip4, ip6), st.integers(0, 32), indexes)
def test_route_round_trip(address: bytes, prefix: int, oif: int) -> None:
    family = rt.AF_INET if len(address) == 4 else rt.AF_INET6
    message = only(rt.route_new(family, destination=address, prefix=prefix, gateway=address, oif=oif))
    route = rt.route_of(message)
    assert (route.family, route.prefix, route.destination, route.gateway) == (family, prefix, address, address)
    assert (route.oif, route.table, route.kind) == (oif, rt.RT_TABLE_MAIN, rt.RTN_UNICAST)


@given(st.lists(names, max_size=5), st.integers(1, 2**31))
def test_batch_keeps_order_and_numbers(batch: list[str], first: int) -> None:
    data = rt.encode([rt.link_get(name) for name in batch], first)
    found = list(rt.messages(data))
    assert [m.sequence for m in found] == list(range(first, first + len(batch)))
    assert [rt.link_of(m).name for m in found] == batch
    assert len(data) % 4 == 0


def test_delete_names_what_goes() -> None:
    assert rt.link_of(only(rt.link_delete(9))).index == 9
    assert rt.link_of(only(rt.link_delete(name="veth0"))).name == "veth0"
    assert rt.link_of(only(rt.link_delete(group=77))).group == 77


def reply(code: int, request: bytes, flags: int, text: str) -> rt.Message:
    explanation = rt.attribute(rt.NLMSGERR_ATTR_MSG, text.encode() + b"\0")
    return rt.Message(rt.NLMSG_ERROR, flags, 1, struct.pack("=i", code) + request + explanation)


def test_explanation_of_the_kernel() -> None:
    header = rt.encode([rt.link_delete(9)], 1)
    capped = rt.NLM_F_CAPPED | rt.NLM_F_ACK_TLVS
    assert rt.failure_of(reply(-17, header[:16], capped, "exists")) == rt.Failure(17, "exists")
    assert rt.failure_of(reply(-17, header, rt.NLM_F_ACK_TLVS, "exists")) == rt.Failure(17, "exists")
    assert rt.failure_of(rt.Message(rt.NLMSG_ERROR, 0, 1, bytes(20))) == rt.Failure(0, "")


@pytest.mark.parametrize(
    "data",
    [b"\0", bytes(16), struct.pack("=IHHII", 15, 1, 0, 0, 0), struct.pack("=IHHII", 2**32 - 1, 1, 0, 0, 0)],
)
def test_refuses_impossible_lengths(data: bytes) -> None:
    with pytest.raises(Internal):
        list(rt.messages(data))


@given(st.binary(max_size=200))
def test_hostile_datagrams_raise_nothing_else(data: bytes) -> None:
    try:
        found = list(rt.messages(data))
    except Internal:
        return
    assert sum(16 + len(m.body) for m in found) <= len(data)


@given(st.binary(max_size=300), st.integers(0, 0xFFFF), st.sampled_from([rt.NLMSG_ERROR, rt.NLMSG_DONE]))
def test_hostile_bodies_raise_nothing_else(body: bytes, flags: int, kind: int) -> None:
    message = rt.Message(kind, flags, 1, body)
    for parse in (rt.link_of, rt.address_of, rt.route_of, rt.failure_of):
        try:
            parse(message)
        except Internal:
            continue


@given(st.data())
def test_flipped_bytes_raise_nothing_else(data: st.DataObject) -> None:
    good = bytearray(rt.encode([rt.link_new("veth0", "veth", peer=rt.Peer("eth0", b"123456", 7))], 1))
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    try:
        for message in rt.messages(bytes(good)):
            rt.link_of(message)
    except Internal:
        return
