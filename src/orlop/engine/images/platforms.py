"""Which manifest of an index runs here (pure)."""

from __future__ import annotations

from orlop.spec.errors import FailedPrecondition, NotFound
from orlop.spec.image import INDEX_TYPES, MANIFEST_TYPES, Descriptor, ImageConfig, Index
from orlop.spec.platform import Platform, rank

_UNMARKED = 1000  # the rank of a manifest that the index gives no platform: any with a fitting one is better
_SHOWN = 12  # platforms listed in an error


def candidates(index: Index, wanted: Platform) -> tuple[Descriptor, ...]:
    """The children of `index` that fit `wanted`, the best first. Those that an index lists beside its images, such as
    attestations (platform unknown/unknown), fit nothing."""
    ranked = [
        (fit, position, child)
        for position, child in enumerate(index.manifests)
        if child.media_type in INDEX_TYPES | MANIFEST_TYPES and (fit := _rank(child, wanted)) is not None
    ]
    return tuple(child for _, _, child in sorted(ranked, key=lambda item: item[:2]))


def choose(index: Index, wanted: Platform, what: str) -> Descriptor:
    """The child that fits best, or `NotFound` naming what there is. `what` names the image in the error."""
    found = candidates(index, wanted)
    if not found:
        there = platforms(index)
        listed = ", ".join(there[:_SHOWN]) + (", ..." if len(there) > _SHOWN else "")
        raise NotFound(f"{what}: no image for platform {wanted}; there are: {listed or 'none'}")
    return found[0]


def platforms(index: Index) -> list[str]:
    """The platforms that an index has images for, in its order."""
    shown = [str(child.platform) for child in index.manifests if child.platform is not None]
    return list(dict.fromkeys(text for text in shown if not text.startswith("unknown")))


def check_config(config: ImageConfig, wanted: Platform, what: str, asked: bool) -> None:
    """Refuse an image that is for another platform. Configurations that name none are taken as they are. `asked` is
    whether the user named the platform."""
    have = config.platform
    if not have.architecture or rank(have, wanted) is not None:
        return
    remedy = "" if asked else f"; to take it anyway ask for --platform {have}"
    raise FailedPrecondition(f"{what}: the image is for platform {have}, not {wanted}{remedy}")


def _rank(child: Descriptor, wanted: Platform) -> int | None:
    if child.platform is None or not child.platform.architecture:
        return _UNMARKED
    return rank(child.platform, wanted)
