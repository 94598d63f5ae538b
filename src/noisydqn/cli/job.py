"""A command of a comparison: pinned to its cores, and ended with the process that started it.

NOISYDQN_CORES=0 python -m noisydqn.cli.job train CartPole-v1 --out runs/one
"""

import contextlib
import os
import signal
import threading
import time

from noisydqn.cli import run
from noisydqn.study.pool import CORES_VARIABLE

GRACE_SECONDS = 120.0
"""Seconds that a command has to save its run once the process that started it has ended."""


def _pin() -> None:
    """Use only the cores that this command was given, where the system can restrict them."""
    cores = os.environ.pop(CORES_VARIABLE, "")
    if cores and hasattr(os, "sched_setaffinity"):
        with contextlib.suppress(OSError):  # they are not this machine's any more
            os.sched_setaffinity(0, map(int, cores.split(",")))


def _follow_parent() -> None:
    """Stop once the process that started this one has ended, so that standard input is closed."""
    while os.read(
        0, 2**10
    ):  # without Python's lock of standard input, which the end would wait for
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os._exit(1)


def main() -> None:
    """Run the command whose arguments follow."""
    _pin()
    threading.Thread(target=_follow_parent, daemon=True).start()
    run()


if __name__ == "__main__":
    main()
