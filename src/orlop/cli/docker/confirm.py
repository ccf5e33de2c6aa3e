"""Asks before things are removed."""

from __future__ import annotations

import sys

from orlop.cli.flags import switch

FORCE = switch("-f --force", "Do not prompt for confirmation")


def agreed(force: bool, warning: str) -> bool:
    """Whether to go on: with -f, or when the user says yes."""
    if force:
        return True
    print(f"WARNING! {warning}\nAre you sure you want to continue? [y/N] ", end="", flush=True)
    answer = sys.stdin.readline().strip().lower()
    if not sys.stdin.isatty():
        print()
    return answer in ("y", "yes")
