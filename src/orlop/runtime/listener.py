"""Hands a seccomp listener to the agent that answers for the kernel (config-linux.md, "containerProcessState")."""

from __future__ import annotations

import os
import socket

import msgspec

from orlop.spec.errors import from_os
from orlop.spec.runtime import VERSION, Seccomp, State


class ProcessState(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The message that goes with the descriptors, of which `fds` are the names."""

    oci_version: str = VERSION
    fds: tuple[str, ...] = ("seccompFd",)
    pid: int
    metadata: str = ""
    state: State


def hand_over(seccomp: Seccomp, listener: int, state: State, pid: int) -> None:
    """Send `listener` to the socket at listenerPath."""
    message = ProcessState(pid=pid, metadata=seccomp.listener_metadata, state=state)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as agent:
            agent.connect(seccomp.listener_path)
            socket.send_fds(agent, [msgspec.json.encode(message)], [listener])
    except OSError as error:
        raise from_os(
            error,
            f"linux.seccomp.listenerPath: failed to connect with seccomp agent: {os.fspath(seccomp.listener_path)}",
        ) from error
