"""The messages of CRIU's RPC, byte for byte, and whatever else may come."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.spec.errors import InvalidArgument
from orlop.wire import criu, protobuf


def test_the_examples_of_the_encoding() -> None:
    """protobuf.dev, "Encoding": 150 in field 1, `testing` in field 2, -2 as int32 takes ten bytes."""
    assert protobuf.number(1, 150) == b"\x08\x96\x01"
    assert protobuf.data(2, "testing") == b"\x12\x07testing"
    assert protobuf.varint(-2) == b"\xfe" + b"\xff" * 8 + b"\x01"


@given(st.lists(st.tuples(st.integers(1, 1 << 28), st.integers(-(1 << 63), (1 << 63) - 1) | st.binary(max_size=300))))
def test_fields_come_back(wanted: list[tuple[int, int | bytes]]) -> None:
    message = b"".join(
        protobuf.number(field, value) if isinstance(value, int) else protobuf.data(field, value)
        for field, value in wanted
    )
    found = [(f, protobuf.signed(v) if isinstance(v, int) else v) for f, v in protobuf.fields(message)]
    assert found == wanted


@given(st.binary(max_size=200))
def test_hostile_answers_are_refused_or_read(data: bytes) -> None:
    try:
        criu.parse(data)
    except InvalidArgument:
        pass


def test_fixed_width_fields_are_passed_over() -> None:
    assert list(protobuf.fields(b"\x09" + bytes(8) + b"\x15" + bytes(4) + b"\x18\x01"))[-1] == (3, 1)
    for cut in (b"\x08", b"\x12\x05ab", b"\x0b", b"\x08" + b"\xff" * 10 + b"\x01"):
        with pytest.raises(InvalidArgument):
            list(protobuf.fields(cut))


def test_a_request_says_what_differs_from_the_defaults() -> None:
    found = dict(protobuf.fields(criu.request(criu.DUMP, criu.Options(images_dir_fd=0))))
    assert found[1] == criu.DUMP
    assert isinstance(found[2], bytes)
    # descriptor 0 counts; log level 4, notifications, control groups by CRIU's own mode, the terminal's master
    assert dict(protobuf.fields(found[2])) == {1: 0, 9: 4, 12: 1, 24: 1, 34: 6, 50: 1}


def test_lists_and_pairs() -> None:
    options = criu.Options(
        images_dir_fd=5,
        work_dir_fd=0,
        external_mounts=(("/a", "key"), ("/b", "other")),
        inherit=(("pipe:[1]", 4),),
        page_server=("::1", 80),
        external=("net[1]:x",),
    )
    found = list(protobuf.fields(dict(protobuf.fields(criu.request(criu.RESTORE, options)))[2]))  # type: ignore[arg-type]
    assert (17, 0) in found
    assert [dict(protobuf.fields(v)) for f, v in found if f == 23 and isinstance(v, bytes)] == [
        {1: b"/a", 2: b"key"},
        {1: b"/b", 2: b"other"},
    ]
    assert (27, protobuf.data(1, "pipe:[1]") + protobuf.number(2, 4)) in found
    assert (11, protobuf.data(1, "::1") + protobuf.number(2, 80)) in found
    assert (37, b"net[1]:x") in found


def test_answers() -> None:
    head = protobuf.number(1, criu.NOTIFY) + protobuf.number(2, 1)
    told = criu.parse(head + protobuf.data(5, protobuf.data(1, "post-restore") + protobuf.number(2, 77)))
    assert (told.type, told.script, told.pid, told.success) == (criu.NOTIFY, "post-restore", 77, True)
    failed = protobuf.number(1, criu.DUMP) + protobuf.number(2, 0) + protobuf.number(7, -3) + protobuf.data(9, "why")
    assert (criu.parse(failed).errno, criu.parse(failed).message) == (-3, "why")
    checked = protobuf.number(1, criu.FEATURE_CHECK) + protobuf.number(2, 1) + protobuf.data(8, protobuf.number(2, 1))
    assert criu.parse(checked).features == criu.Features(mem_track=False, lazy_pages=True)
    with pytest.raises(InvalidArgument, match="no type"):
        criu.parse(b"")
