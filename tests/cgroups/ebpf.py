"""A machine for the few eBPF instructions that device programs use."""

from __future__ import annotations

import struct

ACCESS = {"m": 1, "r": 2, "w": 4}
TYPES = {"b": 1, "c": 2}


def allows(program: bytes, type_: str, major: int, minor: int, access: str) -> bool:
    wanted = sum(ACCESS[letter] for letter in access)
    context = struct.pack("<III", wanted << 16 | TYPES[type_], major, minor)
    registers = [0] * 11
    code = [struct.unpack_from("=BBhi", program, at) for at in range(0, len(program), 8)]
    at = 0
    while True:
        operation, both, offset, immediate = code[at]
        target, source = both & 15, both >> 4
        value = immediate & 0xFFFFFFFF
        at += 1
        if operation == 0x61:
            assert source == 1
            registers[target] = struct.unpack_from("<I", context, offset)[0]
        elif operation == 0xBC:
            registers[target] = registers[source]
        elif operation == 0xB4:
            registers[target] = value
        elif operation == 0x54:
            registers[target] &= value
        elif operation == 0x74:
            registers[target] >>= value
        elif operation in (0x55, 0x56):
            at += offset if registers[target] != value else 0
        elif operation == 0x45:
            at += offset if registers[target] & value else 0
        elif operation == 0x05:
            at += offset
        elif operation == 0x95:
            return bool(registers[0])
        else:
            raise AssertionError(f"instruction {operation:#x}")
