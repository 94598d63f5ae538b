"""Ctrl-C, SIGTERM and SIGHUP: the first saves the run and stops it, the second quits at once."""

import dataclasses
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType

from noisydqn.errors import QuitError, StoppedError

CTRL_C, HANG_UP = signal.SIGINT, signal.SIGHUP
WORDS = {
    CTRL_C: "interrupted",
    signal.SIGTERM: "terminated",
    HANG_UP: "hung up",  # the terminal was closed
}


@dataclasses.dataclass
class Stop:
    """A request to stop a run, and the signal that made it.

    Args:
        signal: of the request; None while there is none.
        warn: told of the request.
    """

    signal: int | None = None
    warn: Callable[[str], None] = lambda _: None

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

    def request(self, number: int = CTRL_C) -> None:
        """Request a stop, as a signal does.

        A terminal that closes may send SIGHUP twice, so that one never quits.

        Raises:
            QuitError: a stop was requested before.
        """
        if self.asked:
            if number != HANG_UP:
                raise QuitError(number)
            return
        self.signal = number
        self.warn(f"{self.word}: saving (repeat to quit without saving)")


@contextmanager
def stoppable(warn: Callable[[str], None]) -> Generator[Stop]:
    """Handle the signals that request a stop; the second one raises QuitError.

    A signal that the process ignores stays ignored: a shell starts background jobs so, and `nohup`
    ignores SIGHUP. Only the main thread may handle signals; elsewhere they do what they did.
    """
    stop = Stop(warn=warn)

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        stop.request(number)

    foreign = (signal.SIG_IGN, None)  # None was not installed from Python, and could not return
    wanted = [number for number in WORDS if signal.getsignal(number) not in foreign]
    try:
        before = {number: signal.signal(number, note) for number in wanted}
    except ValueError:
        yield stop
        return
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
