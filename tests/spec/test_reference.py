"""Image references as Docker's users write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.spec.errors import InvalidArgument
from orlop.spec.reference import parse_reference

D = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "full", "familiar"),
    [
        ("redis", "docker.io/library/redis:latest", "redis:latest"),
        ("redis:alpine", "docker.io/library/redis:alpine", "redis:alpine"),
        ("bitnami/redis", "docker.io/bitnami/redis:latest", "bitnami/redis:latest"),
        ("docker.io/redis", "docker.io/library/redis:latest", "redis:latest"),
        ("index.docker.io/library/redis", "docker.io/library/redis:latest", "redis:latest"),
        ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
        ("localhost:5000/x:1", "localhost:5000/x:1", "localhost:5000/x:1"),
        ("quay.io/a/b/c:v1", "quay.io/a/b/c:v1", "quay.io/a/b/c:v1"),
        ("[::1]:5000/x", "[::1]:5000/x:latest", "[::1]:5000/x:latest"),
        (f"redis@{D}", f"docker.io/library/redis@{D}", f"redis@{D}"),
        (f"redis:7@{D}", f"docker.io/library/redis:7@{D}", f"redis:7@{D}"),
    ],
)
def test_normalises_as_docker_does(text: str, full: str, familiar: str) -> None:
    reference = parse_reference(text)
    assert (str(reference), reference.familiar) == (full, familiar)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "a b",
        "UPPER",
        "redis:",
        "redis:ta g",
        "a//b",
        "-a",
        "a/../b",
        "x" * 300,
        "redis\n",
        "redis\x1b[2J",
        "redis@sha256:abc",
        "redis@md5:" + "a" * 32,
        "a" * 64,
        "host:port/x",
        "/abs",
        "a/",
    ],
)
def test_refuses_what_is_no_reference_in_one_line(text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_reference(text)
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


@given(st.text(max_size=200))
def test_any_text_is_a_reference_or_an_error(text: str) -> None:
    try:
        reference = parse_reference(text)
    except InvalidArgument:
        return
    assert parse_reference(str(reference)) == reference
    assert parse_reference(reference.familiar) == reference
