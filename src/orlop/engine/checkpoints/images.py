"""Images whose root is a checkpoint. Looked at for every container that is made, and so apart from all the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from orlop.engine.checkpoints.metadata import ANNOTATION
from orlop.engine.images.image import Image
from orlop.spec.document import decode

if TYPE_CHECKING:
    from orlop.engine.engine import Engine


def is_checkpoint(engine: Engine, image: Image) -> bool:
    """Whether an image's root is what an archive of a checkpoint holds (an annotation says so)."""
    key = (image.target.digest, image.manifest.digest)
    if (known := _known.get(key)) is None:
        documents = (engine.images.manifest_json(image), engine.images.target_json(image))
        known = any(ANNOTATION in decode(raw, _Annotated, "manifest").annotations for raw in documents)
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        _known[key] = known
    return known


_known: dict[tuple[str, str], bool] = {}  # by digests: what they name never changes
_MOST_KNOWN = 256


class _Annotated(msgspec.Struct, frozen=True):
    annotations: dict[str, str] = {}
