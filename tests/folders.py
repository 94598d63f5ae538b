"""What may have the name of a file or of a folder, and all ways to read, write and make a file."""

import contextlib
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from noisydqn.folders import File

OLD, NEW, THEIRS = b"old contents", b"new contents", b"not a run's"
NAME = "metrics.csv"


def tree(folder: Path) -> dict[str, Any]:
    """Everything in a folder: its kind and, of files, contents and the time of the last change."""
    found: dict[str, Any] = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        rest: Any = status.st_ino
        if stat.S_ISREG(status.st_mode):
            rest = path.read_bytes(), status.st_mtime_ns
        found[str(path.relative_to(folder))] = stat.S_IFMT(status.st_mode), rest
    return found


def bound(place: Path, _: Path) -> None:
    """Make a socket. Its path could be too long, but not its name."""
    with socket.socket(socket.AF_UNIX) as made, contextlib.chdir(place.parent):
        made.bind(place.name)


Make = Callable[[Path, Path], object]
"""What makes something at a place, given the folder outside."""
LINKS: dict[str, Make] = {
    "link": lambda place, outside: place.symlink_to(outside / "canary"),
    "relative link": lambda place, _: place.symlink_to("../outside/canary"),
    "dangling link": lambda place, outside: place.symlink_to(outside / "nothing"),
    "link to a folder": lambda place, outside: place.symlink_to(outside),
    "link to an empty folder": lambda place, outside: place.symlink_to(outside / "empty"),
    "link to itself": lambda place, _: place.symlink_to(place.name),
    "link to a device": lambda place, _: place.symlink_to("/dev/null"),
}
ODD: dict[str, Make] = LINKS | {"pipe": lambda place, _: os.mkfifo(place), "socket": bound}
"""What a file can replace."""
FOLDERS: dict[str, Make] = {
    "folder": lambda place, _: place.mkdir(),
    "full folder": lambda place, outside: shutil.copytree(outside, place),
}
REGULAR: dict[str, Make] = {"file": lambda place, _: place.write_bytes(OLD)}


def each(makes: dict[str, Make]) -> pytest.MarkDecorator:
    """Try a test with each of these in the place."""
    return pytest.mark.parametrize("make", makes.values(), ids=makes)


def replaced(file: File, **options: bool) -> None:
    with file.replacing(**options) as opened:
        opened.write(NEW)


def opened(file: File) -> None:
    with file.opened() as place:
        Path(place).read_bytes()


def taking(file: File, **options: bool) -> None:
    """Copy a file that a program made."""
    with tempfile.NamedTemporaryFile() as made:
        made.write(NEW)
        made.flush()
        file.take(Path(made.name), **options)


READING: dict[str, Callable[[File], object]] = {
    "reading": File.reading,
    "read": File.read,
    "size": File.size,
    "has_other_name": File.has_other_name,
    "opened": opened,
    "appending": File.appending,
    "appending without a copy": lambda file: file.appending(copy=False),
    "moved from": lambda file: file.move(file.folder.file("moved")),
}
WRITING: dict[str, Callable[[File], object]] = {
    "replacing": replaced,
    "write": lambda file: file.write(NEW),
    "take": taking,
}
MAKING: dict[str, Callable[[File], object]] = {
    "create": File.create,
    "new replacing": lambda file: replaced(file, new=True),
    "new write": lambda file: file.write(NEW, new=True),
    "new take": lambda file: taking(file, new=True),
}
