"""libnftables(3) through ctypes: run a script in one transaction. Where the library is missing, nft(8) does it.

A script through the library takes a tenth of what starting the program does.
"""

from __future__ import annotations

import ctypes
import errno
import os

from orlop.spec.errors import FailedPrecondition, Internal

_library: ctypes.CDLL | None = None
_missing = object()


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


def run(script: str) -> str:
    """Run a script in the namespace of the calling thread; returns what it prints. Raises `NftError`, and
    `FailedPrecondition` where there is neither the library nor the program."""
    lib = _load()
    return _program(script) if lib is None else _call(lib, script)


def _call(lib: ctypes.CDLL, script: str) -> str:
    context = lib.nft_ctx_new(0)
    if not context:
        raise Internal("nftables: no context: out of memory or netlink sockets")
    try:
        lib.nft_ctx_buffer_output(context)
        lib.nft_ctx_buffer_error(context)
        status = lib.nft_run_cmd_from_buffer(context, script.encode())
        if status:
            raise _refusal((lib.nft_ctx_get_error_buffer(context) or b"").decode("utf-8", "replace"))
        return bytes(lib.nft_ctx_get_output_buffer(context) or b"").decode("utf-8", "replace")
    finally:
        lib.nft_ctx_free(context)


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
