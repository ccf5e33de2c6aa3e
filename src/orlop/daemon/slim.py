"""Imports asyncio, gRPC and messages without what they drag along and a daemon needs seldom or never: 8 MiB.

Whoever comes before them imports this first. asyncio looks for `ssl`, with OpenSSL behind it, and does without where it
is missing: nothing here speaks TLS but pulls, which import it themselves. gRPC takes two names of the language from
`typing_extensions`. protobuf has messages in Python as well, beside those in C that are used.
"""

from __future__ import annotations

import sys
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from orlop.standins import StandIn

_IN_PYTHON = "google.protobuf.internal.python_message"
F = TypeVar("F", bound=Callable[..., object])


def _overrides(function: F) -> F:
    """As typing.override, which is there since Python 3.12."""
    return function


def _names() -> StandIn:
    """The rest of its names are the real module's."""
    found = StandIn("typing_extensions")
    found.Self = typing.Self  # type: ignore[attr-defined]
    found.override = _overrides  # type: ignore[attr-defined]
    return found


@contextmanager
def _without() -> Iterator[None]:
    placed = {"ssl": None, "typing_extensions": _names(), _IN_PYTHON: StandIn(_IN_PYTHON)}
    placed = {name: module for name, module in placed.items() if name not in sys.modules}
    sys.modules.update(placed)  # type: ignore[arg-type]  # None: the import fails
    try:
        yield
    finally:
        for name, module in placed.items():
            if name in sys.modules and sys.modules[name] is module:
                del sys.modules[name]


with _without():
    import asyncio  # noqa: F401

    import grpc.aio  # noqa: F401

    import orlop._stubs.cri.api_pb2  # noqa: F401
