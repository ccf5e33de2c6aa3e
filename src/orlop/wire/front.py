"""Messages between `orlop-runtime`'s front end and the daemon, over a SOCK_SEQPACKET socket. Sans I/O.

All words are little endian. The daemon begins: COLD (the front end then runs the command itself) or TAKEN with the
worker's pid. The front end sends the command and its descriptors: 0, 1, 2, the working directory, then 3, 4, ... as far
as they may be passed on. Then the worker asks and the front end answers, one request at a time, until EXIT. COLD may
also answer the command.

    command   u32 PROTOCOL, umask, arguments, variables; u64 ignored signals (bit n-1: signal n); strings
    TAKEN     u32 TAKEN, pid, PROTOCOL
    COLD      u32 COLD
    SPAWN     u32 SPAWN, flags, fds, arguments, variables; u32 target of each fd; strings: program, arguments, variables
                                                      -> i32 pid or -errno, i32 0
    WAIT      u32 WAIT, pid, options of waitpid(2)    -> i32 pid, 0 or -errno, i32 status
    EXIT      u32 EXIT, exit status
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import msgspec

from orlop.spec.errors import InvalidArgument

PROTOCOL = 0x4F524C31
TAKEN, COLD, SPAWN, WAIT, EXIT = 1, 2, 3, 4, 5
UNMASK = 1  # flag of SPAWN: with no signal blocked
NOWHERE = 0xFFFFFFFF  # target of a descriptor that is the program itself
MOST_BYTES = 192 * 1024
MOST_FDS = 80
STANDARD = 4  # descriptors that every command has

_COMMAND = struct.Struct("<IIIIQ")
_ANSWER = struct.Struct("<ii")


class Command(msgspec.Struct, frozen=True):
    """What the front end was called with."""

    arguments: tuple[str, ...]
    environment: dict[str, str]
    umask: int
    ignored: frozenset[int]


def parse_command(data: bytes) -> Command:
    """Raises InvalidArgument for what is not wholly a command of this protocol."""
    if len(data) < _COMMAND.size:
        raise InvalidArgument("front end: the command is too short")
    protocol, umask, arguments, variables, ignored = _COMMAND.unpack_from(data)
    if protocol != PROTOCOL:
        raise InvalidArgument("front end: another protocol")
    text = data[_COMMAND.size :].decode("utf-8", "surrogateescape")
    words = text.split("\0")
    if words[-1] != "" or len(words) - 1 != arguments + variables or not arguments or umask > 0o7777:
        raise InvalidArgument("front end: the command is cut or has too much in it")
    environment: dict[str, str] = {}
    for word in words[arguments:-1]:
        name, equals, value = word.partition("=")
        if name and equals:
            environment.setdefault(name, value)  # of two the first counts, as in an interpreter of one's own
    return Command(
        tuple(words[:arguments]),
        environment,
        umask,
        frozenset(number for number in range(1, 65) if ignored >> (number - 1) & 1) if ignored else frozenset(),
    )


def pack_command(command: Command) -> bytes:
    """What the front end sends; for tests."""
    words = [*command.arguments, *(f"{name}={value}" for name, value in command.environment.items())]
    mask = sum(1 << (number - 1) for number in command.ignored)
    head = _COMMAND.pack(PROTOCOL, command.umask, len(command.arguments), len(command.environment), mask)
    return head + _strings(words)


def pack(*words: int) -> bytes:
    """TAKEN, COLD, WAIT and EXIT."""
    return struct.pack(f"<{len(words)}I", *words)


def pack_spawn(
    program: str, arguments: Sequence[str], environment: Sequence[str], targets: Sequence[int], flags: int = 0
) -> bytes:
    """SPAWN. Where `program` is empty the first descriptor is the program. Raises InvalidArgument if it is too long."""
    head = pack(SPAWN, flags, len(targets), len(arguments), len(environment), *targets)
    message = head + _strings((program, *arguments, *environment))
    if len(message) > MOST_BYTES or len(targets) > MOST_FDS or max(len(arguments), len(environment)) > 8000:
        raise InvalidArgument(f"{program or 'launch helper'}: arguments and environment are too long")
    return message


def _strings(words: Sequence[str]) -> bytes:
    return b"".join(word.encode("utf-8", "surrogateescape") + b"\0" for word in words)


def parse_answer(data: bytes) -> tuple[int, int]:
    """(pid, status); a negative pid is an error number."""
    if len(data) != _ANSWER.size:
        raise InvalidArgument("front end: the answer is none")
    first, second = _ANSWER.unpack(data)
    return int(first), int(second)
