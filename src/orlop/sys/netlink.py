"""Netlink sockets: requests out, acknowledgements and dumps in (netlink(7), rtnetlink(7))."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Sequence
from types import TracebackType

from orlop.spec.errors import DeadlineExceeded, Internal
from orlop.wire import rtnetlink as rt

SOL_NETLINK = 270
NETLINK_NETFILTER = 12
_CAP_ACK, _EXT_ACK, _STRICT = 10, 11, 12
# The kernel fills dumps into datagrams of at most 32 KiB
_DATAGRAM = 1 << 16
TIMEOUT = 30.0  # seconds; the kernel answers at once, unless someone else sits on the rtnl lock
DUMP_TRIES = 5
_SIOCGIFINDEX, _SIOCGIFFLAGS, _IFF_UP = 0x8933, 0x8913, 1
_IFREQ = struct.Struct("16si20x")  # flags are its first two bytes; both machines are little endian


class Refused(OSError):
    """The kernel refused the request at `position` of a batch; `strerror` has its own explanation, if it gave one."""

    def __init__(self, failure: rt.Failure, position: int) -> None:
        super().__init__(failure.errno, failure.text or os.strerror(failure.errno))
        self.position = position


class Netlink:
    """A netlink socket in the namespace where it was made: here and now, or wherever `fd` comes from.

    The descriptor `fd` stays the caller's. Not for use by several threads at once.
    """

    def __init__(self, fd: int | None = None, protocol: int = socket.NETLINK_ROUTE) -> None:
        # all of it given, so that nothing has to be asked of the descriptor
        kind = socket.SOCK_RAW | (socket.SOCK_CLOEXEC if fd is None else 0)
        self._socket = socket.socket(socket.AF_NETLINK, kind, protocol, fileno=None if fd is None else os.dup(fd))
        self._sequence = 0
        self._socket.settimeout(TIMEOUT)
        for option in (_CAP_ACK, _EXT_ACK, _STRICT):
            self._socket.setsockopt(SOL_NETLINK, option, 1)

    def perform(self, *requests: rt.Request) -> None:
        """Send all requests in one datagram and read every acknowledgement. The kernel works off all of them, also
        those behind one that fails; the first failure is raised as `Refused`."""
        for outcome, position in zip(self.outcomes(requests), range(len(requests)), strict=True):
            if outcome.errno:
                raise Refused(outcome, position)

    def outcomes(self, requests: Sequence[rt.Request]) -> list[rt.Failure]:
        """As `perform`, but returns what became of each request."""
        if not requests:
            return []
        first = self._send(requests)
        found: dict[int, rt.Failure] = {}
        while len(found) < len(requests):
            for message in self._receive():
                if message.kind == rt.NLMSG_ERROR and first <= message.sequence < first + len(requests):
                    found[message.sequence - first] = rt.failure_of(message)
        return [found[position] for position in range(len(requests))]

    def index(self, name: str) -> int:
        """The index of the device of this name, 0 for none. Unlike `link` this never waits for another change to end:
        the kernel answers it without the rtnl lock (netdevice(7), SIOCGIFINDEX)."""
        try:
            answer = fcntl.ioctl(self._socket, _SIOCGIFINDEX, _IFREQ.pack(name.encode(), 0))
        except OSError as error:
            if error.errno == errno.ENODEV:
                return 0
            raise
        return int(_IFREQ.unpack(answer)[1])

    def is_up(self, name: str) -> bool:
        """Whether there is a device of this name that has been set up; answered as `index` is."""
        try:
            answer = fcntl.ioctl(self._socket, _SIOCGIFFLAGS, _IFREQ.pack(name.encode(), 0))
        except OSError as error:
            if error.errno == errno.ENODEV:
                return False
            raise
        return bool(_IFREQ.unpack(answer)[1] & _IFF_UP)

    def link(self, name: str) -> rt.Link | None:
        """The device of this name, or None."""
        first = self._send((rt.link_get(name),))
        while True:
            for message in self._receive():
                if message.sequence != first:
                    continue
                if message.kind == rt.RTM_NEWLINK:
                    return rt.link_of(message)
                if message.kind == rt.NLMSG_ERROR:
                    failure = rt.failure_of(message)
                    if failure.errno == errno.ENODEV:
                        return None
                    raise Refused(failure, 0)

    def ask(self, request: rt.Request) -> rt.Message:
        """The one answer to a request, which may be an error's."""
        first = self._send((request,))
        while True:
            for message in self._receive():
                if message.sequence == first:
                    return message

    def dump(self, request: rt.Request) -> list[rt.Message]:
        """All answers to a dump. One that the kernel marks as torn by a change is asked for again."""
        for _ in range(DUMP_TRIES):
            answers, torn = self._dump(request)
            if not torn:
                return answers
        raise Internal(f"rtnetlink: dump {request.kind} was interrupted {DUMP_TRIES} times")

    def _dump(self, request: rt.Request) -> tuple[list[rt.Message], bool]:
        first = self._send((request,))
        answers: list[rt.Message] = []
        torn = False
        while True:
            for message in self._receive():
                if message.sequence != first:
                    continue
                torn |= bool(message.flags & rt.NLM_F_DUMP_INTR)
                if message.kind in (rt.NLMSG_DONE, rt.NLMSG_ERROR):
                    failure = rt.failure_of(message) if message.body else rt.Failure(0, "")
                    if failure.errno:
                        raise Refused(failure, 0)
                    return answers, torn
                answers.append(message)

    def _send(self, requests: Sequence[rt.Request]) -> int:
        first = self._sequence + 1
        self._sequence += len(requests)
        self._socket.sendto(rt.encode(requests, first), (0, 0))
        return first

    def _receive(self) -> list[rt.Message]:
        try:
            data, (sender, _groups) = self._socket.recvfrom(_DATAGRAM)
        except TimeoutError:
            raise DeadlineExceeded(f"rtnetlink: no answer from the kernel in {TIMEOUT:g} s") from None
        # Any process may send to a netlink port; the kernel's is 0
        return list(rt.messages(data)) if sender == 0 else []

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Netlink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
