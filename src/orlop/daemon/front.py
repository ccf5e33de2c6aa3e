"""The front end as the worker sees it: the process that starts the container's processes and waits for them."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping, Sequence

from orlop.spec.errors import Aborted, InvalidArgument
from orlop.wire.front import NOWHERE, UNMASK, WAIT, pack, pack_spawn, parse_answer

_FIRST_INHERITED = 6  # of the launch helper, see `runtime.launch`
_GONE = "the front end is gone"


class FrontChildren:
    """See `runtime.children.Children`. `program` is the launch helper's sealed file."""

    def __init__(self, connection: socket.socket, pid: int, program: int) -> None:
        self.parent = str(pid)
        self._connection = connection
        self._program = program
        self._announced = 0

    def helper(self, plan: int, control: int, stdio: tuple[int, int, int], inherit: Sequence[int]) -> Callable[[], int]:
        fds = (self._program, *stdio, plan, control, *inherit)
        targets = (NOWHERE, 0, 1, 2, 3, 4, *range(_FIRST_INHERITED, _FIRST_INHERITED + len(inherit)))
        self._say(pack_spawn("", ("orlop-launch",), (), targets, UNMASK), fds)
        return self._spawned

    def hook(
        self, path: str, arguments: Sequence[str], environment: Mapping[str, str], stdio: tuple[int, int, int]
    ) -> int:
        variables = [f"{name}={value}" for name, value in environment.items()]
        self._say(pack_spawn(path, arguments, variables, (0, 1, 2), UNMASK), stdio)
        return self._spawned(path)

    def wait(self, pid: int, options: int = 0) -> tuple[int, int]:
        """waitpid(2) there; while it blocks, signals still come here."""
        if pid == self._announced:
            self._announced = 0
        else:
            self._say(pack(WAIT, pid, options))
        found, status = self._answer()
        if found < 0:
            raise OSError(-found, os.strerror(-found))
        return found, status

    def announce(self, pid: int) -> int:
        self._say(pack(WAIT, pid, 0))
        self._announced = pid
        return self._connection.fileno()

    def _spawned(self, path: str = "") -> int:
        pid, _ = self._answer()
        if pid < 0:
            raise OSError(-pid, os.strerror(-pid), path or None)
        return pid

    def _say(self, message: bytes, fds: Sequence[int] = ()) -> None:
        try:
            if fds:
                socket.send_fds(self._connection, [message], fds)
            else:
                self._connection.send(message)
        except OSError as error:
            raise Aborted(_GONE) from error

    def _answer(self) -> tuple[int, int]:
        try:
            return parse_answer(self._connection.recv(64))
        except (OSError, InvalidArgument) as error:
            raise Aborted(_GONE) from error
