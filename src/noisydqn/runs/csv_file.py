"""A CSV file that a run writes row by row."""

import csv
import io
import os
import shutil
from collections.abc import Callable
from typing import Any

from noisydqn.folders import File
from noisydqn.runs.walls import Wall

OLD_NAMES = {"steps": "step"}
"""Columns of older runs' CSV files, and their present names."""


class CsvFile:
    """A CSV file that is complete after each row, behind a wall.

    An existing file keeps its first `size` bytes and its header: a run that an older version began
    keeps that version's columns.

    Args:
        file: the file.
        size: bytes of an existing file that count.
        warn: told once if it cannot be written or is damaged. It takes no rows from then on.
    """

    def __init__(self, file: File, size: int, warn: Callable[[str], None]) -> None:
        self._header: list[str] | None = None
        self._file: io.BufferedRandom | None = None
        self._size = size  # of whole rows; the last that is known
        self._place, self._wall = file, Wall(str(file), warn)
        self._wall.call("", self._open, file)

    def _open(self, file: File) -> None:
        self._file = opened = file.appending()
        self._size = min(self._size, os.fstat(opened.fileno()).st_size)
        opened.truncate(self._size)
        self._header = next(csv.reader([opened.readline().decode()]), None) or None
        if self._header is not None and not {"step", *OLD_NAMES} & set(self._header):
            raise ValueError("it has no header: remove it, or restore it from a copy")

    def write(self, row: dict[str, Any]) -> None:
        """Write a row of the file's columns."""
        self._wall.call("", self._write, row)

    def _write(self, row: dict[str, Any]) -> None:
        assert self._file is not None  # noqa: S101 - or the wall has fallen
        text = io.StringIO(newline="")
        writer: Any = csv.writer(text)
        if self._header is None:
            self._header = list(row)
            writer.writerow(self._header)
        writer.writerow([row.get(OLD_NAMES.get(x, x), "") for x in self._header])
        data = memoryview(text.getvalue().encode())
        size = self._size + len(data)
        try:
            while data:  # past the buffer, which would keep what the disk has no room for
                data = data[os.write(self._file.fileno(), data) :]
        except OSError:
            os.ftruncate(self._file.fileno(), self._size)  # part of a row is none
            raise
        self._size = size

    def size(self) -> int:
        """Flush the file to the disk, and return the size of its whole rows in bytes.

        If it was removed, its rows are written to a new one.
        """
        if self._file is not None:
            self._wall.call("", self._flush, self._file)
        return self._size

    def _flush(self, file: io.BufferedRandom) -> None:
        if os.fstat(file.fileno()).st_nlink == 0:
            new = self._place.appending()
            new.truncate(0)  # should a file of that name be there again
            with file:
                file.seek(0)
                shutil.copyfileobj(file, new)
            new.flush()
            self._file = file = new
        os.fsync(file.fileno())

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._wall.finish("", self._file.close)
