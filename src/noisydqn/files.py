"""Paths from users."""

from pathlib import Path

from noisydqn.errors import UserError
from noisydqn.options import shown

Place = Path | str
"""A path from a user."""


def given_path(path: object, what: str = "--out") -> Path:
    """Check a path from a user and expand `~` to the home folder.

    Args:
        path: the path.
        what: its name in error messages.

    Raises:
        UserError: it is empty, not a path, or in the home folder of an unknown user.
    """
    try:
        if not isinstance(path, Path | str) or not str(path) or "\0" in str(path):
            raise UserError(f"{what} must be a path, got {shown(path)}: name a folder or a file")
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{what} {path} cannot be used: {error}") from error


def free_path(path: Path, beside: str = "") -> Path:
    """Return `path` or, if it exists, the first free path of `name-2`, `name-3` and so on.

    Args:
        path: the preferred path.
        beside: suffix of a second file, whose name must also be free.
    """
    number = 2
    free = path
    while free.exists() or free.with_name(free.name + beside).exists():
        free = path.with_name(f"{path.stem}-{number}{path.suffix}")
        number += 1
    return free
