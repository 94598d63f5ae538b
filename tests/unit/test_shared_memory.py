"""Arrays that processes of this machine read from shared memory."""

import errno
import gc
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from noisydqn.runners.actors import shared_memory
from noisydqn.runners.actors.shared_memory import SharedArray, SharedMemory

VECTOR = np.arange(100_000, dtype=np.float32).reshape(50, 2_000)


def received(shared: Any) -> np.ndarray:
    return pickle.loads(pickle.dumps(shared))  # noqa: S301


def num_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def test_another_process_reads_the_array_itself() -> None:
    """Its message is small, whatever the size of the array."""
    memory = SharedMemory()
    sent = pickle.dumps(memory.put(VECTOR))
    assert len(sent) < 300
    program = (
        "import pickle, sys\n"
        "array = pickle.load(sys.stdin.buffer)\n"
        "sys.stdout.write(f'{array.dtype} {array.shape} {array.sum():.0f} {array.flags.writeable}')"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, input=sent, stdout=subprocess.PIPE, check=True)
    assert done.stdout.decode() == f"float32 (50, 2000) {VECTOR.sum():.0f} False"
    memory.close()


def test_a_block_is_written_again_when_nobody_needs_it() -> None:
    """Until then it keeps its array."""
    memory = SharedMemory()
    first, second = memory.put(VECTOR), memory.put(VECTOR + 1)
    seen = received(first)
    np.testing.assert_array_equal(seen, VECTOR)
    del first
    gc.collect()
    third, small = memory.put(VECTOR + 2), memory.put(VECTOR[0])
    assert address(received(third)) == address(seen)
    for shared, expected in ((second, VECTOR + 1), (third, VECTOR + 2), (small, VECTOR[0])):
        np.testing.assert_array_equal(received(shared), expected)
    memory.close()


@pytest.mark.parametrize("missing", ["function", "room", "/proc"])
def test_an_array_travels_whole_where_memory_cannot_be_shared(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "no room")

    if missing == "function":
        monkeypatch.delattr(os, "memfd_create")
    elif missing == "room":
        monkeypatch.setattr(os, "posix_fallocate", full)
    else:
        monkeypatch.setattr(shared_memory.os, "getpid", lambda: 2**30)
    memory, before = SharedMemory(), num_descriptors()
    given = memory.put(VECTOR)
    assert num_descriptors() == before
    assert not isinstance(given, SharedArray)
    np.testing.assert_array_equal(received(given), VECTOR)
    memory.close()
