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
    documents = (engine.images.manifest_json(image), engine.images.target_json(image))
    return any(ANNOTATION in decode(raw, _Annotated, "manifest").annotations for raw in documents)


class _Annotated(msgspec.Struct, frozen=True):
    annotations: dict[str, str] = {}
