"""What the C library keeps of memory that has been freed (mallopt(3), malloc_trim(3)). Only glibc has these calls; with
another C library nothing happens."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8


def limit(count: int, large: int) -> None:
    """At most `count` heaps, whatever the number of threads: each holds on to what it once had. Blocks of `large` bytes
    and more are no part of them, and go back to the kernel when they are freed; left alone, glibc takes the first that
    is freed as a sign that such blocks are usual, and from then on keeps up to twice that at the end of every heap.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return
    mallopt(_M_ARENA_MAX, count)
    mallopt(_M_MMAP_THRESHOLD, large)
    mallopt(_M_TRIM_THRESHOLD, large)


def give_back() -> None:
    """Return the pages of freed blocks to the kernel, wherever in a heap they are."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except AttributeError:
        return
    trim(0)
