"""Ctrl-C and SIGTERM: the first stops a run in good order, the second quits at once."""

import dataclasses
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType

from noisydqn.errors import StoppedError

WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


@dataclasses.dataclass
class Stop:
    """Whether, and by which signal, a run was asked to stop."""

    signal: int | None = None

    @property
    def asked(self) -> bool:
        """Whether a stop was requested."""
        return self.signal is not None

    @property
    def word(self) -> str:
        """What happened."""
        return "" if self.signal is None else WORDS[signal.Signals(self.signal)]

    def check(self) -> None:
        """Leave the work at hand if a stop was requested.

        Raises:
            StoppedError: it was.
        """
        if self.asked:
            raise StoppedError


@contextmanager
def stoppable(warn: Callable[[str], None]) -> Generator[Stop]:
    """Note the signals that ask to stop; the second raises KeyboardInterrupt.

    A signal that is ignored, as in a job that a shell started in the background, stays ignored.
    """
    stop = Stop()

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        if stop.asked:
            raise KeyboardInterrupt
        stop.signal = number
        warn(f"{stop.word}: saving (once more to quit without saving)")

    wanted = [number for number in WORDS if signal.getsignal(number) != signal.SIG_IGN]
    try:
        before = {number: signal.signal(number, note) for number in wanted}
    except ValueError:  # not the main thread: signals are not ours to handle
        yield stop
        return
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
