"""Lines about what goes wrong in environments but ends nothing."""

import warnings
from collections.abc import Callable


class Notices:
    """Tells each line once.

    Args:
        tell: where the lines go; None holds them back until it is set.
    """

    def __init__(self, tell: Callable[[str], None] | None = warnings.warn) -> None:
        self._tell = tell
        self._lines: dict[str, None] = {}

    def __call__(self, line: str) -> None:
        """Tell a line, unless it was told before."""
        if line not in self._lines:
            self._lines[line] = None
            if self._tell is not None:
                self._tell(line)

    def tell(self, tell: Callable[[str], None]) -> None:
        """Let the lines go to `tell` from now on, first those that were held back."""
        held = [] if self._tell is not None else list(self._lines)
        self._tell = tell
        for line in held:
            tell(line)
