"""`Pods`: groups of containers that share namespaces, as the Container Runtime Interface has them.

A pod's sandbox is a container whose process does nothing (native/pause.c); it holds the network, and what else the
pod's containers share. So a sandbox lives, ends and is settled after a crash like any other container: `create` and
`start` are one step here, and what is found between the two was made by a process that died, and goes (`settle`).
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from orlop.engine import lifecycle, settle
from orlop.engine.config import ContainerConfig, NetworkRequest
from orlop.engine.create import create
from orlop.engine.records import Container, is_sandbox, is_whole
from orlop.engine.remove import remove
from orlop.engine.start import Started, start
from orlop.engine.steps import reached
from orlop.engine.stop import end
from orlop.spec import cancel
from orlop.spec.errors import (
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OrlopError,
    os_errors,
)
from orlop.sys.lock import locked

if TYPE_CHECKING:
    from orlop.engine.engine import Engine

Found = list[Container]  # within `Pods`, `list` is a method
Names = list[str]
Errors = list[OrlopError]
PATIENCE = 120.0  # seconds that a repeated call waits for the one it repeats
_POLL = 0.01
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
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                made = create(self.engine, config)
                break
            except AlreadyExists:
                found = self._holder(config)
            if found is not None and found.running:
                return Started(container=found)
            if time.monotonic() > deadline:
                raise DeadlineExceeded(f"pod sandbox name {config.name}: another call has it in hand for too long")
            cancel.check()
            time.sleep(_POLL)
        reached("pods.created")
        try:
            cancel.check()
            return start(self.engine, made, own=True)
        except BaseException:
            with cancel.under(None), suppress(OrlopError):  # what can't go now goes when somebody looks at it again
                remove(self.engine, made, force=True, volumes=True)
            raise

    def _holder(self, config: ContainerConfig) -> Container | None:
        """The sandbox that has the name of `config`, if the very same request made it or is about to; None where it
        has gone meanwhile. Raises AlreadyExists."""
        try:
            found = settle.settled(self.engine, self.engine.containers.store.named(config.name), gone_ok=True)
        except NotFound:
            return None
        if found is None or found.state == lifecycle.REMOVING:
            return None
        ended = found.state == lifecycle.EXITED and found.record.started > 0
        if ended or _asked(found.config) != _asked(config):
            raise AlreadyExists(f"pod sandbox name {config.name} is taken by {found.id[:12]}")
        return found

    def _rootfs(self) -> str:
        """The directory that the sandbox's process sees; made once after a boot."""
        directory = self.engine.paths.state / "pause"
        program, fresh = directory / "pause", self.engine.paths.state / "pause.new"
        if not program.exists() or not (directory / "proc").exists():
            with os_errors("make the root of sandboxes"), locked(self.engine.paths.state / "pause.lock"):
                for name in ("", "dev", "proc"):
                    (directory / name).mkdir(exist_ok=True)
                    (directory / name).chmod(0o755)  # whatever the umask
                if not program.exists():
                    shutil.copyfile(PROGRAM, fresh)
                    fresh.chmod(0o755)
                    fresh.rename(program)
        return str(directory)

    def get(self, ref: str) -> Container:
        """The sandbox, settled. Raises NotFound."""
        try:
            found = self.engine.containers.get(ref)
        except NotFound:
            raise NotFound(f"no such pod sandbox: {ref[:128]}") from None
        if not is_sandbox(found):
            raise NotFound(f"no such pod sandbox: {ref[:128]}")
        return found

    def list(self) -> Found:
        """Every sandbox, newest first. One that is being made or removed is none."""
        return [c for c in self.engine.containers.list(all=True) if is_sandbox(c) and is_whole(c)]

    def containers(self, sandbox: str) -> Found:
        """The containers of a pod, newest first."""
        return [c for c in self.engine.containers.store.all() if c.config.pod and c.config.pod.sandbox == sandbox]

    def stop(self, sandbox: Container, each: Callable[[Callable[[], object]], object] | None = None) -> None:
        """End every container of a pod, then its sandbox, and give its network back. Repeating it does no harm.

        `each` is called with the work on one container, and may have it done by a thread of its own.
        """
        self._end_containers(sandbox, each)
        _ended(self.engine, sandbox)
        reached("pods.stop.sandbox")
        self._end_containers(sandbox, each)  # those whose start was under way; no further one begins

    def _end_containers(self, sandbox: Container, each: Callable[[Callable[[], object]], object] | None) -> None:
        waiting = []
        for container in self.containers(sandbox.id):
            if container.state in (*lifecycle.LIVE, lifecycle.RESTARTING):
                work = _ending(self.engine, container)
                waiting.append(each(work) if each else work())
        for done in waiting:
            if hasattr(done, "result"):
                done.result()

    def remove(self, sandbox: Container, each: Callable[[Callable[[], object]], object] | None = None) -> None:
        """Stop a pod and remove it with its containers."""
        self.stop(sandbox, each)
        for container in self.containers(sandbox.id):
            remove(self.engine, container, force=True, volumes=True)
            reached("pods.remove.container")
        remove(self.engine, sandbox, force=True, volumes=True)

    def create_container(self, config: ContainerConfig) -> Container:
        """Make a container in a pod that is ready. One of the same name and request answers a repeated call."""
        if config.pod is None or not config.pod.sandbox:
            raise InvalidArgument("pod: the request is none for a container of a pod")
        sandbox = self.get(config.pod.sandbox)
        if not sandbox.running:
            raise FailedPrecondition(f"pod sandbox {sandbox.id[:12]} is not ready")
        made = self._created(config)
        if not self._ready(sandbox.id):  # a call that stops the pod has found no container, or has removed this one
            remove(self.engine, made, force=True, volumes=True)
            raise FailedPrecondition(f"pod sandbox {sandbox.id[:12]} is not ready")
        return made

    def _created(self, config: ContainerConfig) -> Container:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return create(self.engine, config, pull="never")
            except AlreadyExists:
                try:
                    holder = self.engine.containers.store.named(config.name)
                except NotFound:
                    continue
                found = settle.settled(self.engine, holder, gone_ok=True)
                if found is not None and found.config == config and found.state == lifecycle.CREATED:
                    return found
                in_hand = found is None or found.state in (lifecycle.CREATING, lifecycle.REMOVING)
                if not in_hand or time.monotonic() > deadline:
                    raise
            cancel.check()
            time.sleep(_POLL)

    def _ready(self, sandbox: str) -> bool:
        found = self.engine.containers.store.get(sandbox)
        return found is not None and found.running

    def _stays(self, sandbox: str) -> bool:
        """Whether it is ready, and nobody is about to end it."""
        found = self.engine.containers.store.get(sandbox)
        return found is not None and found.running and not found.record.stopped_by_user

    def start_container(self, container: Container) -> Started:
        """Start a container of a pod that is ready, once; the result's client owns its end."""
        if container.state != lifecycle.CREATED:
            raise FailedPrecondition(f"container {container.id[:12]} is {container.state}: it is started once")
        sandbox = container.config.pod.sandbox if container.config.pod else ""
        if not self._ready(sandbox):
            raise FailedPrecondition(f"container {container.id[:12]}: its pod sandbox is not ready")
        try:
            started = start(self.engine, container, own=True)
        except OrlopError as error:
            if self._stays(sandbox):
                raise
            raise FailedPrecondition(f"container {container.id[:12]}: its pod sandbox has been stopped") from error
        if not self._ready(sandbox):  # the call that stopped the pod may have looked before this container was started
            if started.client is not None:
                started.client.close()
            _ended(self.engine, started.container)
            raise FailedPrecondition(f"container {container.id[:12]}: its pod sandbox has been stopped")
        return started

    def recover(self) -> tuple[Names, Errors]:
        """Make every record true: what ended meanwhile is recorded, what a process that died has half made or half
        removed goes. The IDs of sandboxes that went, and what could not be done."""
        gone: Names = []
        errors: Errors = []
        for container in self.engine.containers.store.all():
            try:
                if settle.settled(self.engine, container, gone_ok=True) is None and is_sandbox(container):
                    gone.append(container.id)
            except OrlopError as error:
                errors.append(error)
        settle.forget_locks(self.engine)
        return gone, errors


def _ended(engine: Engine, container: Container) -> None:
    """End a container, if it is there and runs, and have it give back what it holds."""
    with suppress(NotFound):
        now = settle.settled(engine, container)
        if now.state in (*lifecycle.LIVE, lifecycle.RESTARTING):
            now = end(engine, now, lambda: settle.loosen(engine, now))
        if now.state == lifecycle.EXITED and settle.holds(now):  # a network, which is tried again
            with settle.held(engine, now.id) as found:
                if found is not None and found.state == lifecycle.EXITED and settle.holds(found):
                    settle.release(engine, found)


def _asked(config: ContainerConfig) -> ContainerConfig:
    """Without the network that was chosen for it: by now another one may be."""
    return msgspec.structs.replace(config, network=NetworkRequest())


def _ending(engine: Engine, container: Container) -> Callable[[], object]:
    def work() -> None:
        _ended(engine, container)
        reached("pods.stop.container")

    return work
