"""Columns as Docker lays them out: at least ten wide, three spaces between, the last one as it comes. Pure."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from orlop.cli.text import one_line

PADDING = 3


def layout(rows: Sequence[Sequence[str]], least: int = 10) -> str:
    """Lines of text, each row's cells under those above. `least` is a column's narrowest width, padding included."""
    cells = [[one_line(cell) for cell in row] for row in rows]
    widths = [0] * max((len(row) for row in cells), default=0)
    for row in cells:
        for index, cell in enumerate(row[:-1]):
            widths[index] = max(widths[index], width(cell) + PADDING, least)
    return "".join(_line(row, widths) + "\n" for row in cells)


def _line(row: list[str], widths: list[int]) -> str:
    padded = [cell + " " * (widths[index] - width(cell)) for index, cell in enumerate(row[:-1])]
    return "".join(padded) + (row[-1] if row else "")


def width(text: str) -> int:
    """Columns that the text takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 0 if unicodedata.combining(c) else 1 for c in text)
