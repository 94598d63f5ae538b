"""Errors that are meant for the user, and one line for any other error."""

MAX_REASON = 300
"""Characters of another error's message that are shown."""


class UserError(Exception):
    """Something given by the user cannot be used.

    The message is one line: what is wrong, what was expected, what to do. The command line prints
    it and exits with code 2; anything else that is raised is a defect and shows its traceback.
    """


class MissingExtraError(UserError, ImportError):
    """An optional package is not installed; the message says how to install it."""


class EnvironmentFailedError(UserError):
    """An environment raised or gave what cannot be learned from. What was trained is saved.

    `traceback` is that of what the environment raised, empty if it raised nothing.
    """

    def __init__(self, message: str) -> None:
        self.line, _, self.traceback = message.partition("\n")
        super().__init__(message)

    def __str__(self) -> str:
        return self.line

    def with_hint(self, hint: str) -> "EnvironmentFailedError":
        """The same, with one more thing to say."""
        return EnvironmentFailedError(f"{self.line}; {hint}\n{self.traceback}")


class ConfigError(UserError, ValueError):
    """An option has a value that cannot be used, or does not exist."""


class SpaceError(UserError, ValueError):
    """A space cannot be learned from."""


class WrongValueError(Exception):
    """A value is not one of its space; the message names the part that is wrong."""


class NoPictureError(Exception):
    """What was drawn is not a picture; the message says what it is."""


class DamagedError(Exception):
    """A checkpoint is not whole; the message says what is wrong with which file."""


class DivergedError(UserError):
    """A loss, a gradient or a weight is no finite number. What was good before is kept."""

    def with_hint(self, hint: str) -> "DivergedError":
        """The same, with one more thing to say."""
        return DivergedError(f"{self}; {hint}")


class ExtensionFailedError(UserError):
    """A tracker or callback of the user's raised. What was trained is saved."""

    def with_hint(self, hint: str) -> "ExtensionFailedError":
        """Return the same error with one more thing to say."""
        return ExtensionFailedError(f"{self}; {hint}")


class StoppedError(Exception):
    """Work was left because the run was asked to stop."""


def in_one_line(error: BaseException) -> str:
    """Name an error and its message in one line."""
    message = " ".join(str(error).split())
    if len(message) > MAX_REASON:
        message = f"{message[:MAX_REASON]}..."
    return f"{type(error).__name__}: {message}".removesuffix(": ")


def counted(number: int, noun: str) -> str:
    """Say how many there are of something, such as "1 step" or "2 steps"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def is_stop(error: BaseException) -> bool:
    """Tell whether an error is a request to stop the program, which nothing may swallow.

    `SystemExit` is not one: an environment that calls `sys.exit` has failed.
    """
    return isinstance(error, KeyboardInterrupt | GeneratorExit)
