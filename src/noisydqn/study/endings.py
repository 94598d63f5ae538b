"""Why a process ended: one line for a person."""

import os
import signal
from contextlib import suppress

from noisydqn.errors import SIGNALLED, printable
from noisydqn.folders import File

STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
STOP_CODES = {code for number in STOPS for code in (-number, SIGNALLED + number)}
"""Exit codes of a command that was asked to stop, whether or not it could save its run."""
TOLD = "noisydqn: "
"""The beginning of the line in which a command says why it failed."""
TAIL_BYTES = 2**14


def reason_of(code: int, log: File, start: int) -> str:
    """Say why a process ended with a code that is not 0.

    Args:
        code: as `subprocess` gives it: negative for a signal that killed the process.
        log: what it printed.
        start: bytes of the log that are older.
    """
    told = [line for line in _tail(log, start).splitlines() if line.startswith(TOLD)]
    if told:
        return printable(told[-1].removeprefix(TOLD))
    if code in STOP_CODES:
        return f"it was stopped by {_signal(code)}"
    if code < 0:
        hint = ", perhaps out of memory" if code == -signal.SIGKILL else ""
        return f"it was killed by {_signal(code)}{hint}"
    return f"it ended with exit code {code}"


def _signal(code: int) -> str:
    number = -code if code < 0 else code - SIGNALLED
    with suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"


def _tail(log: File, start: int) -> str:
    """Read the end of a log, from `start` on at most."""
    with suppress(OSError), log.reading() as file:
        file.seek(max(start, os.fstat(file.fileno()).st_size - TAIL_BYTES))
        return file.read(TAIL_BYTES).decode(errors="replace")
    return ""
