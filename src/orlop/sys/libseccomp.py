"""libseccomp (seccomp_init(3) and its neighbours) through ctypes: only what turning rules into a program needs.

The library is loaded when a `Filter` is made or `version` is asked for; importing this module costs nothing.
"""

from __future__ import annotations

import ctypes
import os
from types import TracebackType
from typing import Any

# enum scmp_filter_attr
DEFAULT_ACTION, BAD_ARCH_ACTION, OPTIMIZE = 1, 2, 8
# the numbers of unknown syscalls: __NR_SCMP_ERROR, and below it those that stand for another architecture's
UNKNOWN = -1

_library: ctypes.CDLL | None = None


class _Compare(ctypes.Structure):
    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


class _Version(ctypes.Structure):
    _fields_ = (("major", ctypes.c_uint), ("minor", ctypes.c_uint), ("micro", ctypes.c_uint))


def _load() -> ctypes.CDLL:
    """The library, with its functions declared. Raises OSError where it is not installed."""
    global _library
    if _library is None:
        lib = ctypes.CDLL("libseccomp.so.2")
        u32, pointer = ctypes.c_uint32, ctypes.c_void_p
        lib.seccomp_init.argtypes, lib.seccomp_init.restype = (u32,), pointer
        lib.seccomp_release.argtypes, lib.seccomp_release.restype = (pointer,), None
        lib.seccomp_version.restype = ctypes.POINTER(_Version)
        lib.seccomp_arch_native.restype = u32
        lib.seccomp_arch_add.argtypes = lib.seccomp_arch_remove.argtypes = (pointer, u32)
        lib.seccomp_arch_exist.argtypes = (pointer, u32)
        lib.seccomp_attr_set.argtypes = (pointer, ctypes.c_int, u32)
        lib.seccomp_syscall_resolve_name.argtypes = (ctypes.c_char_p,)
        lib.seccomp_syscall_resolve_name_arch.argtypes = (u32, ctypes.c_char_p)
        lib.seccomp_rule_add_array.argtypes = (
            pointer,
            u32,
            ctypes.c_int,
            ctypes.c_uint,
            ctypes.POINTER(_Compare),
        )
        lib.seccomp_export_bpf.argtypes = lib.seccomp_export_pfc.argtypes = (pointer, ctypes.c_int)
        _library = lib
    return _library


def version() -> str:
    """The library's version, such as `2.5.4`. Raises OSError where it is not installed."""
    found = _load().seccomp_version().contents
    return f"{found.major}.{found.minor}.{found.micro}"


def path() -> str:
    """The file that the library was loaded from, or an empty string where the system does not say."""
    _load()
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
        return next((line.split(maxsplit=5)[5].rstrip("\n") for line in maps if "/libseccomp.so" in line), "")


def native_arch() -> int:
    """The audit number of this machine's architecture."""
    return int(_load().seccomp_arch_native())


def resolve(name: str, arch: int | None = None) -> int:
    """The number of a syscall on an architecture (None: this machine's), or `UNKNOWN`.

    Numbers below -1 are the library's own for a syscall that only other architectures have.
    """
    raw = name.encode("ascii", "replace")
    lib = _load()
    if arch is None:
        return int(lib.seccomp_syscall_resolve_name(raw))
    return int(lib.seccomp_syscall_resolve_name_arch(arch, raw))


def _check(result: int, what: str) -> None:
    if result < 0:
        raise OSError(-result, f"{what}: {os.strerror(-result)}")


class Filter:
    """A filter under construction, to be used as a context manager. Failures are OSError with the library's code."""

    def __init__(self, default_action: int) -> None:
        self._lib = _load()
        self._context: Any = self._lib.seccomp_init(default_action)
        if not self._context:
            raise OSError(22, f"seccomp_init({default_action:#x}): invalid action")

    def __enter__(self) -> Filter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lib.seccomp_release(self._context)
        self._context = None

    def add_arch(self, arch: int) -> None:
        """Cover one more architecture; one that is covered already is right."""
        if self._lib.seccomp_arch_exist(self._context, arch) != 0:
            _check(self._lib.seccomp_arch_add(self._context, arch), "seccomp_arch_add")

    def remove_arch(self, arch: int) -> None:
        if self._lib.seccomp_arch_exist(self._context, arch) == 0:
            _check(self._lib.seccomp_arch_remove(self._context, arch), "seccomp_arch_remove")

    def set(self, attribute: int, value: int) -> None:
        _check(self._lib.seccomp_attr_set(self._context, attribute, value), "seccomp_attr_set")

    def add_rule(self, action: int, syscall: int, compares: tuple[tuple[int, int, int, int], ...] = ()) -> None:
        """Add one rule; each of `compares` is (argument index, operator, datum a, datum b), and all must hold."""
        array = (_Compare * len(compares))(*(_Compare(*compare) for compare in compares))
        result = self._lib.seccomp_rule_add_array(self._context, action, syscall, len(compares), array)
        _check(result, "seccomp_rule_add")

    def program(self) -> bytes:
        """The filter as an array of `struct sock_filter` (8 bytes each)."""
        return self._export(self._lib.seccomp_export_bpf)

    def pseudocode(self) -> str:
        """The filter as the library's readable pseudo filter code."""
        return self._export(self._lib.seccomp_export_pfc).decode()

    def _export(self, function: Any) -> bytes:
        # seccomp_export_bpf_mem only exists since 2.6; a memfd works with every version
        fd = os.memfd_create("seccomp", os.MFD_CLOEXEC)
        try:
            _check(function(self._context, fd), "seccomp_export")
            return os.pread(fd, os.fstat(fd).st_size, 0)
        finally:
            os.close(fd)
