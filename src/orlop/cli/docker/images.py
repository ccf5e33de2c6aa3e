"""`orlop images`: list images."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

from orlop.cli.context import Context
from orlop.cli.docker.filters import Test, has_label, select, truth
from orlop.cli.docker.listing import FILTER, FORMAT, Row, show, show_names
from orlop.cli.docker.moments import ago, local, seconds_of
from orlop.cli.docker.named import NO_TRUNC_HELP
from orlop.cli.docker.units import human_size
from orlop.cli.flags import Options, Syntax, missing, switch
from orlop.engine.images.image import Image
from orlop.engine.images.images import Images
from orlop.spec.errors import InvalidArgument
from orlop.spec.reference import parse_reference

SYNTAX = Syntax(
    "[REPOSITORY[:TAG]]",
    "List images",
    (
        switch("-a --all", "Show all images (default hides intermediate images, of which there are none)"),
        switch("--digests", "Show digests"),
        FILTER,
        FORMAT,
        switch("--no-trunc", NO_TRUNC_HELP),
        switch("-q --quiet", "Only show image IDs"),
        *missing("--tree"),
    ),
    most=1,
)
TITLES = {
    "Repository": "REPOSITORY", "Tag": "TAG", "Digest": "DIGEST", "ID": "IMAGE ID", "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT", "Size": "SIZE", "Containers": "CONTAINERS", "SharedSize": "SHARED SIZE",
    "UniqueSize": "UNIQUE SIZE", "VirtualSize": "SIZE",
}  # fmt: skip
NONE = "<none>"


def main(options: Options, context: Context) -> int:
    """A row for each name of each image."""
    images = context.engine.images
    found = select(images.list(), options.filter, _tests(images))
    patterns = [text.partition("=")[2].strip() for text in options.filter if text.strip().startswith("reference=")]
    now = time.time()
    rows = [
        row
        for image in found
        for row in _rows(image, options.no_trunc, now)
        if _shown(row, options.arguments) and _shown(row, patterns)
    ]
    if options.quiet and not options.format:
        show_names([row["ID"] for row in rows])
        return 0
    columns = ("Repository", "Tag", *(("Digest",) if options.digests else ()), "ID", "CreatedSince", "Size")
    show(rows, TITLES, columns, options.format)
    return 0


def _rows(image: Image, full: bool, now: float) -> list[Row]:
    created = image.created
    common = {
        "ID": image.id if full else image.short_id,
        "CreatedSince": ago(created, now),
        "CreatedAt": local(created),
        "Size": human_size(image.size),
        "VirtualSize": human_size(image.size),
        "Containers": "N/A",
        "SharedSize": "N/A",
        "UniqueSize": "N/A",
    }
    return [
        {"Repository": repository, "Tag": tag, "Digest": digest, **common} for repository, tag, digest in _names(image)
    ]


def _shown(row: Row, patterns: Sequence[str]) -> bool:
    """Of an image's names only those that were asked for."""
    return not patterns or any(_matches(pattern, row["Repository"], row["Tag"]) for pattern in patterns)


def _names(image: Image) -> list[tuple[str, str, str]]:
    """(repository, tag, digest) for each name; digests of a repository stand beside its tags."""
    by_repository = dict(text.split("@", 1) for text in image.repository_digests)
    names: list[tuple[str, str, str]] = []
    for text in image.tags:
        repository, _, tag = text.rpartition(":")
        names.append((repository, tag, by_repository.get(repository, NONE)))
    tagged = {repository for repository, _, _ in names}
    names += [(name, NONE, digest) for name, digest in by_repository.items() if name not in tagged]
    return names or [(NONE, NONE, NONE)]


def _matches(pattern: str, repository: str, tag: str) -> bool:
    """`redis`, `redis:7`, or with wildcards `lib*/redis:7*`."""
    name, colon, wanted = pattern.rpartition(":")
    if not colon or "/" in wanted:
        name, wanted = pattern, "*"
    names = {repository}
    if repository != NONE:
        reference = parse_reference(repository)
        names |= {reference.name, reference.path}
    return any(_wild(name, each) for each in names) and _wild(wanted, tag)


def _wild(pattern: str, text: str) -> bool:
    """Shell wildcards; `*` does not go beyond a slash."""
    parts = re.split(r"([*?])", pattern)
    expression = "".join({"*": "[^/]*", "?": "[^/]"}.get(part, re.escape(part)) for part in parts)
    return re.fullmatch(expression, text) is not None


def _tests(images: Images) -> dict[str, Test[Image]]:
    def when(image: Image, ref: str, later: bool) -> bool:
        own, other = seconds_of(image.created) or 0.0, seconds_of(images.resolve(ref).created) or 0.0
        return own > other if later else own < other

    return {
        "dangling": lambda image, text: bool(image.tags) != truth(text, "dangling"),
        "label": lambda image, text: has_label(image.config.defaults.labels or {}, text),
        "before": lambda image, text: when(image, text, later=False),
        "since": lambda image, text: when(image, text, later=True),
        "until": _until,
        "reference": lambda image, text: any(_matches(text, r, t) for r, t, _ in _names(image)),
    }


def _until(image: Image, text: str) -> bool:
    from orlop.wire.moment import parse_moment

    created = seconds_of(image.created)
    try:
        moment = parse_moment(text, time.time_ns(), time.localtime().tm_gmtoff, "until")
    except InvalidArgument as error:
        raise InvalidArgument(f"invalid filter: {error}") from None
    return created is not None and created * 1e9 < moment
