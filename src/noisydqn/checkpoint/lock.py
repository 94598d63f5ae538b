"""A lock for the only writer of a run, which the kernel releases when its holder dies."""

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager

from noisydqn.errors import UserError
from noisydqn.folders import Folder

NAME = "lock"


@contextmanager
def locked(folder: Folder) -> Generator[None]:
    """Hold the lock of a folder of checkpoints, creating the folder if necessary.

    The file names the process that holds the lock, for people to read. The lock itself is the
    kernel's `flock`, which ends with the process, so it is never stale.

    Raises:
        UserError: another process holds the lock, or the folder cannot be written to.
    """
    try:
        folder.make()
        opened = folder.file(NAME).appending()
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written to: {error.strerror}; make it writable, or copy the run "
            "to a folder that is"
        ) from error
    with opened:
        _take(opened.fileno(), folder)
        yield


def _take(descriptor: int, folder: Folder) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.read(descriptor, 32).decode(errors="replace").strip()
        raise UserError(
            f"{folder.path.parent} is being trained by process {holder or 'unknown'}, nothing was "
            "changed: wait until it ends, or stop it"
        ) from error
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
