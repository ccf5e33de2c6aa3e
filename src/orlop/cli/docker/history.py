"""`orlop history`: the instructions that made an image."""

from __future__ import annotations

import time

from orlop.cli.context import Context
from orlop.cli.docker.command_text import ellipsis
from orlop.cli.docker.listing import FORMAT, Row, show, show_names
from orlop.cli.docker.moments import ago
from orlop.cli.docker.named import NO_TRUNC_HELP
from orlop.cli.docker.units import human_size
from orlop.cli.flags import Options, Syntax, missing, switch
from orlop.engine.images.image import HistoryEntry

SYNTAX = Syntax(
    "IMAGE",
    "Show the history of an image",
    (
        FORMAT,
        switch("-H --human", "Print sizes and dates in human readable format", default=True),
        switch("--no-trunc", NO_TRUNC_HELP),
        switch("-q --quiet", "Only show image IDs"),
        *missing("--platform"),
    ),
    least=1,
    most=1,
)
TITLES = {
    "ID": "IMAGE", "CreatedSince": "CREATED", "CreatedAt": "CREATED AT", "CreatedBy": "CREATED BY", "Size": "SIZE",
    "Comment": "COMMENT",
}  # fmt: skip
COLUMNS = ("ID", "CreatedSince", "CreatedBy", "Size", "Comment")


def main(options: Options, context: Context) -> int:
    """Newest first. Only the topmost entry is an image; sizes are those of the layers as they are stored."""
    image = context.engine.images.resolve(options.arguments[0])
    entries = context.engine.images.history(options.arguments[0])
    top = image.id if options.no_trunc else image.short_id
    rows = [_row(e, top if n == 0 else "<missing>", options, time.time()) for n, e in enumerate(entries)]
    if options.quiet:
        show_names([row["ID"] for row in rows])
        return 0
    titles = TITLES if options.human else TITLES | {"CreatedSince": "CREATED AT"}
    show(rows, titles, COLUMNS, options.format)
    return 0


def _row(entry: HistoryEntry, identifier: str, options: Options, now: float) -> Row:
    made_by = entry.created_by.replace("\t", " ")
    return {
        "ID": identifier,
        "CreatedSince": ago(entry.created, now) if options.human else entry.created,
        "CreatedAt": entry.created,
        "CreatedBy": made_by if options.no_trunc else ellipsis(made_by, 45),
        "Size": human_size(entry.size) if options.human else str(entry.size),
        "Comment": entry.comment,
    }
