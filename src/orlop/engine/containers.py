"""`Containers`: what an engine does with containers. Each verb's work stands in a module of its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from orlop.engine import lifecycle, settle
from orlop.engine.config import ContainerConfig, ExecConfig
from orlop.engine.records import Container
from orlop.engine.store import NAME, ContainerStore
from orlop.spec.errors import FailedPrecondition, InvalidArgument

if TYPE_CHECKING:
    from orlop.engine.engine import Engine
    from orlop.engine.exec import ExecSession
    from orlop.engine.inspect import Details
    from orlop.engine.start import Started
    from orlop.engine.top import Table
    from orlop.shim.client import ShimClient
    from orlop.shim.logs import LogLine


class Containers:
    """The containers of an engine's namespace.

    A container is made (`create`), then started (`start`), and ends by itself or by `stop` or `kill`; its record, its
    files and its log stay until `remove`. `ref` is always what a user may type: a name, an ID, or the beginning of an
    ID. Every method settles what it meets: a record that a killed process left behind is finished or undone first.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.store = ContainerStore(engine.database, engine.namespace)

    def get(self, ref: str) -> Container:
        """The container, settled. Raises NotFound."""
        return settle.settled(self.engine, self.store.find(ref))

    def list(self, all: bool = False) -> list[Container]:
        """Containers, newest first: the running ones, or all."""
        settled = (settle.settled(self.engine, container, gone_ok=True) for container in self.store.all())
        return [c for c in settled if c is not None and (all or c.running or c.state == lifecycle.RESTARTING)]

    def create(
        self, config: ContainerConfig, pull: str = "missing", progress: Callable[..., None] | None = None
    ) -> Container:
        """Make a container. `pull` is missing, always or never."""
        from orlop.engine.create import create

        return create(self.engine, config, pull, progress)

    def start(self, ref: str, attach: bool = False, stdin: bool = False, own: bool = False) -> Started:
        """Start a container. With `attach` the result carries a client that misses nothing of the output; with `own`,
        one that takes care of its end."""
        from orlop.engine.start import start

        return start(self.engine, self.get(ref), attach, stdin, own=own)

    def stop(self, ref: str, timeout: float | None = None, signal: str = "") -> Container:
        """Ask a container to end, and kill it when `timeout` seconds (default: its own, else 10) have passed."""
        from orlop.engine.stop import stop

        return stop(self.engine, self.get(ref), timeout, signal)

    def kill(self, ref: str, signal: str = "KILL") -> None:
        """Send a signal to a container's first process."""
        from orlop.engine.stop import kill

        kill(self.engine, self.get(ref), signal)

    def restart(self, ref: str, timeout: float | None = None, signal: str = "") -> Container:
        """Stop a container, if it runs, and start it."""
        container = self.get(ref)
        if container.running:
            self.stop(container.id, timeout, signal)
        return self.start(container.id).container

    def pause(self, ref: str) -> None:
        """Freeze every process of a container."""
        from orlop.engine.stop import pause

        pause(self.engine, self.get(ref))

    def unpause(self, ref: str) -> None:
        """Let the processes of a paused container go on."""
        from orlop.engine.stop import unpause

        unpause(self.engine, self.get(ref))

    def wait(self, ref: str) -> int:
        """Wait until a container ends; its exit code. Of one that does not run: the last one."""
        from orlop.engine.stop import wait

        return wait(self.engine, self.get(ref))

    def remove(self, ref: str, force: bool = False, volumes: bool = False) -> Container:
        """Remove a container; with `force` it is killed first; with `volumes` its anonymous volumes go too."""
        from orlop.engine.remove import remove

        return remove(self.engine, self.store.find(ref), force, volumes)

    def rename(self, ref: str, name: str) -> Container:
        """Give a container another name."""
        if not re.fullmatch(NAME, name):
            raise InvalidArgument(f"container name {name[:80]!r}: want [a-zA-Z0-9][a-zA-Z0-9_.-]+")
        container = self.get(ref)
        return self.store.reconfigure(container.id, name, msgspec.structs.replace(container.config, name=name))

    def exec(self, ref: str, config: ExecConfig, stdio: tuple[int, int, int] = (0, 1, 2)) -> ExecSession:
        """Start a further process in a running container."""
        from orlop.engine.exec import execute

        return execute(self.engine, self.get(ref), config, stdio)

    def attach(self, ref: str) -> ShimClient:
        """A client of a running container's supervisor, for its standard streams."""
        container = self.get(ref)
        if not container.running:
            raise FailedPrecondition(f"cannot attach to container {container.name}: it is {container.state}; start it")
        from orlop.shim.client import ShimClient

        return ShimClient(self.engine.paths.run(container.id))

    def logs(self, ref: str, **selection: Any) -> Iterator[LogLine]:
        """What a container wrote; `selection` are the keywords of `orlop.shim.logs.read`."""
        from orlop.engine.logs import read_logs

        return read_logs(self.engine, self.get(ref), **selection)

    def top(self, ref: str, arguments: tuple[str, ...] = ()) -> Table:
        """The processes of a running container."""
        from orlop.engine.top import top

        return top(self.engine, self.get(ref), arguments)

    def inspect(self, ref: str) -> Details:
        """All that is known of a container."""
        from orlop.engine.inspect import inspect

        return inspect(self.engine, self.get(ref))

    def validate_name(self, name: str) -> None:
        """Refuse a name that Docker would refuse."""
        if not re.fullmatch(NAME, name):
            raise InvalidArgument(f"invalid container name ({name[:80]!r}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
