"""Runs the hooks of a container that are the runtime's to run: in the host's namespaces (config.md, "Hooks")."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from orlop.engine.records import Container
from orlop.runtime.hooks import run_all_hooks, run_hooks
from orlop.spec.document import decode
from orlop.spec.errors import OrlopError
from orlop.spec.runtime import Hooks, RuntimeSpec, State

if TYPE_CHECKING:
    from orlop.engine.engine import Engine


def before(engine: Engine, container: Container, spec: RuntimeSpec, pid: int) -> None:
    """prestart and createRuntime, while the container waits. One that fails ends its start."""
    hooks = spec.hooks or Hooks()
    state = _state(engine, container, spec, "creating", pid)
    run_hooks(hooks.prestart, "hooks.prestart", state)
    run_hooks(hooks.create_runtime, "hooks.createRuntime", state)


def started(engine: Engine, container: Container, spec: RuntimeSpec, pid: int) -> None:
    """poststart."""
    hooks = spec.hooks or Hooks()
    run_hooks(hooks.poststart, "hooks.poststart", _state(engine, container, spec, "running", pid))


def ended(engine: Engine, container: Container) -> str:
    """poststop, whatever becomes of each; what went wrong, for the record."""
    path = engine.paths.container(container.id) / "config.json"
    try:
        spec = decode(path.read_bytes(), RuntimeSpec, str(path))
    except (FileNotFoundError, OrlopError):  # it never came to that
        return ""
    hooks = spec.hooks or Hooks()
    return "; ".join(run_all_hooks(hooks.poststop, "hooks.poststop", _state(engine, container, spec, "stopped", 0)))


def _state(
    engine: Engine,
    container: Container,
    spec: RuntimeSpec,
    status: Literal["creating", "running", "stopped"],
    pid: int,
) -> State:
    return State(
        oci_version=spec.oci_version,
        id=container.id,
        status=status,
        pid=pid,
        bundle=str(engine.paths.container(container.id)),
        annotations=spec.annotations,
    )
