"""`Pods`: groups of containers that share namespaces, as the Container Runtime Interface has them.

A pod's sandbox is a container whose process does nothing (native/pause.c); it holds the network, and what else the
pod's containers share. So a sandbox lives, ends and is settled after a crash like any other container: `create` and
`start` are one step here, and what is found between the two was made by a process that died.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from orlop.engine import lifecycle, settle
from orlop.engine.config import ContainerConfig, NetworkRequest
from orlop.engine.create import create
from orlop.engine.records import Container
from orlop.engine.remove import remove
from orlop.engine.start import Started, start
from orlop.engine.stop import end
from orlop.spec import cancel
from orlop.spec.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, os_errors

if TYPE_CHECKING:
    from orlop.engine.engine import Engine

Found = list[Container]  # within `Pods`, `list` is a method
PROGRAM = os.path.join(os.path.dirname(os.path.dirname(__file__)), "_native", "orlop-pause")


class Pods:
    """The pods of an engine's namespace. `ref` is a sandbox's ID, or the beginning of one that no other has."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def run(self, config: ContainerConfig) -> Started:
        """Make a sandbox and start it; its network is there when this returns. On failure nothing of it is left.

        Where one of this name and the very same request is there already, or comes to be while this waits for it, the
        call has been repeated: it is the answer. Raises AlreadyExists where the request is another one.
        """
        if config.pod is None or config.pod.sandbox:
            raise InvalidArgument("pod: the request is none for a sandbox")
        if config.pod.id_maps is not None and self.engine.user_namespace_obstacle:
            raise FailedPrecondition(f"user namespaces are not possible here: {self.engine.user_namespace_obstacle}")
        config = msgspec.structs.replace(config, rootfs=self._rootfs(), read_only=True, entrypoint=("/pause",))
        try:
            made = create(self.engine, config)
        except AlreadyExists:
            return Started(container=self._repeated(config))
        try:
            cancel.check()
            return start(self.engine, made, own=True)
        except BaseException:
            with cancel.under(None):
                remove(self.engine, made, force=True, volumes=True)
            raise

    def _repeated(self, config: ContainerConfig) -> Container:
        holder = self.engine.containers.store.named(config.name)
        with settle.held(self.engine, holder.id):  # while another process is at it
            pass
        now = self.engine.containers.store.get(holder.id)
        if now is not None and now.running and _asked(now.config) == _asked(config):
            return now
        raise AlreadyExists(f"pod sandbox name {config.name} is taken by {holder.id[:12]}")

    def _rootfs(self) -> str:
        """The directory that the sandbox's process sees; made once after a boot."""
        directory = self.engine.paths.state / "pause"
        program = directory / "pause"
        if not program.exists():
            with os_errors("make the root of sandboxes"):
                for name in ("", "dev"):
                    (directory / name).mkdir(mode=0o755, exist_ok=True)
                fresh = directory / f".{os.getpid()}"
                shutil.copyfile(PROGRAM, fresh)
                fresh.chmod(0o755)
                fresh.rename(program)
        return str(directory)

    def get(self, ref: str) -> Container:
        """The sandbox, settled. Raises NotFound."""
        found = self.engine.containers.get(ref)
        if not is_sandbox(found):
            raise NotFound(f"no such pod sandbox: {ref[:128]}")
        return found

    def list(self) -> Found:
        """Every sandbox, newest first. One that is being made or removed is none."""
        hidden = (lifecycle.CREATING, lifecycle.CREATED, lifecycle.REMOVING)
        return [c for c in self.engine.containers.list(all=True) if is_sandbox(c) and c.state not in hidden]

    def containers(self, sandbox: str) -> Found:
        """The containers of a pod, newest first."""
        return [c for c in self.engine.containers.store.all() if c.config.pod and c.config.pod.sandbox == sandbox]

    def stop(self, sandbox: Container, each: Callable[[Callable[[], object]], object] | None = None) -> None:
        """End every container of a pod, then its sandbox, and give its network back. Repeating it does no harm.

        `each` is called with the work on one container, and may have it done by a thread of its own.
        """
        waiting = []
        for container in self.containers(sandbox.id):
            if container.state in (*lifecycle.LIVE, lifecycle.RESTARTING):
                work = _ending(self.engine, container)
                waiting.append(each(work) if each else work())
        for done in waiting:
            if hasattr(done, "result"):
                done.result()
        now = settle.settled(self.engine, sandbox, gone_ok=True)
        if now is not None and now.state in lifecycle.LIVE:
            now = end(self.engine, now)
        if now is not None and now.state == lifecycle.EXITED and settle.holds(now):  # a network, which is tried again
            with settle.held(self.engine, now.id) as found:
                if found is not None and settle.holds(found):
                    settle.release(self.engine, found)

    def remove(self, sandbox: Container, each: Callable[[Callable[[], object]], object] | None = None) -> None:
        """Stop a pod and remove it with its containers."""
        self.stop(sandbox, each)
        for container in self.containers(sandbox.id):
            remove(self.engine, container, force=True, volumes=True)
        remove(self.engine, sandbox, force=True, volumes=True)

    def create_container(self, config: ContainerConfig) -> Container:
        """Make a container in a pod that is ready. One of the same name and request answers a repeated call."""
        if config.pod is None or not config.pod.sandbox:
            raise InvalidArgument("pod: the request is none for a container of a pod")
        sandbox = self.get(config.pod.sandbox)
        if not sandbox.running:
            raise FailedPrecondition(f"pod sandbox {sandbox.id[:12]} is not ready")
        try:
            return create(self.engine, config, pull="never")
        except AlreadyExists:
            holder = self.engine.containers.store.named(config.name)
            with settle.held(self.engine, holder.id) as now:
                if now is not None and now.config == config and now.state == lifecycle.CREATED:
                    return now
            raise

    def recover(self) -> Found:
        """Remove the sandboxes that a process which died has half made, and return them. What ended meanwhile is
        recorded."""
        gone = []
        for container in self.engine.containers.store.all():
            now = settle.settled(self.engine, container, gone_ok=True)
            if now is not None and is_sandbox(now) and now.state == lifecycle.CREATED and not _in_hands(now):
                remove(self.engine, now, force=True, volumes=True)
                gone.append(now)
        return gone


def is_sandbox(container: Container) -> bool:
    return container.config.pod is not None and not container.config.pod.sandbox


def _asked(config: ContainerConfig) -> ContainerConfig:
    """Without the network that was chosen for it: by now another one may be."""
    return msgspec.structs.replace(config, network=NetworkRequest())


def _in_hands(container: Container) -> bool:
    from orlop.engine import locks

    return locks.alive(container.record.owner)


def _ending(engine: Engine, container: Container) -> Callable[[], object]:
    return lambda: end(engine, container)
