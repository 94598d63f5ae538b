"""Ctrl-C and SIGTERM: the first saves the run and stops it, the second quits at once."""

import dataclasses
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType

from noisydqn.errors import StoppedError

WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


@dataclasses.dataclass
class Stop:
    """A request to stop a run, and the signal that made it."""

    signal: int | None = None

    @property
    def asked(self) -> bool:
        """Whether a stop was requested."""
        return self.signal is not None

    @property
    def word(self) -> str:
        """The participle for the signal, such as "interrupted"; "" without a signal."""
        return "" if self.signal is None else WORDS[signal.Signals(self.signal)]

    def check(self) -> None:
        """Interrupt the work at hand if a stop was requested.

        Raises:
            StoppedError: a stop was requested.
        """
        if self.asked:
            raise StoppedError


@contextmanager
def stoppable(warn: Callable[[str], None]) -> Generator[Stop]:
    """Handle the signals that request a stop; the second one raises KeyboardInterrupt.

    A signal that the process ignores stays ignored: a shell starts background jobs so.
    """
    stop = Stop()

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        if stop.asked:
            raise KeyboardInterrupt
        stop.signal = number
        warn(f"{stop.word}: saving (repeat to quit without saving)")

    wanted = [number for number in WORDS if signal.getsignal(number) != signal.SIG_IGN]
    try:
        before = {number: signal.signal(number, note) for number in wanted}
    except ValueError:  # only the main thread may handle signals
        yield stop
        return
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
