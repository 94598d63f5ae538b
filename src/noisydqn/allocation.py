"""How memory is allocated in the processes of this library's own commands."""

import contextlib
import ctypes
import os

MMAP_THRESHOLD, TRIM_THRESHOLD, TOP_PAD = -3, -1, -2
"""Parameters of glibc's `mallopt`."""
HEAP = 2**26
"""Bytes of the heaps that glibc gives to threads. Larger allocations there are the system's."""
SETTINGS = ((MMAP_THRESHOLD, 2**30), (TRIM_THRESHOLD, 2**31 - 1), (TOP_PAD, HEAP))


def keep_freed_memory() -> None:
    """Let this process keep memory that it frees, instead of giving it back to the system.

    XLA allocates the intermediate results of a program for each call, and frees them after it.
    glibc gives back what is large, and the system clears every page again that the next call
    touches. That was a quarter of the time that an agent for Atari learns. A thread keeps its heap
    if the free space that glibc leaves at the end, its padding, may be as large as a heap. Where
    `malloc` was set up by environment variables, or is not glibc's, nothing changes.
    """
    if any(name.startswith("MALLOC_") for name in os.environ) or "GLIBC_TUNABLES" in os.environ:
        return
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in SETTINGS:
            mallopt(parameter, value)
