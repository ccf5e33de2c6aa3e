from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.distribution.challenge import Challenge, parse_challenges

HUB = 'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/redis:pull"'


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (
            HUB,
            [
                Challenge(
                    "bearer",
                    {
                        "realm": "https://auth.docker.io/token",
                        "service": "registry.docker.io",
                        "scope": "repository:library/redis:pull",
                    },
                )
            ],
        ),
        ('Basic realm="a \\"quoted\\" realm"', [Challenge("basic", {"realm": 'a "quoted" realm'})]),
        ("BASIC Realm=plain", [Challenge("basic", {"realm": "plain"})]),
        (
            'Negotiate, Basic realm="x", charset="UTF-8", Bearer realm="y"',
            [
                Challenge("negotiate"),
                Challenge("basic", {"realm": "x", "charset": "UTF-8"}),
                Challenge("bearer", {"realm": "y"}),
            ],
        ),
        ("Negotiate YWJj==, Basic realm=z", [Challenge("negotiate"), Challenge("basic", {"realm": "z"})]),
        ('Bearer realm="a", realm="b"', [Challenge("bearer", {"realm": "a"})]),
        ('Bearer realm = "a" , scope=""', [Challenge("bearer", {"realm": "a", "scope": ""})]),
        ("", []),
        ("  ,,", []),
        ('"', []),
    ],
)
def test_headers_as_registries_send_them(header: str, expected: list[Challenge]) -> None:
    assert list(parse_challenges(header)) == expected


def test_scopes_are_split() -> None:
    challenge = parse_challenges('Bearer realm="x",scope="repository:a:pull  repository:b:pull,push"')[0]
    assert challenge.scopes == ("repository:a:pull", "repository:b:pull,push")


@given(st.text())
def test_anything_is_read_without_an_error(header: str) -> None:
    parse_challenges(header)


@given(st.dictionaries(st.from_regex(r"\A[a-z]{1,8}\Z"), st.text(st.characters(min_codepoint=32, max_codepoint=126))))
def test_quoted_values_survive(parameters: dict[str, str]) -> None:
    quoted = ",".join(
        '{}="{}"'.format(name, value.replace("\\", "\\\\").replace('"', '\\"')) for name, value in parameters.items()
    )
    assert parse_challenges(f"Bearer {quoted}") == (Challenge("bearer", parameters),)


def test_a_hostile_header_takes_no_time() -> None:
    for part in ('Bearer realm="' + "\\" * 100_000, "a " * 100_000, "a=" * 100_000, "," * 100_000):
        parse_challenges(part)
