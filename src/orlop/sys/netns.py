"""Sockets in the network namespace of another process.

A thread has a network namespace of its own: one that is made for this joins the other's, makes the socket and ends, so
that nothing else is ever in the wrong one. A socket stays where it was made.
"""

from __future__ import annotations

import os
import socket
from threading import Thread

from orlop.sys.syscalls import libc

_CLONE_NEWNET = 0x40000000


def socket_in(pid: int, family: int, kind: int = socket.SOCK_STREAM) -> socket.socket:
    """A socket in the namespace of process `pid`. Raises OSError: ESRCH or ENOENT where that has ended."""
    namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    made: list[socket.socket] = []
    failed: list[OSError] = []

    def work() -> None:
        try:
            libc("setns", namespace, _CLONE_NEWNET)
            made.append(socket.socket(family, kind))
        except OSError as error:
            failed.append(error)

    thread = Thread(target=work, name="orlop-netns")
    try:
        thread.start()
        thread.join()
    finally:
        os.close(namespace)
    if failed:
        raise failed[0]
    return made[0]
