from __future__ import annotations

import pytest

from orlop.cli.docker.filters import Test, has_label, parse_filters, select, truth
from orlop.cli.docker.images import _matches, _wild
from orlop.spec.errors import InvalidArgument

TESTS: dict[str, Test[dict[str, str]]] = {
    "name": lambda item, text: text in item["name"],
    "label": has_label,
}
ITEMS = [{"name": "web"}, {"name": "db", "tier": "back"}, {"name": "webdb", "tier": "back", "x": "1"}]


def names(*texts: str) -> list[str]:
    return [item["name"] for item in select(ITEMS, texts, TESTS)]


def test_values_of_one_key_are_alternatives_and_keys_must_all_hold() -> None:
    assert names() == ["web", "db", "webdb"]
    assert names("name=web", "name=db") == ["web", "db", "webdb"]
    assert names("name=web", "label=tier") == ["webdb"]


def test_labels_must_all_be_there() -> None:
    assert names("label=tier=back", "label=x") == ["webdb"]
    assert names("label=tier=front") == []


@pytest.mark.parametrize(("text", "says"), [("name", "want name=value"), ("nope=1", "there are label, name")])
def test_unknown_filters_are_refused(text: str, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        parse_filters([text], tuple(TESTS))


def test_truth() -> None:
    assert truth("1", "dangling")
    assert not truth("False", "dangling")
    with pytest.raises(InvalidArgument, match="dangling=maybe"):
        truth("maybe", "dangling")


@pytest.mark.parametrize(
    ("pattern", "repository", "tag", "wanted"),
    [
        ("redis", "redis", "7", True),
        ("redis:7", "redis", "7", True),
        ("redis:6", "redis", "7", False),
        ("red*", "redis", "7", True),
        ("redis:7*", "redis", "7.2", True),
        ("library/redis", "redis", "7", True),
        ("docker.io/library/redis", "redis", "7", True),
        ("*/*", "a/b", "1", True),
        ("*", "a/b/c", "1", False),
        ("localhost:5000/a", "localhost:5000/a", "1", True),
        ("localhost:5000/a:1", "localhost:5000/a", "1", True),
    ],
)
def test_patterns_of_image_names(pattern: str, repository: str, tag: str, wanted: bool) -> None:
    assert _matches(pattern, repository, tag) is wanted


def test_wildcards_are_no_regular_expressions() -> None:
    assert not _wild("a.c", "abc")
    assert not _wild("[ab]", "a")
