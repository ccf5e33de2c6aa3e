"""Printing one object as `--format` says."""

from __future__ import annotations

import sys
from typing import Any

from orlop.cli.docker.json_text import compact
from orlop.cli.docker.listing import safe


def print_one(data: Any, format: str) -> None:
    """`json`, or a Go template."""
    if format == "json":
        print(compact(data))
        return
    from orlop.cli.docker.template import parse

    sys.stdout.write(safe(parse(format).render(data)) + "\n")
