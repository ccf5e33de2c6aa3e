"""A machine for classic BPF, as the kernel's for seccomp, so that tests see what a program answers."""

from __future__ import annotations

import struct

X86_64, X86, AARCH64 = 0xC000003E, 0x40000003, 0xC00000B7
ALLOW, KILL_THREAD, KILL_PROCESS, LOG = 0x7FFF0000, 0, 0x80000000, 0x7FFC0000
_MASK = 0xFFFFFFFF


def errno(number: int) -> int:
    return 0x00050000 | number


def run(program: bytes, number: int, args: tuple[int, ...] = (), arch: int = X86_64) -> int:
    """What the program returns for a call."""
    padded = (*args, 0, 0, 0, 0, 0, 0)[:6]
    data = struct.pack("<IIQ6Q", number & _MASK, arch, 0, *(arg & (1 << 64) - 1 for arg in padded))
    code = [struct.unpack_from("=HBBI", program, at) for at in range(0, len(program), 8)]
    accumulator, at = 0, 0
    while True:
        operation, if_true, if_false, value = code[at]
        at += 1
        if operation == 0x20:
            accumulator = struct.unpack_from("<I", data, value)[0]
        elif operation == 0x54:
            accumulator &= value
        elif operation == 0x05:
            at += value
        elif operation in (0x15, 0x25, 0x35, 0x45):
            holds = {
                0x15: accumulator == value,
                0x25: accumulator > value,
                0x35: accumulator >= value,
                0x45: bool(accumulator & value),
            }[operation]
            at += if_true if holds else if_false
        elif operation == 0x06:
            return value
        else:
            raise AssertionError(f"instruction {operation:#x}")
