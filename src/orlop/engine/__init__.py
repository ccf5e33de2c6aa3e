"""Orlop's public library: `Engine` and the types it takes and returns."""

from orlop.engine.engine import Engine

__all__ = ["Engine"]
