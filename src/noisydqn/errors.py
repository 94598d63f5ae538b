"""Errors for the user, and a one-line form of any other error."""

import signal
from typing import Any

FAILED, REFUSED = 1, 2
"""Exit codes of the command: a run ended with an error and was saved; nothing was done."""
SIGNALLED = 128
"""Exit codes of commands that a signal stopped begin after this one, as in a shell."""

MAX_REASON = 300
"""Characters shown of another error's message."""
MAX_LINE, MAX_END = 2_000, 500
"""Characters of a line, and of its end, which says what to do."""


def printable(text: str) -> str:
    """Escape what a terminal would obey rather than show, such as line breaks; cut a long text."""
    if len(text) > MAX_LINE:
        text = f"{text[: MAX_LINE - MAX_END]}...{text[-MAX_END:]}"
    return "".join(x if x.isprintable() else x.encode("unicode_escape").decode() for x in text)


class UserError(Exception):
    """An error that the user can fix.

    The message is one line: what is wrong, what was expected, what to do. The command line prints
    it and exits with `code`. Any other exception is a defect and shows its traceback.
    """

    code = REFUSED
    hint = ""
    """One more thing to say, at the end of the line."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))  # it may quote a file

    @property
    def line(self) -> str:
        """The message without the hint."""
        return super().__str__()

    def __str__(self) -> str:
        return f"{self.line}; {self.hint}" if self.hint else self.line


class MissingExtraError(UserError, ImportError):
    """A missing optional package; the message says how to install it."""


class EnvironmentFailedError(UserError):
    """An environment that raised or returned something invalid. Training saves its work first.

    `traceback` is that of the environment's exception, or empty if it raised none.
    """

    def __init__(self, message: str) -> None:
        line, _, trace = message.partition("\n")
        self.traceback = "\n".join(map(printable, trace.split("\n")))
        super().__init__(line)


class MadeInJaxError(UserError):
    """A function made an environment in JAX, where one of Gymnasium was looked for."""

    def __init__(self, env: Any, params: Any) -> None:
        self.env, self.params = env, params
        super().__init__("the environment is one in JAX, expected one of Gymnasium")


class ConfigError(UserError, ValueError):
    """An option that does not exist or has an invalid value."""


class SpaceError(UserError, ValueError):
    """A space that is not supported."""


class WrongValueError(Exception):
    """A value that is not one of its space; the message names the part that is wrong.

    `row` is the place of the wrong example in a batch, None if there is no batch.
    """

    def __init__(self, message: str, row: int | None = None) -> None:
        self.row = row
        super().__init__(message)


class NoPictureError(Exception):
    """A rendering that is not an image; the message says what it is."""


class DamagedError(Exception):
    """A damaged checkpoint; the message says what is wrong with which file."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class UnfitError(UserError):
    """A checkpoint that does not fit the config beside it, so that nothing is trained."""


class NotSharedError(Exception):
    """A file of a run that is not shared; the message says which, and what is wrong with it."""


class DivergedError(UserError):
    """A loss, a gradient or a weight that is not finite. Earlier weights are kept."""


class ExtensionFailedError(UserError):
    """A callback of the user's raised. What was trained is saved."""


class StoppedError(Exception):
    """Work that was left because a stop was requested."""


class QuitError(KeyboardInterrupt):
    """The second request to stop: the program quits at once, and saves nothing.

    `signal` is that of the request.
    """

    def __init__(self, number: int = signal.SIGINT) -> None:
        self.signal = number
        super().__init__()


def message_of(error: BaseException) -> str:
    """Format the message of an error in one line."""
    message = printable(" ".join(str(error).split()))
    return message if len(message) <= MAX_REASON else f"{message[:MAX_REASON]}..."


def in_one_line(error: BaseException) -> str:
    """Format an error and its message in one line; one for users is its message alone."""
    if isinstance(error, UserError):
        return str(error)
    return f"{type(error).__name__}: {message_of(error)}".removesuffix(": ")


def counted(number: int, noun: str) -> str:
    """Format a number and a noun, such as "1 step" or "2 steps"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def is_stop(error: BaseException) -> bool:
    """Tell whether an error is a request to stop, which must not be swallowed.

    `SystemExit` is not one: an environment that calls `sys.exit` has failed.
    """
    return isinstance(error, KeyboardInterrupt | GeneratorExit | StoppedError)
