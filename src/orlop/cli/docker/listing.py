"""Printing lists as Docker does: a table with titles, IDs alone (-q), or what `--format` makes of each row."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from orlop.cli.docker.table import layout
from orlop.cli.flags import many, value
from orlop.cli.text import lines, one_line

Row = dict[str, Any]  # what a template sees as .Field

FORMAT = value("--format", "Format output using a custom template: 'table', 'table TEMPLATE', 'json', or a Go template")


FILTER = many("-f --filter", "Filter output based on conditions provided", "filter")


def show(rows: Sequence[Row], titles: dict[str, str], columns: Sequence[str], format: str = "") -> None:
    """Print rows. `titles` names every field that templates may use; `columns` are those of the plain table."""
    if format in ("", "table"):
        sys.stdout.write(layout([[titles[c] for c in columns], *([str(row[c]) for c in columns] for row in rows)]))
    elif format == "json":
        show_json(rows)
    else:
        _templated(rows, titles, format)


def show_json(rows: Sequence[Row]) -> None:
    """One JSON object a line."""
    from orlop.cli.docker.json_text import compact

    for row in rows:
        print(compact({key: item for key, item in sorted(row.items()) if not callable(item)}))


def _templated(rows: Sequence[Row], titles: dict[str, str], format: str) -> None:
    from orlop.cli.docker.template import parse

    table = format.startswith("table ")
    text = format.removeprefix("table ").strip() if table else format
    template = parse(text.replace("\\t", "\t").replace("\\n", "\n"))
    rendered = [template.render(row) for row in rows]
    if not table:
        sys.stdout.write("".join(safe(text) + "\n" for text in rendered))
        return
    rendered.insert(0, template.render(titles))
    sys.stdout.write(layout([line.split("\t") for text in rendered for line in text.split("\n")]))


def safe(text: str) -> str:
    """What a template made, for a terminal without its control characters, for a pipe as it is."""
    return lines(text) if sys.stdout.isatty() else text.encode("utf-8", "replace").decode("utf-8", "replace")


def show_names(names: Sequence[str]) -> None:
    """-q: one a line."""
    sys.stdout.write("".join(one_line(name) + "\n" for name in names))
