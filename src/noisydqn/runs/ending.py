"""The end of a run: one way, whatever ends it.

A run ends because its budget is used up or its goal reached, because a stop is requested, or
because something fails: an environment, a worker, an evaluation, a callback, the disk. Each part of
a run works under `Ending.noting`. The first request or failure is the cause of the end; what was
trained is saved as after any other; and failures on the way out are told, but never replace the
cause.
"""

import errno
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from noisydqn.config.config import Config
from noisydqn.errors import FAILED, QuitError, StoppedError, UserError, in_one_line
from noisydqn.runners.stop import Stop
from noisydqn.runs.messages import how_to

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EIO}
"""Errors of a disk that is full or broken, which some calls report without a file."""


class Ending:
    """The cause for which a run ends.

    Args:
        stop: the requests to stop.
        warn: told of failures that come after the cause.
    """

    def __init__(self, stop: Stop, warn: Callable[[str], None]) -> None:
        self.stop = stop
        self.failure: BaseException | None = None
        """The failure that ends the run, None if something else does."""
        self.steps = 0
        """Environment steps of the seeds that were trained last."""
        self.trained = False
        """Whether there is something that was trained, in any seed."""
        self.lost = False
        """Whether something that was trained could not be saved."""
        self._warn = warn

    @property
    def near(self) -> bool:
        """Whether the run is to be saved and left, before its budget is used up."""
        return self.stop.asked or self.failure is not None

    @contextmanager
    def noting(self, action: str, *, saves: bool = False) -> Generator[None]:
        """Note what ends a part of the run.

        Args:
            action: the part, such as "the evaluation".
            saves: whether it saves what was trained.

        Raises:
            QuitError: a second stop was requested. Nothing else leaves the block.
        """
        try:
            yield
        except (QuitError, GeneratorExit):
            raise
        except StoppedError:
            return
        except KeyboardInterrupt:  # of an environment, or in a thread, where no signal is handled
            self.stop.request()
        except BaseException as error:
            self.lost = self.lost or saves
            if self.near:
                self._warn(f"{action} failed, too: {in_one_line(error)}")
            else:
                self.failure = error

    def conclude(self, out: Path, config: Config) -> None:
        """Raise the failure that ends the run, if there is one.

        Args:
            out: folder of the run.
            config: config of the run.

        Raises:
            UserError: with a hint at what is saved.
            BaseException: any other failure, which is a defect, with a note of the same.
        """
        if self.failure is None:
            return
        failure, self.failure = _for_user(self.failure, out, config), None
        saved = self.trained and not self.lost
        hint = f"what was trained until then is in {out}" if saved else ""
        if isinstance(failure, UserError):
            failure.hint = hint
            failure.code = FAILED if self.trained else failure.code
        elif hint:
            failure.add_note(hint)
        try:
            raise failure
        finally:
            del failure  # which would keep all that this frame knows, and open folders, alive


def _for_user(failure: BaseException, out: Path, config: Config) -> BaseException:
    """Explain an error of a file; others explain themselves."""
    if not isinstance(failure, OSError) or not (failure.filename or failure.errno in FULL):
        return failure
    explained = UserError(
        f"{failure.filename or out} cannot be written: {failure.strerror}; make room or make it "
        f"writable, then: {how_to('resume', out, config)}"
    )
    explained.__cause__ = failure
    return explained
