"""`Engine.run`: a container as a function call, its output captured."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec

from orlop.engine.config import ContainerConfig
from orlop.engine.exit import conclude
from orlop.spec.errors import DeadlineExceeded, InvalidArgument

if TYPE_CHECKING:
    from orlop.engine.engine import Engine


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
        ended, output = client.communicate(stdin, deadline)
        if ended is None:
            raise DeadlineExceeded(f"run: the container did not end within {timeout} seconds")
        conclude(engine, started.container)
        client.done()
    return Completed(exit_code=ended.status, stdout=output[1], stderr=output[2])
