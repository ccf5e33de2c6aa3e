"""Reads the host's specifications of devices (see `cdi`), anew for each container that wants one: they come and go."""

from __future__ import annotations

import os

from orlop.cri.cdi import Library, library
from orlop.spec.errors import FailedPrecondition, OrlopError

DIRECTORIES = ("/etc/cdi", "/var/run/cdi")  # the later one goes before the earlier
_YAML = (".yaml", ".yml")
_LARGEST = 16 << 20  # bytes of a file


def read(directories: tuple[str, ...] = DIRECTORIES) -> Library:
    """What can't be used is in the result with its reason, for whoever looks for something in vain."""
    files, broken = list[dict[str, bytes]](), dict[str, str]()
    for directory in directories:
        files.append({})
        for name in _names(directory):
            path = os.path.join(directory, name)
            if not name.endswith((".json", *_YAML)):
                continue
            try:
                content = _content(path)
                files[-1][path] = _from_yaml(content, path) if name.endswith(_YAML) else content
            except OSError as error:
                broken[path] = os.strerror(error.errno or 0).lower()
            except OrlopError as error:
                broken[path] = str(error).removeprefix(f"{path}: ")
    return library(directories, files, broken)


def _from_yaml(content: bytes, path: str) -> bytes:
    try:
        from orlop.cri import cdi_yaml
    except ModuleNotFoundError:
        raise FailedPrecondition("is YAML, for which PyYAML is missing: `pip install orlop[daemon]`") from None
    return cdi_yaml.as_json(content, path)


def _names(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError:  # most hosts have neither
        return []


def _content(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        if os.fstat(fd).st_size > _LARGEST:
            raise OSError(27, "")  # EFBIG
        with open(fd, "rb", closefd=False) as file:
            return file.read(_LARGEST)
    finally:
        os.close(fd)
