"""Assembled seccomp programs, kept on disk: assembling takes longer than all else in starting a container.

An entry's name is the digest of the rules. Its first line names the library that assembled it by path, time and size,
and the digest of the program, so that finding one costs a read and a stat: libseccomp is not even loaded. An entry
that is not wholly as it should be is made anew. The directory is the owner's alone (0700): whoever could write here
could take a container's filter away.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from orlop.seccomp.assemble import VERSION, assemble, flags
from orlop.spec.digest import sha256_hex
from orlop.spec.runtime import Seccomp

_MAGIC = b"orlop-seccomp"
_LIMIT = 1 << 20  # bytes of an entry; the kernel takes programs of 32 KiB


class Program(msgspec.Struct, frozen=True):
    """What seccomp(2) is called with."""

    code: bytes
    flags: int


def program(seccomp: Seccomp, directory: Path | str) -> Program:
    """The program for the rules, from `directory` or assembled and put there.

    A directory that can't be written costs the time to assemble, nothing else. Raises what `assemble` does.
    """
    bits = flags(seccomp)
    path = os.path.join(directory, _key(seccomp))
    code = _read(path)
    if code is None:
        code = assemble(seccomp)
        _write(str(directory), path, code)
    return Program(code, bits)


def _key(seccomp: Seccomp) -> str:
    return sha256_hex(VERSION.encode() + b"\0" + msgspec.json.encode(seccomp))


def _read(path: str) -> bytes | None:
    """The program of an entry, or None where there is none that can be trusted."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        about = os.fstat(fd)
        if about.st_uid != os.geteuid() or about.st_mode & 0o022 or about.st_size > _LIMIT:
            return None
        head, _, code = os.read(fd, _LIMIT).partition(b"\n")
    finally:
        os.close(fd)
    fields = head.split(b" ", 2)
    if len(fields) != 3 or fields[0] != _MAGIC or not code or len(code) % 8:
        return None
    if fields[1] != sha256_hex(code).encode():
        return None
    library = fields[2].rpartition(b" ")[0].rpartition(b" ")[0].decode("utf-8", "surrogateescape")
    return code if _mark(library) == fields[2] else None


def _mark(library: str) -> bytes | None:
    """Path, time and size of a library: when one of them differs, another version has been installed."""
    try:
        about = os.stat(library)
    except OSError:
        return None
    return f"{library} {about.st_mtime_ns} {about.st_size}".encode("utf-8", "surrogateescape")


def _write(directory: str, path: str, code: bytes) -> None:
    from orlop.sys import libseccomp

    mark = _mark(libseccomp.path())
    if mark is None:
        return
    entry = b" ".join((_MAGIC, sha256_hex(code).encode(), mark)) + b"\n" + code
    temporary = f"{path}.{os.getpid()}.{os.urandom(4).hex()}"
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(entry)
        os.rename(temporary, path)
    except OSError:
        # the cache saves time only: a full or read-only disk must not keep a container from starting
        _forget(temporary)


def _forget(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass
