"""Arrays in memory that processes of this machine share: weights need no pipe.

The memory has no name in any file system, so it is freed when its processes end, however they do.
"""

import mmap
import os
import weakref
from collections import defaultdict
from functools import cache
from typing import Any

import numpy as np


class SharedMemory:
    """Blocks of memory that this process writes and its children read.

    A block is written again once nothing refers to the array that was put there last.
    """

    def __init__(self) -> None:
        self._free = defaultdict[int, list[tuple[str, mmap.mmap]]](list)  # by size
        self._descriptors: list[int] = []

    def put(self, array: np.ndarray) -> "np.ndarray | SharedArray":
        """Copy an array; return one that pickles as a reference to the copy.

        Where memory cannot be shared, or there is none, the array itself is returned.
        """
        free = self._free[array.nbytes]
        try:
            block = free.pop() if free else self._make(array.nbytes)
        except (OSError, AttributeError):  # other systems than Linux have no such memory
            return array
        path, memory = block
        np.frombuffer(memory, array.dtype).reshape(array.shape)[...] = array
        shared = SharedArray(path, array)
        weakref.finalize(shared, free.append, block).atexit = False
        return shared

    def _make(self, size: int) -> tuple[str, mmap.mmap]:
        descriptor = os.memfd_create("noisydqn")
        try:
            os.posix_fallocate(descriptor, 0, size)  # raises here if there is no room
            path = f"/proc/{os.getpid()}/fd/{descriptor}"
            os.close(os.open(path, os.O_RDONLY))  # raises here if others could not
            memory = mmap.mmap(descriptor, size)
        except OSError:
            os.close(descriptor)
            raise
        self._descriptors.append(descriptor)
        return path, memory

    def close(self) -> None:
        """Free the blocks, which children may go on reading."""
        self._free.clear()
        while self._descriptors:
            os.close(self._descriptors.pop())


class SharedArray:
    """An array in shared memory; children that receive it unpickle a read-only NumPy array.

    Args:
        path: by which children open the memory.
        array: what is there.
    """

    def __init__(self, path: str, array: np.ndarray) -> None:
        self._place = path, array.nbytes, array.dtype.str, array.shape

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, self._place


def _received(path: str, size: int, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    return np.frombuffer(_mapped(path, size), dtype).reshape(shape)


@cache
def _mapped(path: str, size: int) -> mmap.mmap:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return mmap.mmap(descriptor, size, access=mmap.ACCESS_READ)
    finally:
        os.close(descriptor)
