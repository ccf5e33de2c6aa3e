"""What a container runs, as text. Pure."""

from __future__ import annotations

from orlop.cli.text import one_line
from orlop.engine.config import ContainerConfig
from orlop.spec.image import ImageConfig


def arguments(config: ContainerConfig, image: ImageConfig | None) -> tuple[str, ...]:
    """The entry point and its arguments, by Docker's rule: an entry point of the request's own drops the image's
    command."""
    defaults = image.defaults if image is not None else None
    entrypoint = config.entrypoint
    if entrypoint is None:
        entrypoint = (defaults.entrypoint or ()) if defaults else ()
    command = config.command
    if command is None:
        command = (defaults.cmd or ()) if defaults and config.entrypoint is None else ()
    return (*entrypoint, *command)


def joined(words: tuple[str, ...]) -> str:
    """In one line; an argument with a space stands in quotes."""
    return " ".join(f"'{word}'" if " " in word else word for word in words)


def quoted(text: str, limit: int = 0) -> str:
    """In double quotes, cut to `limit` characters with an ellipsis: the COMMAND column."""
    return '"' + one_line(ellipsis(text, limit).replace("\\", "\\\\").replace('"', '\\"')) + '"'


def ellipsis(text: str, limit: int) -> str:
    """At most `limit` characters (0: any), the last one an ellipsis where it was cut."""
    return text[: limit - 1] + "…" if limit and len(text) > limit else text
