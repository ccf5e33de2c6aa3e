"""Which images the kubelet's garbage collection leaves alone: `cri.pinned_images`. Pure.

An entry is a reference in any form that a user may type, or an image's ID, or one with `*` in it, which stands for any
characters: `registry.k8s.io/pause:*`. Names are compared in full form, as the kubelet has them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import translate

from orlop.engine.images.image import Image
from orlop.spec.digest import Digest
from orlop.spec.errors import InvalidArgument
from orlop.spec.reference import DEFAULT_DOMAIN, parse_reference

_PATTERN = re.compile(r"[A-Za-z0-9._:@/*\[\]-]{1,400}")


class Pinned:
    """Raises InvalidArgument for an entry that can be no image's name."""

    def __init__(self, entries: Iterable[str] = ()) -> None:
        self._exact: set[str] = set()
        patterns = []
        for entry in entries:
            if "*" in entry:
                patterns.append(_pattern(entry))
            else:
                self._exact.add(_exact(entry))
        self._pattern = re.compile("|".join(patterns)) if patterns else None

    def __contains__(self, image: Image) -> bool:
        names = {*image.names, image.id, image.digest, image.manifest_digest}
        # name@digest, for what a tag brought
        names |= {f"{name.rpartition(':')[0]}@{image.digest}" for name in image.names if "@" not in name}
        if not self._exact.isdisjoint(names):
            return True
        return self._pattern is not None and any(self._pattern.fullmatch(name) for name in image.names)


def _exact(entry: str) -> str:
    try:
        return str(Digest(entry))
    except InvalidArgument:
        pass
    if re.fullmatch(r"[0-9a-f]{64}", entry):
        return f"sha256:{entry}"
    reference = parse_reference(entry)
    return f"{reference.name}@{reference.digest}" if reference.digest else str(reference)


def _pattern(entry: str) -> str:
    if not _PATTERN.fullmatch(entry):
        raise InvalidArgument(f"image pattern {entry[:80]!r}: holds characters that no reference has")
    return translate(_full(entry).replace("[", "[[]"))


def _full(entry: str) -> str:
    """With Docker's registry in front where no other one can be meant."""
    head, slash, _ = entry.partition("/")
    if not slash:
        return entry if head.startswith("*") else f"{DEFAULT_DOMAIN}/library/{entry}"
    named = any(c in head for c in ".:*") or head == "localhost"
    return entry if named else f"{DEFAULT_DOMAIN}/{entry}"
