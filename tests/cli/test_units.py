from __future__ import annotations

import pytest

from orlop.cli.docker.units import human_duration, human_memory, human_size, parse_duration, parse_integer, parse_size
from orlop.spec.errors import InvalidArgument


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("0", 0),
        ("512", 512),
        ("64m", 64 << 20),
        ("64M", 64 << 20),
        ("1.5g", 3 << 29),
        ("2KiB", 2048),
        ("1kb", 1024),
        ("10b", 10),
        ("-1", -1),
        ("1t", 1 << 40),
    ],
)
def test_sizes_are_powers_of_1024(text: str, wanted: int) -> None:
    assert parse_size(text, "--memory") == wanted


@pytest.mark.parametrize("text", ["", "m", "1x", "-2", "1e3", "1 000", "٣m", "0x10", "1..5m"])
def test_wrong_sizes_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="--memory"):
        parse_size(text, "--memory")


@pytest.mark.parametrize("text", ["", "x", "1.5", "99999999999999999999", "٣", "+1", "1_0"])
def test_wrong_integers_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_integer(text, "--time")


@pytest.mark.parametrize(("text", "seconds"), [("10s", 10), ("1m30s", 90), ("500ms", 0.5), ("1.5h", 5400)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text, "x") == seconds


@pytest.mark.parametrize("text", ["", "10", "s", "1d", "1m 30s"])
def test_wrong_durations_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_duration(text, "x")


@pytest.mark.parametrize(
    ("size", "wanted"),
    [(0, "0B"), (999, "999B"), (1000, "1kB"), (1234567, "1.23MB"), (77_800_000, "77.8MB"), (1.5e15, "1500TB")],
)
def test_sizes_as_docker_shows_them(size: float, wanted: str) -> None:
    assert human_size(size) == wanted


def test_disk_use_has_four_digits_and_memory_powers_of_1024() -> None:
    assert human_size(1_234_567, 4) == "1.235MB"
    assert human_memory(67108864) == "64MiB"
    assert human_memory(2_087_324_876) == "1.944GiB"


@pytest.mark.parametrize(
    ("seconds", "wanted"),
    [
        (0.4, "Less than a second"),
        (-3, "Less than a second"),
        (1.9, "1 second"),
        (2, "2 seconds"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (119, "About a minute"),
        (120, "2 minutes"),
        (3599, "59 minutes"),
        (3600, "About an hour"),
        (5399, "About an hour"),
        (5400, "2 hours"),
        (9000, "3 hours"),
        (47 * 3600, "47 hours"),
        (48 * 3600, "2 days"),
        (13 * 86400, "13 days"),
        (14 * 86400, "2 weeks"),
        (60 * 86400, "2 months"),
        (729 * 86400, "24 months"),
        (730 * 86400, "2 years"),
    ],
)
def test_durations_in_dockers_words(seconds: float, wanted: str) -> None:
    assert human_duration(seconds) == wanted
