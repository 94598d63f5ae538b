"""Lines about problems of environments that do not end a run."""

import warnings
from collections.abc import Callable


class Notices:
    """A receiver of lines about problems, which passes each line on once.

    Args:
        tell: receives the lines; None holds them back until `tell` is called.
    """

    def __init__(self, tell: Callable[[str], None] | None = warnings.warn) -> None:
        self._tell = tell
        self._lines: dict[str, None] = {}

    def __call__(self, line: str) -> None:
        """Pass a line on, unless it was received before."""
        if line not in self._lines:
            self._lines[line] = None
            if self._tell is not None:
                self._tell(line)

    def tell(self, tell: Callable[[str], None]) -> None:
        """Send lines to `tell` from now on, first those that were held back."""
        held = [] if self._tell is not None else list(self._lines)
        self._tell = tell
        for line in held:
            tell(line)
