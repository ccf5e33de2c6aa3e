"""What a container wrote to its standard streams."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from orlop.engine.records import Container
from orlop.shim import logs
from orlop.spec.errors import FailedPrecondition

if TYPE_CHECKING:
    from orlop.engine.engine import Engine


def read_logs(
    engine: Engine,
    container: Container,
    *,
    tail: int | None = None,
    since: str | int | None = None,
    until: str | int | None = None,
    follow: bool = False,
    stdout: bool = True,
    stderr: bool = True,
) -> Iterator[logs.LogLine]:
    """Lines, oldest first; see `orlop.shim.logs.read`. `follow` ends with the container."""
    if container.config.log.driver == "none":
        raise FailedPrecondition(f"container {container.name} was started with --log-driver none: it has no log")
    path = engine.paths.container(container.id) / "log.json"
    if not path.exists():
        return iter(())
    return logs.read(
        path,
        tail=tail,
        since=since,
        until=until,
        follow=follow and container.running,
        directory=engine.paths.run(container.id),
        stdout=stdout,
        stderr=stderr,
    )
