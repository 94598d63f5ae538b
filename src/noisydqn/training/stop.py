"""Ctrl-C and SIGTERM: the first stops training in good order, a second Ctrl-C quits at once."""

import dataclasses
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType

WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


@dataclasses.dataclass
class Stop:
    """Whether, and by which signal, training was asked to stop."""

    signal: int | None = None
    at_once: bool = False  # there is nothing left to save: raise KeyboardInterrupt

    @property
    def asked(self) -> bool:
        """Whether it was."""
        return self.signal is not None

    @property
    def word(self) -> str:
        """What happened."""
        return "" if self.signal is None else WORDS[signal.Signals(self.signal)]


@contextmanager
def stoppable(warn: Callable[[str], None]) -> Generator[Stop]:
    """Note the signals that ask to stop; a second Ctrl-C interrupts at once."""
    stop = Stop()

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        again = stop.asked
        if not again:
            stop.signal = number
        if stop.at_once or (again and number == signal.SIGINT):
            raise KeyboardInterrupt
        if not again:
            warn(f"{stop.word}: saving after this chunk (Ctrl-C again to quit without saving)")

    try:
        before = {number: signal.signal(number, note) for number in WORDS}
    except ValueError:  # not the main thread: signals are not ours to handle
        yield stop
        return
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
