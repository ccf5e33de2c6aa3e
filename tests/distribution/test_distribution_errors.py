from __future__ import annotations

import time
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.distribution.errors import Asked, clean, from_status, retry_after, said
from orlop.spec.errors import OrlopError

ASKED = Asked("manifest redis:7", "redis", "registry.example", "push")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"errors":[{"code":"DENIED","message":"no such luck."}]}', ": no such luck"),
        (b'{"errors":[{"code":"DENIED"}]}', ": DENIED"),
        (b'{"errors":[{"code":7}]}', ""),
        (b'{"errors":[]}', ""),
        (b'{"error":"invalid_grant","error_description":"too old"}', ": too old"),
        (b'{"details":"incorrect username or password"}', ": incorrect username or password"),
        (b'{"message":"throttled"}', ": throttled"),
        (b"[" * 100_000, ""),
        (b"\xff\xfe", ""),
        (b"plain words", ""),
        (b"", ""),
        (b"  <html>", ": a web page, not a registry's answer"),
    ],
)
def test_what_an_error_document_says(body: bytes, words: str) -> None:
    assert said(body, "application/json") == words


@given(st.integers(100, 999), st.binary() | st.text().map(lambda t: b'{"errors":[{"message":"%s"}]}' % t.encode()))
def test_every_answer_is_one_short_printable_line(status: int, body: bytes) -> None:
    error = from_status(status, {}, body, ASKED)
    assert isinstance(error, OrlopError)
    assert str(error).isprintable()
    assert len(str(error)) < 400


def test_who_pushes_reads_push() -> None:
    text = "push access denied for redis, repository does not exist or may require `orlop login`"
    assert str(from_status(401, {}, b"", ASKED)) == text


@given(st.text())
def test_foreign_words_are_printable_and_short(text: str) -> None:
    assert clean(text).isprintable()
    assert len(clean(text)) <= 203


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("120", 120), (" 5 ", 5), ("0", 0), ("-1", None), ("soon", None), ("", None), ("1e9", None), ("\u0663", None)],
)
def test_retry_after_in_seconds(value: str, seconds: float | None) -> None:
    assert retry_after(value) == seconds


def test_retry_after_as_a_date() -> None:
    assert retry_after(formatdate(time.time() + 60, usegmt=True)) == pytest.approx(60, abs=3)
    assert retry_after(formatdate(0, usegmt=True)) == 0
