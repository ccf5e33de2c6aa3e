from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orlop.cli.docker.json_text import compact
from orlop.cli.docker.table import layout, width
from orlop.cli.text import lines, one_line


def test_columns_are_ten_wide_or_three_more_than_the_longest() -> None:
    text = layout([["ID", "NAME", "SIZE"], ["123456789012", "a", "1"]])
    assert text == "ID             NAME      SIZE\n123456789012   a         1\n"


def test_last_column_is_not_padded() -> None:
    assert layout([["A"], ["longer"]]) == "A\nlonger\n"


def test_wide_characters_count_twice() -> None:
    assert width("船") == 2
    assert layout([["船船船船船", "x"]]) == "船船船船船   x\n"


def test_control_characters_do_not_reach_a_terminal() -> None:
    assert layout([["a\x1b[31m\n", "b"]]) == "a\\x1b[31m\\n   b\n"
    assert one_line("\x9b\u202e\ud800") == "\\x9b\\u202e\\ud800"
    assert lines("a\tb\n\x07") == "a\tb\n\\x07"
    assert compact({"a": "\x1b\x9b\x7f"}) == '{"a":"\\u001b\\u009b\\u007f"}'


@given(st.text())
def test_escaped_text_is_one_printable_line(text: str) -> None:
    shown = one_line(text)
    assert shown.isprintable() or not any(c in shown for c in "\n\r\x1b\x9b\x00\t")
    assert one_line(shown) == shown
    shown.encode()


def test_ordinary_text_stays() -> None:
    assert one_line("naïve 船 ✓ a\\b") == "naïve 船 ✓ a\\b"
