"""Output that nobody reads any more."""

import os
from contextlib import suppress
from typing import IO


def discard(stream: IO[str]) -> None:
    """Send a stream whose reader has gone, as `head` goes, to nowhere.

    What its buffer still holds would else fail once more when the interpreter exits.
    """
    with suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:  # noqa: PTH123
        os.dup2(nowhere.fileno(), stream.fileno())
