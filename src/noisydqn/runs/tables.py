"""The CSV files of a run, as they are written."""

import csv
import io
import os
import shutil
from collections.abc import Callable
from typing import Any

from noisydqn.folders import File
from noisydqn.runs.walls import Wall

OLD_NAMES = {"steps": "step"}
"""Column names in CSV files of older runs, and their present names."""
MAX_HEADER = 2**16
"""Bytes of the longest header."""


class CsvFile:
    """A CSV file that is complete after each row, and whose failures do not harm the run.

    An existing file keeps its first `size` bytes and its header, so a run that an older version
    started keeps that version's columns.

    Args:
        file: the file, which need not exist.
        size: bytes to keep of it.
        warn: receives a line if the file cannot be written or is damaged. No rows are written from
            then on.
    """

    def __init__(self, file: File, size: int, warn: Callable[[str], None]) -> None:
        self._place = file
        self._file: io.BufferedRandom | None = None
        self._header: list[str] | None = None
        self._size = size  # of whole rows; the last that is known
        self._wall = Wall(str(file), warn)
        self._wall.call("", self._open)

    def _open(self) -> None:
        self._place.folder.make()  # it may just have been removed
        self._file = opened = self._place.appending()
        self._size = min(self._size, os.fstat(opened.fileno()).st_size)
        opened.truncate(self._size)
        self._header = next(csv.reader([opened.readline(MAX_HEADER).decode()]), None) or None
        if self._header is not None and not {"step", *OLD_NAMES} & set(self._header):
            raise ValueError("it has no header: restore it from a copy, or remove it")

    def write(self, row: dict[str, Any]) -> None:
        """Write a row; the first one also gives a new file its header."""
        if self._file is not None:
            self._wall.call("", self._write, self._file.fileno(), row)

    def _write(self, descriptor: int, row: dict[str, Any]) -> None:
        text = io.StringIO(newline="")
        writer: Any = csv.writer(text)
        if self._header is None:
            self._header = list(row)
            writer.writerow(self._header)
        writer.writerow([row.get(OLD_NAMES.get(x, x), "") for x in self._header])
        data = memoryview(text.getvalue().encode())
        size = self._size + len(data)
        try:
            while data:  # not through a buffer, which would keep what the disk has no room for
                data = data[os.write(descriptor, data) :]
        except OSError:
            os.ftruncate(descriptor, self._size)  # part of a row would not be read again
            raise
        self._size = size

    def size(self) -> int:
        """Flush the file to the disk, anew if it was removed; returns the bytes of its rows."""
        if self._file is not None:
            self._wall.call("", self._sync, self._file)
        return self._size

    def _sync(self, opened: io.BufferedRandom) -> None:
        if os.fstat(opened.fileno()).st_nlink == 0:
            new = self._place.appending()
            new.truncate(0)  # should a file of that name be there again
            with opened:
                opened.seek(0)
                shutil.copyfileobj(opened, new)
            new.flush()
            self._file = opened = new
        os.fsync(opened.fileno())

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._wall.finish("", self._file.close)
