"""The CSV files of a run, as they are written."""

import csv
import os
import shutil
from io import BufferedRandom, TextIOWrapper
from typing import Any

from noisydqn.folders import File

OLD_NAMES = {"steps": "step"}
"""Column names in CSV files of older runs, and their present names."""


class CsvFile:
    """A CSV file that is complete after each row.

    An existing file keeps its first `size` bytes and its header, so a run that an older version
    started keeps that version's columns.

    Args:
        file: the file, which need not exist.
        size: bytes to keep of it.
    """

    def __init__(self, file: File, size: int) -> None:
        raw = file.appending()
        raw.truncate(min(size, os.fstat(raw.fileno()).st_size))
        self._header = next(csv.reader([raw.readline().decode()]), None) or None
        self._place = file
        self._open(raw)

    def _open(self, raw: BufferedRandom) -> None:
        raw.seek(0, os.SEEK_END)
        self._file = TextIOWrapper(raw, newline="")
        self._writer: Any = csv.writer(self._file)

    def write(self, row: dict[str, Any]) -> None:
        """Write a row; the first one also gives a new file its header."""
        if self._header is None:
            self._header = list(row)
            self._writer.writerow(self._header)
        self._writer.writerow([row.get(OLD_NAMES.get(x, x), "") for x in self._header])
        self._file.flush()

    def size(self) -> int:
        """Flush the file to the disk, and write it anew if it was removed; returns its bytes."""
        if os.fstat(self._file.fileno()).st_nlink == 0:
            self._write_anew()
        os.fsync(self._file.fileno())
        return os.fstat(self._file.fileno()).st_size

    def _write_anew(self) -> None:
        """Write the rows of a removed file, which is still open, to a new one."""
        new = self._place.appending()
        new.truncate(0)  # should a file of that name be there again
        with self._file as removed:
            removed.buffer.seek(0)
            shutil.copyfileobj(removed.buffer, new)
        new.flush()
        self._open(new)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
