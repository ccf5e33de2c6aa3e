"""The ctnetlink codec."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orlop.spec.errors import Internal
from orlop.wire import conntrack as ct
from orlop.wire import rtnetlink as rt


@given(st.integers(1, 65535), st.sampled_from(sorted(ct.PROTOCOLS.values())))
def test_request_names_the_port(port: int, protocol: int) -> None:
    (message,) = rt.messages(rt.encode([ct.flows_to(rt.AF_INET, protocol, port)], 1))
    assert ct.flow_of(message).port == port


def test_flow_is_forgotten_by_the_kernels_own_words() -> None:
    flow = ct.Flow(rt.AF_INET, b"", 0, rt.attribute(9, b"whatever"))
    (message,) = rt.messages(rt.encode([ct.forget(flow)], 1))
    assert ct.flow_of(message) == flow


@given(st.binary(max_size=200))
def test_hostile_bodies_raise_nothing_else(body: bytes) -> None:
    try:
        ct.flow_of(rt.Message(0x100, 0, 1, body))
    except Internal:
        return
