"""libnftables(3) through ctypes: run a script in one transaction. Where the library is missing, nft(8) does it.

A script through the library takes a tenth of what starting the program does.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import sys

from orlop.spec.errors import FailedPrecondition, Internal, OrlopError
from orlop.sys.netlink import NETLINK_NETFILTER, Netlink
from orlop.wire.nftables import generation_get, generation_of

_library: ctypes.CDLL | None = None


class NftError(Internal):
    """A script that was refused, and so changed nothing. `errno` is what the kernel's own text says, or 0."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(f"nftables: {text}")
        self.errno = code


def _load() -> ctypes.CDLL | None:
    global _library
    if _library is None:
        try:
            lib = ctypes.CDLL("libnftables.so.1")
        except OSError:
            return None
        pointer = ctypes.c_void_p
        lib.nft_ctx_new.argtypes, lib.nft_ctx_new.restype = (ctypes.c_uint32,), pointer
        lib.nft_ctx_free.argtypes, lib.nft_ctx_free.restype = (pointer,), None
        lib.nft_ctx_buffer_output.argtypes = lib.nft_ctx_buffer_error.argtypes = (pointer,)
        lib.nft_ctx_get_output_buffer.argtypes = lib.nft_ctx_get_error_buffer.argtypes = (pointer,)
        lib.nft_ctx_get_output_buffer.restype = lib.nft_ctx_get_error_buffer.restype = ctypes.c_char_p
        lib.nft_run_cmd_from_buffer.argtypes = (pointer, ctypes.c_char_p)
        _library = lib
    return _library


class Nft:
    """Runs scripts in the network namespace in which the first one ran. Not for use by several threads at once.

    One context is kept: the kernel makes whoever closes its socket wait, for 10 to 15 ms, until what was deleted
    through it is really gone.
    """

    def __init__(self) -> None:
        self._context: int | None = None
        self._netlink: Netlink | None = None
        self._ensured: set[str] = set()  # scripts that would change nothing
        self._generation: int | None = None  # of the rules, at which that is so

    def ensure(self, script: str) -> None:
        """Run a script that changes nothing where it has been run before; and that only where somebody has changed any
        rule since, which costs a tenth to ask for."""
        before = self._ask_generation()
        if before != self._generation:
            self._ensured.clear()
            self._generation = before
        if script in self._ensured:
            return
        self.run(script)
        if before is not None and before == self._ask_generation():  # neither this has changed anything, nor anybody
            self._ensured.add(script)

    def run(self, script: str) -> str:
        """Run a script as one transaction; returns what it prints. Raises `NftError`, and `FailedPrecondition` where
        there is neither the library nor the program."""
        lib = _load()
        if lib is None:
            return _program(script)
        if self._context is None:
            self._context = _open(lib)
        if lib.nft_run_cmd_from_buffer(self._context, script.encode()):
            raise _refusal((lib.nft_ctx_get_error_buffer(self._context) or b"").decode("utf-8", "replace"))
        return bytes(lib.nft_ctx_get_output_buffer(self._context) or b"").decode("utf-8", "replace")

    def _ask_generation(self) -> int | None:
        try:
            if self._netlink is None:
                self._netlink = Netlink(protocol=NETLINK_NETFILTER)
            return generation_of(self._netlink.ask(generation_get()))
        except (OSError, OrlopError):  # then everything is run every time
            return None

    def close(self) -> None:
        lib = _load()
        if lib is not None and self._context is not None:
            lib.nft_ctx_free(self._context)
            self._context = None
        if self._netlink is not None:
            self._netlink.close()
            self._netlink = None

    def __del__(self) -> None:
        if not sys.is_finalizing():
            self.close()


def _open(lib: ctypes.CDLL) -> int:
    expected = os.open("/", os.O_PATH | os.O_CLOEXEC)
    os.close(expected)
    context = lib.nft_ctx_new(0)
    if not context:
        raise Internal("nftables: no context: out of memory or netlink sockets")
    _close_on_exec(expected)
    lib.nft_ctx_buffer_output(context)
    lib.nft_ctx_buffer_error(context)
    return int(context)


def _close_on_exec(fd: int) -> None:
    """libmnl opens its socket so that children inherit it. The number is a guess, so look before touching: another
    thread may have taken it, or closed it. What is looked at is a copy, which must not stay: of a file that is locked
    it would hold the lock."""
    copy = -1
    try:
        copy = os.dup(fd)
        found = socket.socket(fileno=copy)
    except OSError:
        if copy >= 0:
            os.close(copy)
        return
    with found:
        ours = found.family == socket.AF_NETLINK and found.proto == NETLINK_NETFILTER
    if ours:
        with contextlib.suppress(OSError):
            os.set_inheritable(fd, False)


def _program(script: str) -> str:
    import subprocess

    try:
        done = subprocess.run(["nft", "-f", "-"], input=script, capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        raise FailedPrecondition("nftables: neither libnftables.so.1 nor nft is installed") from None
    if done.returncode:
        raise _refusal(done.stderr)
    return done.stdout


def _refusal(text: str) -> NftError:
    first = next((line for line in text.splitlines() if "rror" in line), text[:200] or "refused without a reason")
    message = first.partition("rror: ")[2] or first
    known = (errno.ENOENT, errno.EEXIST, errno.EPERM, errno.EBUSY, errno.ENOTSUP)
    code = next((code for code in known if os.strerror(code).lower() in message.lower()), 0)
    return NftError(message.strip()[:300].lower(), code)
