"""Output whose reader has gone."""

import os
from contextlib import suppress
from typing import IO


def discard(stream: IO[str]) -> None:
    """Redirect a stream to nowhere once its reader, such as `head`, has gone.

    The rest of the buffer would otherwise raise again when the interpreter exits.
    """
    with suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:  # noqa: PTH123
        os.dup2(nowhere.fileno(), stream.fileno())
