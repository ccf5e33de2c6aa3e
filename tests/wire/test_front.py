"""Messages between front end and daemon: what is packed is read back, and nothing else is taken for a message."""

from __future__ import annotations

import re
import struct
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.spec.errors import InvalidArgument
from orlop.wire import front
from orlop.wire.front import Command, pack, pack_command, pack_spawn, parse_answer, parse_command

SOURCE = Path(__file__).parents[2] / "native/front.c"


# what the kernel gives: bytes without NUL, which Python has as text with surrogates for what is not UTF-8
def text(without: bytes) -> st.SearchStrategy[str]:
    return st.binary(max_size=40).map(lambda raw: raw.translate(None, without).decode("utf-8", "surrogateescape"))


words, names = text(b"\0"), text(b"\0=").filter(bool)
commands = st.builds(
    Command,
    arguments=st.lists(words, min_size=1, max_size=8).map(tuple),
    environment=st.dictionaries(names, words, max_size=8),
    umask=st.integers(0, 0o7777),
    ignored=st.frozensets(st.integers(1, 64)),
)


@given(commands)
def test_a_command_arrives_as_it_was_sent(command: Command) -> None:
    assert parse_command(pack_command(command)) == command


@given(commands, st.data())
def test_a_command_that_is_cut_is_refused(command: Command, data: st.DataObject) -> None:
    whole = pack_command(command)
    with pytest.raises(InvalidArgument):
        parse_command(whole[: data.draw(st.integers(0, len(whole) - 1))])


@given(commands, st.binary(min_size=1, max_size=20))
def test_nothing_may_follow_a_command(command: Command, more: bytes) -> None:
    with pytest.raises(InvalidArgument):
        parse_command(pack_command(command) + more)


@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda raw: struct.pack("<I", front.PROTOCOL) + raw))
def test_any_bytes_are_a_command_or_an_invalid_argument(data: bytes) -> None:
    try:
        command = parse_command(data)
    except InvalidArgument:
        return
    assert command.arguments
    assert all("\0" not in word for word in command.arguments)


def test_a_command_without_arguments_or_with_an_impossible_umask_is_refused() -> None:
    good = Command(("x",), {}, 0o22, frozenset())
    for bad in (Command((), {}, 0o22, frozenset()), Command(("x",), {}, 0o10000, frozenset())):
        with pytest.raises(InvalidArgument):
            parse_command(pack_command(bad))
    assert parse_command(pack_command(good)) == good


def test_another_protocol_is_refused() -> None:
    data = bytearray(pack_command(Command(("x",), {}, 0, frozenset())))
    data[0] ^= 1
    with pytest.raises(InvalidArgument, match="protocol"):
        parse_command(bytes(data))


def test_of_two_variables_with_one_name_the_first_counts_and_what_is_none_is_left_out() -> None:
    strings = b"x\0A=1\0A=2\0=bad\0nothing\0B=a=b\0"
    data = struct.pack("<IIIIQ", front.PROTOCOL, 0, 1, 5, 0) + strings
    assert parse_command(data).environment == {"A": "1", "B": "a=b"}


@given(st.lists(words, max_size=5), st.lists(words, max_size=5), st.lists(st.integers(0, 300), max_size=80), words)
def test_a_program_to_start_has_its_counts_before_its_strings(
    arguments: list[str], environment: list[str], targets: list[int], program: str
) -> None:
    message = pack_spawn(program, arguments, environment, targets, front.UNMASK)
    head = struct.unpack_from("<5I", message)
    assert head == (front.SPAWN, front.UNMASK, len(targets), len(arguments), len(environment))
    at = 20 + 4 * len(targets)
    assert struct.unpack_from(f"<{len(targets)}I", message, 20) == tuple(targets)
    strings = message[at:].decode("utf-8", "surrogateescape").split("\0")
    assert strings == [program, *arguments, *environment, ""]


@pytest.mark.parametrize(
    ("arguments", "environment", "targets"),
    [
        (("x" * front.MOST_BYTES,), (), ()),
        (("x",) * 8001, (), ()),
        (("x",), ("A=",) * 8001, ()),
        (("x",), (), range(front.MOST_FDS + 1)),
    ],
)
def test_what_the_front_end_could_not_take_is_not_sent(arguments: object, environment: object, targets: object) -> None:
    with pytest.raises(InvalidArgument, match="launch helper: arguments and environment are too long"):
        pack_spawn("", arguments, environment, targets)  # type: ignore[arg-type]


def test_an_answer_is_two_numbers() -> None:
    assert parse_answer(struct.pack("<ii", -2, 9)) == (-2, 9)
    for bad in (b"", b"\0" * 7, b"\0" * 9):
        with pytest.raises(InvalidArgument):
            parse_answer(bad)
    assert pack(front.EXIT, 255) == b"\5\0\0\0\xff\0\0\0"


def test_both_sides_have_the_same_numbers() -> None:
    text = SOURCE.read_text()
    defined = {name: int(value, 0) for name, value in re.findall(r"#define (\w+) (0x[0-9a-f]+|\d+)u?\b", text)}
    assert (defined["PROTOCOL"], defined["NOWHERE"]) == (front.PROTOCOL, front.NOWHERE)
    assert defined["MOST_FDS"] == front.MOST_FDS
    assert f"static char buffer[{front.MOST_BYTES // 1024} * 1024];" in text
    for group in re.findall(r"^enum \{ (.*) \};", text, re.MULTILINE):
        for name, value in (entry.split(" = ") for entry in group.split(", ")):
            assert getattr(front, name) == int(value)


def test_a_wheel_has_the_front_end_and_the_program_that_it_becomes() -> None:
    project = tomllib.loads((SOURCE.parents[1] / "pyproject.toml").read_text())
    shared = project["tool"]["hatch"]["build"]["targets"]["wheel"]["shared-scripts"]
    assert shared == {"src/orlop/_native/orlop-front": "orlop-runtime"}
    cold = re.findall(r'#define COLD_PROGRAM "(.*)"', SOURCE.read_text())
    assert [name for name in project["project"]["scripts"] if name.startswith("orlop-runtime")] == cold
