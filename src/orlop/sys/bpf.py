"""bpf(2), as far as device programs of control groups need it: load, attach, query, detach."""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Any

_NUMBERS = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "loongarch64": 280, "s390x": 351, "ppc64le": 361}
_PROG_LOAD, _PROG_ATTACH, _PROG_DETACH, _PROG_GET_FD_BY_ID, _PROG_QUERY = 5, 8, 9, 13, 16
_TYPE_CGROUP_DEVICE, _ATTACH_CGROUP_DEVICE = 15, 6
_ALLOW_MULTI = 2
_ATTRIBUTES = 128  # bytes of union bpf_attr that are passed, the rest of it being zero

_libc: ctypes.CDLL | None = None


def _bpf(command: int, attributes: Any) -> int:
    global _libc
    if _libc is None:
        _libc = ctypes.CDLL(None, use_errno=True)
        _libc.syscall.restype = ctypes.c_long
    machine = os.uname().machine
    if machine not in _NUMBERS:
        raise OSError(38, f"bpf: unknown on {machine}")
    result = int(
        _libc.syscall(
            ctypes.c_long(_NUMBERS[machine]),
            ctypes.c_int(command),
            ctypes.byref(attributes),
            ctypes.c_uint(ctypes.sizeof(attributes)),
        )
    )
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"bpf: {os.strerror(code)}")
    return result


def _attributes(packed: bytes) -> Any:
    return ctypes.create_string_buffer(packed.ljust(_ATTRIBUTES, b"\0"), _ATTRIBUTES)


def load_device_program(program: bytes) -> int:
    """Load instructions (8 bytes each) and return the program's descriptor, close-on-exec."""
    code = ctypes.create_string_buffer(program, len(program))
    licence = ctypes.create_string_buffer(b"Apache-2.0")
    attributes = struct.pack(
        "=IIQQ", _TYPE_CGROUP_DEVICE, len(program) // 8, ctypes.addressof(code), ctypes.addressof(licence)
    )
    return _bpf(_PROG_LOAD, _attributes(attributes))


def attach_device_program(group: int, program: int) -> None:
    """Attach to a v2 group, beside the programs it has; a device must pass all of them."""
    _bpf(_PROG_ATTACH, _attributes(struct.pack("=IIII", group, program, _ATTACH_CGROUP_DEVICE, _ALLOW_MULTI)))


def detach_device_program(group: int, program: int) -> None:
    _bpf(_PROG_DETACH, _attributes(struct.pack("=III", group, program, _ATTACH_CGROUP_DEVICE)))


def device_programs(group: int) -> list[int]:
    """Descriptors of the programs attached to the group itself; the caller closes them."""
    room = 64
    ids = (ctypes.c_uint32 * room)()
    attributes = _attributes(struct.pack("=IIIIQI", group, _ATTACH_CGROUP_DEVICE, 0, 0, ctypes.addressof(ids), room))
    _bpf(_PROG_QUERY, attributes)
    count = struct.unpack_from("=I", attributes.raw, 24)[0]
    return [_bpf(_PROG_GET_FD_BY_ID, _attributes(struct.pack("=I", ids[index]))) for index in range(count)]
