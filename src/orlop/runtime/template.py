"""An encoded plan with a gap where the command goes: what `orlop exec` starts a second command with.

All that a further process of one container needs is the same each time, but for its arguments. So the plan of the
first one is kept, cut at the two operations that name the program, and the next ones are filled in without reading the
container's configuration again. Pure, and imports nothing that takes long.

A template is a key, which says for what circumstances it was made (see `circumstances`), and the plan's parts.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

MAGIC = b"orlop-exec-1"
_COUNT = 6  # parts: key, codes of FindExec and Execve, before the one, between them, environment, PATH
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def pack(parts: Sequence[bytes]) -> bytes:
    """The file: the magic, then each part behind its length."""
    return MAGIC + b"".join(struct.pack("<I", len(part)) + part for part in parts)


def unpack(data: bytes) -> list[bytes] | None:
    """The parts; None for what is not wholly a template."""
    if not data.startswith(MAGIC):
        return None
    parts, at = [], len(MAGIC)
    while at + 4 <= len(data):
        (length,) = struct.unpack_from("<I", data, at)
        parts.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    return parts if at == len(data) and len(parts) == _COUNT else None


def fill(parts: Sequence[bytes], command: Sequence[str]) -> bytes:
    """The plan for a command."""
    _, codes, before, between, environment, path = parts
    find, execve = struct.unpack("<HH", codes)
    candidates = strings(candidate_paths(command[0], path.decode("utf-8", "surrogateescape")))
    return b"".join(
        (
            before,
            operation(find, candidates),
            between,
            operation(execve, candidates + strings(command) + environment),
        )
    )


def candidate_paths(program: str, path: str) -> tuple[str, ...]:
    """The paths to try in turn: the program itself where it has a slash in it, else it in each directory of PATH."""
    if "/" in program or not program:
        return (program,)
    # an empty element means the working directory (execvp(3))
    return tuple(dict.fromkeys(f"{directory or '.'}/{program}" for directory in (path or _DEFAULT_PATH).split(":")))


def operation(code: int, body: bytes) -> bytes:
    """One operation as `encode` writes it, never to be skipped."""
    return struct.pack("<HBBI", code, 0, 0, len(body)) + body


def strings(values: Sequence[str]) -> bytes:
    """A list of strings as `encode` writes it."""
    raw = [value.encode("utf-8", "surrogateescape") for value in values]
    return struct.pack("<I", len(raw)) + b"".join(struct.pack("<I", len(each)) + each + b"\0" for each in raw)
