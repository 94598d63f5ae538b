"""The consoles that a live view prints to, and text that is safe to show there."""

from typing import Any

from rich.console import Console

from noisydqn.errors import printable
from noisydqn.output import lasting_streams


def make_consoles(*, quiet: bool) -> tuple[Console, Console]:
    """Make consoles for standard output, silent if `quiet`, and for standard error.

    Neither takes text for markup, and neither raises if nothing can be printed.
    """
    plain: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False}
    if Console().is_jupyter:  # a notebook would keep each frame of a bar
        plain |= {"force_jupyter": False, "force_terminal": False}
    output: Any
    errors: Any
    output, errors = lasting_streams()
    return Console(file=output, quiet=quiet, **plain), Console(file=errors, stderr=True, **plain)


def shown(lines: str) -> str:
    """Return lines as a terminal may see them: they can quote a file."""
    return "\n".join(map(printable, lines.split("\n")))
