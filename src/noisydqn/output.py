"""Standard output and error that may be gone: a closed terminal, `head`, a log on a full disk."""

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import IO, Any


def discard(stream: IO[str]) -> None:
    """Redirect a stream to nowhere once it cannot be written to.

    The rest of the buffer would otherwise raise again when the interpreter exits.
    """
    with suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:  # noqa: PTH123
        os.dup2(nowhere.fileno(), stream.fileno())


def tell(line: str) -> None:
    """Print a line to standard error, if there is one that can be written to."""
    lasting_streams()[1].write(f"{line}\n")


class Lasting:
    """A standard stream that falls silent once it cannot be written to, and never raises.

    Args:
        stream: the stream; None, as Python has it where it was closed from the start, is silent.
        tells: the stream that is told of the loss, unless a reader such as `head` just ended.
    """

    def __init__(self, stream: Any, tells: "Lasting | None" = None) -> None:
        self._stream, self._tells = stream, tells
        self._lost = stream is None

    def __getattr__(self, name: str) -> Any:
        """Return what else the stream has, such as its encoding."""
        return getattr(self._stream, name)

    def isatty(self) -> bool:
        """Tell whether it is a terminal that can be written to."""
        try:
            return not self._lost and bool(self._stream.isatty())
        except (OSError, ValueError):
            return False

    def write(self, text: str) -> int:
        """Write text, if that is possible."""
        try:
            if not self._lost:
                self._write(text)
        except RuntimeError:  # a signal came in the middle of another call
            with suppress(OSError, ValueError):
                os.write(self._stream.fileno(), text.encode(errors="backslashreplace"))
        except (OSError, ValueError) as error:
            self._lose(error)
        return len(text)

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
        except UnicodeEncodeError as error:
            known = text.encode(error.encoding, "backslashreplace")
            self._stream.write(known.decode(error.encoding))

    def writelines(self, lines: list[str]) -> None:
        """Write lines, if that is possible."""
        self.write("".join(lines))

    def flush(self) -> None:
        """Flush the stream, if that is possible."""
        try:
            if not self._lost:
                self._stream.flush()
        except RuntimeError:
            pass
        except (OSError, ValueError) as error:
            self._lose(error)

    def _lose(self, error: Exception) -> None:
        self._lost = True
        discard(self._stream)
        if self._tells is not None and not isinstance(error, BrokenPipeError):
            reason = (isinstance(error, OSError) and error.strerror) or str(error)
            self._tells.write(f"the output cannot be written to ({reason}): nothing more is said\n")


def lasting_streams() -> tuple[Lasting, Lasting]:
    """Return standard output and error as streams that never raise."""
    errors = sys.stderr if isinstance(sys.stderr, Lasting) else Lasting(sys.stderr)
    output = sys.stdout if isinstance(sys.stdout, Lasting) else Lasting(sys.stdout, errors)
    return output, errors


@contextmanager
def lasting_output() -> Generator[None]:
    """Let everything that is printed meanwhile, by whatever code, harm nobody."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = lasting_streams()  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stdout, sys.stderr = before
