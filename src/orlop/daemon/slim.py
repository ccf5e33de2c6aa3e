"""Imports asyncio, gRPC and messages without what they drag along and a daemon needs seldom or never: 12 MiB.

Whoever comes before them imports this first. Most modules that they name, and use late or not at all, have a stand-in
meanwhile (see `orlop.standins`), which brings the real one when it is used. asyncio looks for `ssl`, with OpenSSL
behind it, and does without where it is missing: nothing here speaks TLS but pulls, which import it themselves. So does
`shutil` with compressions, for archives that nobody here makes with it. gRPC takes two names of the language from
`typing_extensions`. protobuf has messages in Python as well, beside those in C that are used.
"""

from __future__ import annotations

import _datetime  # type: ignore[import-not-found]
import sys
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType, MethodType
from typing import TypeVar

import orlop.light
from orlop.standins import StandIn

_LATE = (
    "asyncio.sslproto",
    "calendar",  # with `locale`; google.protobuf.internal.well_known_types
    "google.protobuf.descriptor_database",
    "google.protobuf.internal.python_message",
    "google.protobuf.text_encoding",
    "pkgutil",  # gRPC, for the certificates that it comes with
)
_CO_COROUTINE = 0x80  # inspect.CO_COROUTINE
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


def _inspect() -> StandIn:
    """asyncio and gRPC ask it of each handler that they are given whether it is a coroutine's. `inspect` knows many
    kinds, and brings the parser and the disassembler along; it is asked about what is no plain function or method."""
    found = StandIn("inspect")

    def is_coroutine_function(function: object) -> bool:
        plain = function.__func__ if isinstance(function, MethodType) else function
        if type(plain) is FunctionType and not plain.__dict__:
            return bool(plain.__code__.co_flags & _CO_COROUTINE)
        import inspect

        return inspect.iscoroutinefunction(function)

    found.iscoroutinefunction = is_coroutine_function  # type: ignore[attr-defined]
    return found


def _subprocess() -> StandIn:
    """asyncio takes its constants when it is imported."""
    found = StandIn("subprocess")
    found.PIPE, found.STDOUT, found.DEVNULL = -1, -2, -3  # type: ignore[attr-defined]
    return found


@contextmanager
def _without() -> Iterator[None]:
    placed: dict[str, object] = {name: StandIn(name) for name in _LATE}
    placed |= {"inspect": _inspect(), "subprocess": _subprocess(), "typing_extensions": _names()}
    placed |= dict.fromkeys(("ssl", "bz2", "lzma"))  # their import fails
    placed["datetime"] = _datetime  # the same types, without the module that has all of it in Python once more
    placed = {name: module for name, module in placed.items() if name not in sys.modules}
    sys.modules.update(placed)  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name, module in placed.items():
            if name in sys.modules and sys.modules[name] is module:
                del sys.modules[name]


with _without():
    import asyncio  # noqa: F401
    import dataclasses  # noqa: F401 - h11's
    import shutil  # noqa: F401

    import grpc.aio  # noqa: F401

    import orlop._stubs.cri.api_pb2  # noqa: F401
