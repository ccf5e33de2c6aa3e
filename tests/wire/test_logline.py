from __future__ import annotations

import datetime
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.spec.errors import DataLoss, InvalidArgument
from orlop.wire.logline import decode_line, encode_line, format_time, parse_time
from orlop.wire.moment import parse_duration, parse_moment

TIME = "2026-11-21T11:22:33.000000001Z"
TIMES = st.integers(-(10**18), 4 * 10**18)


@given(st.text(), st.sampled_from(["stdout", "stderr"]), TIMES)
def test_round_trip(text: str, stream: str, time_ns: int) -> None:
    line = decode_line(encode_line(text.encode("utf-8", "surrogatepass"), stream, format_time(time_ns)))
    assert line.stream == stream
    assert line.time_ns == time_ns
    assert line.text == text.encode("utf-8", "surrogatepass").decode("utf-8", "replace") or max(text) >= "\ud800"


@given(st.binary())
def test_any_bytes_make_a_json_line(data: bytes) -> None:
    line = encode_line(data, "stdout", TIME)
    assert line.count(b"\n") == 1
    assert set(json.loads(line)) == {"log", "stream", "time"}


def test_escapes_as_docker_does() -> None:
    line = encode_line(b'<a>&"\\\t\r\n\x7f\xff\xe2\x80\xa8', "stderr", TIME)
    assert line == (
        rb'{"log":"\u003ca\u003e\u0026\"\\\u0009\r\n'
        + b"\x7f"
        + rb'\ufffd\u2028","stream":"stderr","time":"'
        + TIME.encode()
        + b'"}\n'
    )


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"null",
        b'{"log":"x"}',
        b'{"log":1,"stream":"stdout","time":"2026-11-21T11:22:33Z"}',
        b'{"log":"x","stream":"disk","time":"2026-11-21T11:22:33Z"}',
        b'{"log":"x","stream":"stdout","time":"today"}',
        b'{"log":"x","stream":"stdout","time":"2026-13-21T11:22:33Z"}',
        b"\xff\xfe",
    ],
)
def test_damage_is_data_loss(line: bytes) -> None:
    with pytest.raises(DataLoss, match="log line"):
        decode_line(line)


@given(st.datetimes(datetime.datetime(1970, 1, 1), datetime.datetime(2262, 1, 1)))
def test_times_agree_with_the_calendar(moment: datetime.datetime) -> None:
    ns = (moment - datetime.datetime(1970, 1, 1)) // datetime.timedelta(microseconds=1) * 1000
    assert parse_time(moment.isoformat() + "Z") == ns
    assert parse_time(format_time(ns)) == ns


def test_zero_fraction_is_left_out() -> None:
    assert format_time(0) == "1970-01-01T00:00:00Z"
    assert format_time(500_000_000) == "1970-01-01T00:00:00.5Z"


def test_offset_is_applied() -> None:
    assert parse_time("1970-01-01T02:00:00+01:30") == 1800 * 10**9


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1h30m", 5400 * 10**9),
        ("1.5s", 1_500_000_000),
        ("100ms", 10**8),
        (".5m", 30 * 10**9),
        ("-2s", -2 * 10**9),
        ("0.000000001s", 1),
    ],
)
def test_durations(text: str, ns: int) -> None:
    assert parse_duration(text) == ns


@pytest.mark.parametrize("text", ["", "5", "s", "1x", "1h 2m", "1..5s"])
def test_refuses_what_is_no_duration(text: str) -> None:
    with pytest.raises(InvalidArgument, match="duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("10m", 10**18 - 600 * 10**9),
        ("1136073600.000000001", 1136073600 * 10**9 + 1),
        ("1136073600", 1136073600 * 10**9),
        ("1970-01-02", 86400 * 10**9 - 3600 * 10**9),
        ("1970-01-02Z", 86400 * 10**9),
        ("1970-01-01T01", 0),
        ("1970-01-01T00:00:01.5Z", 1_500_000_000),
        ("1970-01-01T01:00:00+01:00", 0),
    ],
)
def test_moments(text: str, ns: int) -> None:
    assert parse_moment(text, 10**18, utc_offset=3600) == ns


@pytest.mark.parametrize("text", ["yesterday", "2026-02", "2026-02-30T25:00", "99:00", "", "1e9"])
def test_refuses_what_is_no_moment(text: str) -> None:
    with pytest.raises(InvalidArgument, match="since"):
        parse_moment(text, 0, field="since")
