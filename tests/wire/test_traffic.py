"""Requests of traffic control: what the kernel reads in them is in tests/network."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from orlop.wire import rtnetlink as rt
from orlop.wire import traffic

BODY = 20  # bytes of tcmsg
DEVICE = st.integers(1, (1 << 31) - 1)


def parts(request: rt.Request) -> tuple[tuple[int, ...], bytes, dict[int, bytes]]:
    """Device, handle, parent and info; kind; options."""
    (message,) = rt.messages(rt.encode([request], 1))
    found = rt.attributes(message.body, BODY)
    return struct.unpack_from("=4xiIII", message.body), found[1], rt.attributes(found.get(2, b""))


@given(DEVICE, st.integers(1, 10**15), st.integers(1, 1 << 31), st.integers(1, 1 << 31))
def test_a_token_bucket(device: int, rate: int, burst: int, queue: int) -> None:
    head, kind, options = parts(traffic.token_bucket(device, rate, burst, queue))
    assert (head, kind) == ((device, 0, 0xFFFFFFFF, 0), b"tbf\0")
    whole, limit = struct.unpack_from("=8xI12xI", options[1])
    assert (len(options[1]), limit, struct.unpack("=I", options[6])) == (36, queue, (burst,))
    told = struct.unpack("=Q", options[4])[0] if rate >= 1 << 32 else whole
    assert told == rate
    assert whole == min(rate, (1 << 32) - 1)


@given(DEVICE, DEVICE)
def test_everything_goes_through_another_device(device: int, through: int) -> None:
    assert parts(traffic.ingress(device))[:2] == ((device, 0xFFFF0000, 0xFFFFFFF1, 0), b"ingress\0")
    head, kind, options = parts(traffic.redirected(device, through))
    assert (head, kind) == ((device, 0, 0xFFFF0000, 1 << 16 | 0x0300), b"u32\0")  # the protocol in network order
    assert (len(options[5]), options[5][0], options[5][2]) == (32, 1, 1)
    action = rt.attributes(rt.attributes(options[7])[1])
    assert action[1] == b"mirred\0"
    assert struct.unpack("=8xi8xiI", rt.attributes(action[2])[2]) == (4, 1, through)
