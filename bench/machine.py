"""How fast is the machine now? One line that belongs beside every timing."""

from __future__ import annotations

import hashlib
import mmap
import os
import shutil
import statistics
import subprocess
import time
import zlib
from collections.abc import Callable

_SCRATCH = "/var/tmp/orlop-calibration"


def calibration() -> str:
    """Pure computing, hashing, inflating, page faults of fresh memory, files made, processes started."""
    packed = zlib.compress(os.urandom(1 << 20) + bytes(31 << 20))
    with open("/proc/loadavg") as file:
        load = file.read().split()[0]
    return (
        f"load {load}, loop {_ms(lambda: sum(range(3_000_000))):.0f} ms, "
        f"sha256 of 32 MiB {_ms(lambda: hashlib.sha256(bytes(32 << 20)).digest()):.0f} ms, "
        f"inflate 32 MiB {_ms(lambda: zlib.decompress(packed)):.0f} ms, "
        f"128 MiB of faults {_ms(_faults, 3):.0f} ms, 2000 files {_ms(_files, 3):.0f} ms, "
        f"fork and exec {_ms(_processes, 3) / 50:.2f} ms"
    )


def _ms(work: Callable[[], object], rounds: int = 5) -> float:
    taken = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        taken.append((time.perf_counter() - started) * 1e3)
    return statistics.median(taken)


def _faults() -> None:
    with mmap.mmap(-1, 128 << 20) as memory:
        for offset in range(0, 128 << 20, 4096):
            memory[offset] = 1


def _files() -> None:
    shutil.rmtree(_SCRATCH, ignore_errors=True)
    os.mkdir(_SCRATCH)
    for number in range(2000):
        with open(f"{_SCRATCH}/{number}", "wb") as file:
            file.write(b"x" * 8192)
    shutil.rmtree(_SCRATCH)


def _processes() -> None:
    for _ in range(50):
        subprocess.run(["/bin/true"])
