"""A lock for the only writer of a run, which the kernel releases when its holder dies."""

import contextlib
import errno
import fcntl
import os
import platform
import time
from collections.abc import Callable
from io import BufferedRandom
from pathlib import Path
from types import TracebackType
from typing import Self

from noisydqn.errors import UserError
from noisydqn.folders import Folder

NAME = "lock"
NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
"""Errors of a file system that has no locks."""
SETTLE_SECONDS = 0.2
"""Seconds in which a process that has just taken a lock surely writes its number."""
LOCKED_SECONDS = 150.0
"""Seconds that a job waits for its folder, which a process of a killed study may still hold while
it saves its run."""


class Lock:
    """The lock of a run's folder, held from `take` to `release`.

    Its file names the process that holds it, for people to read. The lock itself is the kernel's
    `flock`, which ends with the process, so it is never stale.

    Args:
        folder: the folder, which is created if necessary.
        warn: called with a line if the file system has no locks. The run then goes on without one.
    """

    def __init__(self, folder: Folder, warn: Callable[[str], None]) -> None:
        self.folder, self._warn = folder, warn
        self._file: BufferedRandom | None = None

    def __enter__(self) -> Self:
        self.take()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    def take(self) -> None:
        """Take the lock, or take it again in a folder that was made anew.

        Raises:
            UserError: another process holds the lock, or the folder cannot be written to.
        """
        self.release()
        try:
            self.folder.make()
            self._file = self.folder.file(NAME).appending(copy=False)
        except OSError as error:
            raise UserError(
                f"{self.folder} cannot be written to: {error.strerror}; make it writable, or copy "
                "the run to a folder that is"
            ) from error
        try:
            self._lock(self._file.fileno())
        except UserError:
            self.release()
            raise

    def release(self) -> None:
        """Release the lock; a second call does nothing."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _lock(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            time.sleep(SETTLE_SECONDS)
            holder = os.pread(descriptor, 300, 0).decode(errors="replace")
            raise UserError(f"{self.folder} {_held(holder, _users(descriptor))}") from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise UserError(
                    f"{self.folder} cannot be locked: {error.strerror}; copy the run to another "
                    "file system"
                ) from error
            self._warn(
                f"{self.folder} is on a file system without locks ({error.strerror}): a second "
                "process that trains this run is not refused, so start only one"
            )
        if os.fstat(descriptor).st_nlink > 1:  # of a copy by `cp -al`, say: the other is not ours
            return
        with contextlib.suppress(OSError):  # a full disk; the line is for people alone
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()} {platform.node()}\n".encode())


def _held(holder: str, users: set[int]) -> str:
    """Say who holds a lock, and what to do.

    A child that was forked from a process has its locks, too, and keeps them when it dies.

    Args:
        holder: the contents of the lock's file.
        users: other processes on this machine that have the file open, if that is known.
    """
    process, _, host = holder.strip().partition(" ")
    here = host in ("", platform.node()) and process.isdecimal()
    if here and int(process) != os.getpid() and _ended(int(process), users):
        children = ", ".join(map(str, sorted(users)))
        return (
            f"was trained by process {process}, which has ended; a process that it started "
            f"({children or 'number unknown'}) still holds its lock, nothing was changed: end that "
            "process"
        )
    where = "" if here or not host else f" of {host}"
    return (
        f"is being trained by process {process or 'unknown'}{where}, nothing was changed: wait "
        "until it ends, or stop it"
    )


def _ended(process: int, users: set[int]) -> bool:
    if users:
        return process not in users
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:  # it is another user's
        return False
    return False


def _users(descriptor: int) -> set[int]:
    """Find the other processes that have a file open, as far as `/proc` shows them."""
    users: set[int] = set()
    try:
        file = Path(f"/proc/self/fd/{descriptor}").readlink()
        processes = [path for path in Path("/proc").iterdir() if path.name.isdecimal()]
    except OSError:
        return users
    for process in processes:
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            if any(link.readlink() == file for link in (process / "fd").iterdir()):
                users.add(int(process.name))
    return users - {os.getpid()}


def is_held(folder: Folder) -> bool:
    """Tell whether a process holds the lock of a folder, which need not exist."""
    if not (folder.path / NAME).exists():
        return False
    try:
        with Lock(folder, lambda _: None):
            return False
    except UserError:
        return True
