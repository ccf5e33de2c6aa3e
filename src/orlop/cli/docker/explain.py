"""`orlop explain`: a container or an image in one screen."""

from __future__ import annotations

from orlop.cli.context import Context
from orlop.cli.flags import Options, Syntax, UsageError, value
from orlop.cli.text import one_line
from orlop.spec.errors import NotFound

SYNTAX = Syntax(
    "CONTAINER|IMAGE",
    "Show a container or an image in one screen, and where each part comes from",
    (value("--type", "Only explain objects of the given type (container|image)"),),
    least=1,
    most=1,
)


def main(options: Options, context: Context) -> int:
    """A container of that name, else an image."""
    if options.type not in ("", "container", "image"):
        raise UsageError(f"unknown type: {options.type[:40]!r}: want container or image")
    for line in _explained(options, context):
        print(one_line(line))
    return 0


def _explained(options: Options, context: Context) -> list[str]:
    name = options.arguments[0]
    if options.type != "image":
        try:
            details = context.engine.containers.inspect(name)
        except NotFound:
            if options.type:
                raise
        else:
            from orlop.cli.docker.explain_container import explain
            from orlop.cli.docker.observe import observe

            return explain(details, observe(context.engine.cgroups, details))
    from orlop.cli.docker.explain_image import explain as explain_image

    try:
        image = context.engine.images.resolve(name)
    except NotFound as error:
        if options.type:
            raise
        raise NotFound(f"no such container or image: {name[:160]}{_elsewhere(error)}") from None
    return explain_image(image, context.engine.images.target_json(image))


def _elsewhere(error: NotFound) -> str:
    """What the error says of other namespaces."""
    _, found, rest = error.message.partition(": not in ")
    return f": not in {rest}" if found else ""
