"""`Engine.run`: a container as a function call, its output captured."""

from __future__ import annotations

import select
import time
from typing import TYPE_CHECKING, Any

import msgspec

from orlop.engine.config import ContainerConfig
from orlop.engine.exit import conclude
from orlop.shim.client import ShimClient
from orlop.spec.errors import DeadlineExceeded, InvalidArgument
from orlop.wire import frames
from orlop.wire.frames import Exit

if TYPE_CHECKING:
    from orlop.engine.engine import Engine


_CHUNK = 32768


class Completed(msgspec.Struct, frozen=True, kw_only=True):
    """How a captured run ended. With a terminal all output is in `stdout`."""

    exit_code: int
    stdout: bytes
    stderr: bytes


def run_captured(
    engine: Engine, image: str, command: list[str] | None, stdin: bytes, timeout: float | None, options: dict[str, Any]
) -> Completed:
    """See `Engine.run`."""
    known = {field.name for field in msgspec.structs.fields(ContainerConfig)}
    if unknown := sorted(set(options) - known):
        raise InvalidArgument(f"run: no option {unknown[0]!r} in ContainerConfig")
    config = msgspec.structs.replace(
        ContainerConfig(image=image, command=tuple(command) if command else None, auto_remove=True),
        open_stdin=bool(stdin),
        stdin_once=bool(stdin),
        **options,
    )
    container = engine.containers.create(config)
    try:
        return _captured(engine, container.id, stdin, timeout)
    except BaseException:
        engine.containers.remove(container.id, force=True, volumes=True)
        raise


def _captured(engine: Engine, identifier: str, stdin: bytes, timeout: float | None) -> Completed:
    deadline = None if timeout is None else time.monotonic() + timeout
    started = engine.containers.start(identifier, attach=True, stdin=bool(stdin))
    client = started.client
    assert client is not None
    with client:
        output = {1: bytearray(), 2: bytearray()}
        ended = _exchange(client, stdin, output, deadline)
        if ended is None:
            raise DeadlineExceeded(f"run: the container did not end within {timeout} seconds")
        conclude(engine, started.container)
        client.done()
    return Completed(exit_code=ended.status, stdout=bytes(output[1]), stderr=bytes(output[2]))


def _exchange(client: ShimClient, stdin: bytes, output: dict[int, bytearray], deadline: float | None) -> Exit | None:
    """Write `stdin` and read all output until the end; None when the deadline comes first. Both at once, since a
    program that writes before it has read everything must not stand still."""
    queue = bytearray()
    for start in range(0, len(stdin), _CHUNK):
        queue += frames.encode_stdin(stdin[start : start + _CHUNK])
    if stdin:
        queue += frames.encode(frames.STDIN_EOF)
    while True:
        if not client.pending:
            events = _poll(client, bool(queue), deadline)
            if not events:
                return None
            if queue and events & select.POLLOUT:
                del queue[: client.send_some(bytes(queue[:_CHUNK]))]
            if not events & ~select.POLLOUT:
                continue
        frame = client.receive()
        if frame is None:
            return client.wait(0)
        if frame.type == frames.OUTPUT:
            output[frame.stream] += frame.payload
        elif frame.type == frames.EXIT:
            return frames.decode_exit(frame)


def _poll(client: ShimClient, writing: bool, deadline: float | None) -> int:
    """What the connection is ready for; 0 when the deadline has passed."""
    poll = select.poll()
    poll.register(client.fileno(), select.POLLIN | (select.POLLOUT if writing else 0))
    left = None if deadline is None else max(0.0, (deadline - time.monotonic()) * 1000)
    return next((events for _, events in poll.poll(left)), 0)
