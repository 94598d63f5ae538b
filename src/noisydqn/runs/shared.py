"""The files of a run that are shared: which they are, how large, and what they must hold.

Both sides check the same: who shares a run, so that nothing else leaves under the name of one of
its files, and who fetches it. Nothing that a config names is imported.
"""

from collections.abc import Callable, Mapping
from functools import partial
from io import TextIOWrapper
from typing import NamedTuple

import msgspec

from noisydqn.errors import NotSharedError, UserError, message_of
from noisydqn.folders import File
from noisydqn.runs.folder import MAX_JSON_BYTES, RunFolder, read_config, read_spaces
from noisydqn.runs.tables import OLD_NAMES
from noisydqn.runs.weights import check_policy

MAX_WEIGHTS_BYTES = 2**30
"""268 million weights; the preset `rainbow` has 47 million on Atari's whole color screen."""
MAX_VIDEO_BYTES = 2**30
"""The longest video, one hour, has some 40 MB where 20 seconds have 200 kB."""
MAX_CSV_BYTES = 2**28
"""A million chunks in `metrics.csv`, or ten million episodes: a row has some 220 or 30 bytes."""
MAX_PICTURE_BYTES = 2**26
"""`curves.png` has some 80 kB."""
MAX_BYTES = 2**31
"""Bytes of all files together: both weights as large as they may be, without anything else."""

PNG, MP4 = b"\x89PNG\r\n\x1a\n", b"ftyp"
MP4_START = 4  # after the length of the first box

FIRST_COLUMN = "step"


class Shared(NamedTuple):
    """A file of a run that is shared, which need not exist.

    Args:
        file: the file.
        limit: the most bytes it may have.
        check: raises `UserError`, `ValueError` or `OSError` if it holds something else.
    """

    file: File
    limit: int
    check: Callable[[File], object]


def shared_files(folder: RunFolder) -> dict[str, Shared]:
    """List the files that are shared, by name.

    The config is the last: a folder that is filled in this order is a run once it is complete.
    """
    png = partial(_check_start, "a PNG", PNG, 0)
    mp4 = partial(_check_start, "an MP4", MP4, MP4_START)
    files = [
        Shared(folder.best, MAX_WEIGHTS_BYTES, check_policy),
        Shared(folder.final, MAX_WEIGHTS_BYTES, check_policy),
        Shared(folder.summary, MAX_JSON_BYTES, _check_summary),
        Shared(folder.video, MAX_VIDEO_BYTES, mp4),
        Shared(folder.curves, MAX_PICTURE_BYTES, png),
        Shared(folder.metrics, MAX_CSV_BYTES, partial(_check_csv, ("seconds", "updates"))),
        Shared(folder.episodes, MAX_CSV_BYTES, partial(_check_csv, ("return", "length"))),
        Shared(folder.evaluations, MAX_CSV_BYTES, partial(_check_csv, ("seconds", "mean_return"))),
        Shared(folder.spaces, MAX_JSON_BYTES, lambda _: read_spaces(folder)),
        Shared(folder.config, MAX_JSON_BYTES, read_config),
    ]
    return {shared.file.name: shared for shared in files}


def sizes_of(folder: RunFolder) -> dict[str, int]:
    """Measure the shared files that are there, in bytes by name.

    Raises:
        NotSharedError: one is a link or no regular file, or cannot be read.
    """
    sizes: dict[str, int] = {}
    for name, shared in shared_files(folder).items():
        if shared.file.taken():
            try:
                sizes[name] = shared.file.size()
            except OSError as error:
                raise NotSharedError(f"{name} cannot be read ({error.strerror})") from error
    return sizes


def check_sizes(folder: RunFolder, sizes: Mapping[str, int]) -> None:
    """Check that a run is there and not too large, from the sizes of its files alone.

    Raises:
        NotSharedError: a file that every run has is missing, or there are too many bytes.
    """
    for file in (folder.config, folder.best):
        if file.name not in sizes:
            raise NotSharedError(f"{file.name} is missing")
    for name, shared in shared_files(folder).items():
        if sizes.get(name, 0) > shared.limit:
            raise NotSharedError(
                f"{name} has {sizes[name]:,} bytes, expected at most {shared.limit:,}"
            )
    total = sum(sizes.values())
    if total > MAX_BYTES:
        raise NotSharedError(
            f"its files have {total:,} bytes together, expected at most {MAX_BYTES:,}"
        )


def check_run(folder: RunFolder) -> None:
    """Check that a folder holds a run: that each file is what its name says, and whole.

    Raises:
        NotSharedError: a file is not.
    """
    sizes = sizes_of(folder)
    check_sizes(folder, sizes)
    for name, shared in shared_files(folder).items():
        if name in sizes:
            try:
                shared.check(shared.file)
            except (UserError, ValueError, OSError, RecursionError) as error:
                raise NotSharedError(f"{name} cannot be used ({_reason(error)})") from error


def _reason(error: BaseException) -> str:
    """Say what is wrong, without the path and the remedy of an error about files of one's own."""
    cause = error.__cause__ if isinstance(error, UserError) and error.__cause__ else error
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return message_of(cause)


# What files must hold


class _Summary(msgspec.Struct):
    """The parts of a summary that the card of a repository shows."""

    steps: int = 0
    evaluation: dict[str, float] | None = None


def _check_summary(file: File) -> None:
    msgspec.json.decode(file.read(MAX_JSON_BYTES), type=_Summary)


def _check_csv(columns: tuple[str, ...], file: File) -> None:
    """Check that a file is text with these columns after that of steps, or empty."""
    with TextIOWrapper(file.reading(), "utf-8", newline="") as text:
        first = text.readline()
        header = first.rstrip("\r\n").split(",")
        known = OLD_NAMES.get(header[0], header[0]) == FIRST_COLUMN
        if first and not (known and set(columns) <= set(header)):
            raise ValueError(f"its columns are not {FIRST_COLUMN}, {', '.join(columns)}")
        if any("\0" in line for line in text):
            raise ValueError("it is not text")


def _check_start(what: str, start: bytes, place: int, file: File) -> None:
    """Check the bytes by which a format is recognized."""
    with file.reading() as opened:
        if opened.read(place + len(start))[place:] != start:
            raise ValueError(f"it is not {what}")
