"""Stand-ins for modules that others import and that a command seldom needs: the real one comes when it is used.

What `run`, `exec` and `ps` import decides what they cost. Some of it is there for the sake of one function that they
never call: `msgspec` imports the module behind JSON schemas, `uuid` one that knows every platform, `pathlib` one that
takes URLs apart, `socket` the event loop's selectors. While those are imported, the modules below have a stand-in
whose attributes are the real module's, imported at the first look. Afterwards the stand-ins are gone from
`sys.modules`: whoever imports the modules by name gets the real ones, and nothing behaves differently.
"""

from __future__ import annotations

import _datetime  # type: ignore[import-not-found]
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

# module: functions that are taken from it by name (`from module import function`)
DEFERRED: dict[str, tuple[str, ...]] = {
    "textwrap": (),  # msgspec._json_schema
    "msgspec._json_schema": ("schema", "schema_components"),  # msgspec.json
    "msgspec.inspect": (),  # msgspec
    "urllib.parse": ("quote_from_bytes",),  # pathlib, for Path.as_uri
    "fnmatch": (),  # pathlib, for glob
    "ntpath": (),  # pathlib, for paths of Windows
    "selectors": (),  # socket, for sendfile
    "array": (),  # socket, for send_fds
    "importlib.metadata": ("version",),  # urllib3, for HTTP/2
    "mimetypes": (),  # urllib3, for forms
    "calendar": (),  # email, for dates
    "stringprep": (),  # encodings.idna, for hosts that are not ASCII
}


class StandIn(ModuleType):
    """A module whose attributes are looked up in the real one."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):  # the import system's own questions
            raise AttributeError(name)
        return getattr(_real(self), name)


def _real(standin: ModuleType) -> ModuleType:
    """The module that a stand-in stands for."""
    name = standin.__name__
    if sys.modules.get(name) is standin:
        del sys.modules[name]
    return import_module(name)


def _function(standin: ModuleType, name: str) -> Callable[..., object]:
    def function(*arguments: object, **keywords: object) -> object:
        return getattr(_real(standin), name)(*arguments, **keywords)

    return function


@contextmanager
def deferred() -> Iterator[None]:
    """While the block runs, the import of a module above that is not there yet gives its stand-in."""
    placed: dict[str, ModuleType] = {}
    standin: ModuleType
    for name, functions in DEFERRED.items():
        if name not in sys.modules:
            placed[name] = standin = StandIn(name)
            for function in functions:
                setattr(standin, function, _function(standin, function))
    platform = ModuleType("platform")  # what uuid asks when it is imported; the real one compiles ten expressions
    platform.system = lambda: "Linux"  # type: ignore[attr-defined]
    if "platform" not in sys.modules:
        placed["platform"] = platform
    if "datetime" not in sys.modules:  # the same types, without the module that has all of it in Python once more
        placed["datetime"] = _datetime
    sys.modules.update(placed)
    try:
        yield
    finally:
        for name, standin in placed.items():
            if sys.modules.get(name) is standin:
                del sys.modules[name]
