"""Reading of CSV files: numbers by column, or one line that says where it is not a number."""

import csv
import math
from collections.abc import Collection, Mapping
from typing import Any, TextIO

MAX_CSV_BYTES = 2**26
"""Bytes of the largest file that is read: two million episodes, or 200,000 rows of metrics."""
MAX_NUMBER = 1e35
"""The largest number that can be drawn; others count as unknown."""


def read_csv(
    text: TextIO,
    *,
    renamed: Mapping[str, str] | None = None,
    words: Collection[str] = (),
    first: int = 1,
) -> dict[str, list[Any]]:
    """Read the columns of a table whose first line names them.

    A field that is empty, or too large to be drawn, is NaN.

    Args:
        text: the open file.
        renamed: present names of columns, by older ones.
        words: the columns that are text.
        first: number of the first line that is read here, for messages.

    Returns:
        The columns by name; {} if there are no rows.

    Raises:
        ValueError: a row has another length, or a field is not a number; says in which line.
    """
    reader = csv.reader(text)
    rows = filter(None, reader)
    names = [(renamed or {}).get(name, name) for name in next(rows, [])]
    columns: list[list[Any]] = [[] for _ in names]
    parsers = [str if name in words else _number for name in names]
    try:
        for row in rows:
            for column, parse, field in zip(columns, parsers, row, strict=True):
                column.append(parse(field))
    except (ValueError, csv.Error) as error:
        raise ValueError(f"line {reader.line_num + first - 1}: {error}") from error
    return dict(zip(names, columns, strict=True)) if any(columns) else {}


def _number(text: str) -> float:
    number = float(text or math.nan)
    return number if abs(number) < MAX_NUMBER else math.nan
