from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.cli.flags import Help, Options, Syntax, UsageError, many, missing, parse, render, switch, value

FLAGS = (
    switch("-d --detach", "Detach"),
    switch("-i --interactive", "Stdin"),
    switch("-t --tty", "Terminal"),
    switch("--sig-proxy", "Signals", default=True),
    many("-e --env", "Environment"),
    value("--name", "Name"),
    value("-u --user", "User", "root"),
    *missing("--gpus", "-x"),
)
RUN = Syntax("IMAGE [ARG...]", "Run", FLAGS, least=1, interspersed=False)
LIST = Syntax("[NAME...]", "List", FLAGS)


def run(*words: str) -> Options:
    return parse("orlop run", RUN, words)


def test_options_end_at_the_image() -> None:
    options = run("-it", "busybox", "ls", "-l", "--name", "x")
    assert options.arguments == ("busybox", "ls", "-l", "--name", "x")
    assert options.interactive
    assert options.tty
    assert options.name == ""


def test_options_may_stand_behind_names_elsewhere() -> None:
    options = parse("orlop rm", LIST, ["a", "-d", "b", "--", "-c"])
    assert options.arguments == ("a", "b", "-c")
    assert options.detach


@pytest.mark.parametrize("words", [("--name=x",), ("--name", "x")])
def test_values_of_long_options(words: tuple[str, ...]) -> None:
    assert run(*words, "image").name == "x"


@pytest.mark.parametrize("words", [("-u", "x"), ("-ux",), ("-u=x",), ("-du", "x"), ("-dux",)])
def test_values_of_short_options(words: tuple[str, ...]) -> None:
    assert run(*words, "image").user == "x"


def test_a_value_may_be_empty_or_begin_with_a_dash() -> None:
    assert run("--name=", "image").name == ""
    assert run("--name", "-1", "image").name == "-1"


def test_lists_gather_and_are_not_shared_between_parses() -> None:
    assert run("-e", "A=1", "--env", "B", "image").env == ["A=1", "B"]
    assert run("image").env == []


@pytest.mark.parametrize(("text", "wanted"), [("=false", False), ("=0", False), ("=true", True), ("", True)])
def test_switches_can_be_set_either_way(text: str, wanted: bool) -> None:
    assert run(f"--sig-proxy{text}", "image").sig_proxy is wanted


def test_what_was_given_is_known() -> None:
    assert run("--user", "root", "image").given == {"user"}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--nope", "image"], "unknown flag: --nope"),
        (["-dz", "image"], "unknown flag: -z"),
        (["--gpus", "all", "image"], "orlop run: --gpus is not implemented yet"),
        (["-x", "image"], "orlop run: -x is not implemented yet"),
        (["--name"], "flag needs an argument: --name"),
        (["--tty=maybe", "image"], 'invalid argument "maybe" for "--tty"'),
        ([], "'orlop run' requires at least 1 argument"),
    ],
)
def test_wrong_command_lines_are_refused_by_name(words: list[str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        run(*words)


def test_counts_of_arguments() -> None:
    with pytest.raises(UsageError, match="requires exactly 2 arguments"):
        parse("orlop tag", Syntax("A B", "", least=2, most=2), ["x"])
    with pytest.raises(UsageError, match="requires no argument"):
        parse("orlop info", Syntax("", "", most=0), ["x"])
    with pytest.raises(UsageError, match="requires at most 1 argument"):
        parse("orlop images", Syntax("", "", most=1), ["x", "y"])


def test_help_lists_what_is_there_and_not_what_is_missing() -> None:
    with pytest.raises(Help) as caught:
        run("--help")
    text = str(caught.value)
    assert '  -u, --user string   User (default "root")' in text
    assert "      --sig-proxy     Signals (default true)" in text
    assert "gpus" not in text
    assert text == render("orlop run", RUN)


@given(st.lists(st.text(max_size=12), max_size=8))
def test_any_command_line_is_parsed_or_refused_in_one_line(words: list[str]) -> None:
    try:
        parse("orlop run", RUN, words)
    except Help:
        return
    except UsageError as error:
        told = error.message
    else:
        return
    assert len(told) < 400
