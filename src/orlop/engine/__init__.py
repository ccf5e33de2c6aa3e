"""Orlop's public library: `Engine` and the types it takes and returns."""

from orlop import light  # noqa: F401 - before anything imports msgspec
from orlop.engine.engine import Engine

__all__ = ["Engine"]
