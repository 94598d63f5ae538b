"""Walls between a run and what merely watches it: a failure is told once, and harms nothing."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from noisydqn.errors import in_one_line, is_stop

P = ParamSpec("P")
R = TypeVar("R")


class Wall:
    """A wall around one thing that a run can do without.

    Args:
        name: of the thing, for the line that tells of its failure.
        warn: receives that line.
    """

    def __init__(self, name: str, warn: Callable[[str], None]) -> None:
        self.fallen = False
        """Whether something has failed: nothing else is tried then."""
        self._name, self._warn = name, warn

    def call(
        self, action: str, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs
    ) -> R | None:
        """Call a function, unless one has failed; None if it fails, whatever it raises.

        `action` is what it does, such as "in close", or "".
        """
        return None if self.fallen else self.finish(action, function, *args, **kwargs)

    def finish(
        self, action: str, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs
    ) -> R | None:
        """Call a function even if one has failed, of which no more is told."""
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            if is_stop(error):
                raise
            if not self.fallen:
                what = " ".join(filter(None, (self._name, "failed", action)))
                self._warn(f"{what}: {in_one_line(error)}; the run goes on without it")
            self.fallen = True
            return None
