"""Paths as users give them, and files that are always whole."""

import json
import os
from pathlib import Path

from noisydqn.errors import UserError
from noisydqn.options import shown

Place = Path | str
"""A path as users give it."""


def given_path(path: object, what: str = "--out") -> Path:
    """Take a path from the user: `~` is the home folder.

    Args:
        path: the path.
        what: what it is called in a message.

    Raises:
        UserError: it is empty, not a path, or names the home folder of nobody.
    """
    try:
        if not isinstance(path, Path | str) or not str(path) or "\0" in str(path):
            raise UserError(f"{what} must be a path, got {shown(path)}: name a folder or a file")
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{what} {path} cannot be used: {error}") from error


def free_path(path: Path, beside: str = "") -> Path:
    """`path` itself or, if it is taken, the first of `name-2`, `name-3`, ... that is not.

    Args:
        path: what is to be written.
        beside: the end of the name of a file beside it, which must be free, too.
    """
    number = 2
    free = path
    while free.exists() or free.with_name(free.name + beside).exists():
        free = path.with_name(f"{path.stem}-{number}{path.suffix}")
        number += 1
    return free


def write_beside(path: Path, data: bytes) -> None:
    """Write a file beside the old one first, then in its place, and see that it lasts."""
    beside = path.with_name(path.name + ".part")
    with beside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def write_json(path: Path, value: object) -> None:
    """Write JSON beside the old file first, then in its place."""
    write_beside(path, (json.dumps(value, indent=2) + "\n").encode())
