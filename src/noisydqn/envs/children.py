"""Processes that work for the one that trains, and end with it.

Signals that stop a run are for the training process alone. A child ends when that process does,
even if it was killed.
"""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Generator
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess

from noisydqn.output import lasting_streams

PR_SET_PDEATHSIG = 1
PARENT_SECONDS = 1.0
"""Seconds between two looks at whether the process that trains is there."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that reach every process of a group, of which the one that trains decides."""


@contextlib.contextmanager
def signals_held() -> Generator[None]:
    """Start processes in which `SIGNALS` have no effect until they call `become_child`."""
    resource_tracker.ensure_running()  # it would undo this
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def become_child() -> None:
    """Ignore `SIGNALS` and closed streams, and end with the process that trains."""
    for number in SIGNALS:  # not SIG_IGN, which programs that the child starts would inherit
        signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    sys.stdout, sys.stderr = lasting_streams()  # pyright: ignore[reportAttributeAccessIssue]
    if sys.platform == "linux":  # also where the child's code never lets a thread run
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def how_it_ended(process: BaseProcess, *, early: bool) -> str:
    """Say how a process ended whose pipe is broken; `early` is before it did anything."""
    process.join(1)
    code = process.exitcode
    if code is None:
        return "closed its pipe"
    if code < 0:
        names = {number.value: number.name for number in signal.Signals}
        hint = " (perhaps out of memory)" if -code == signal.SIGKILL else ""
        return f"was killed by {names.get(-code, -code)}{hint}"
    main = " (a script needs `if __name__ == '__main__':` around train)" if early else ""
    return f"ended with exit code {code}{main}"


def _end_with_parent() -> None:
    """End this process once the one that trains has ended, whatever its own code does.

    A copy of that one, made by a fork, keeps the sentinel from telling.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None  # noqa: S101 - this runs in a child
    while os.getppid() == parent.pid and not wait([parent.sentinel], PARENT_SECONDS):
        pass
    os._exit(1)
