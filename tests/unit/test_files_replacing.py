"""A file is replaced as a whole or not at all, and a new one replaces nothing."""

import contextlib
import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import pytest
from tests.disks import mounted
from tests.folders import NAME, NEW, OLD

from noisydqn.folders import Folder

pytestmark = pytest.mark.usefixtures("outside")


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, GeneratorExit, OSError])
@pytest.mark.parametrize("new", [True, False])
def test_a_crash_leaves_what_was_there(
    new: bool, error: type[BaseException], folder: Folder
) -> None:
    file = folder.file("new" if new else NAME)
    folder.file(NAME).write(OLD)

    def crash() -> None:
        with file.replacing(new=new) as opened:
            opened.write(NEW)
            raise error

    with pytest.raises(error):
        crash()
    assert folder.names() == [NAME]
    assert folder.file(NAME).read() == OLD


def test_a_disk_that_fills_up_leaves_what_was_there(
    folder: Folder, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (file := folder.file(NAME)).write(OLD)

    def full(_: int) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=f"No space left on device: '{path / NAME}'"):
        file.write(NEW)
    with pytest.raises(OSError, match=f"No space left on device: '{path}'"):
        folder.sync()
    monkeypatch.undo()
    assert folder.names() == [NAME]
    assert file.read() == OLD


def test_a_disk_that_is_full_leaves_what_was_there(tmp_path: Path) -> None:
    """Closing the file fails once more."""
    with mounted(tmp_path / "disk", "100k") as disk:
        (file := Folder(disk).file(NAME)).write(OLD)
        for size in (2**20, 2**20 + 1):
            with pytest.raises(OSError, match=f"No space left on device: '{disk / NAME}'"):
                file.write(bytes(size))
        assert file.folder.names() == [NAME]
        assert file.read() == OLD


@pytest.mark.parametrize("links", [True, False])
def test_a_name_that_is_taken_meanwhile(
    links: bool, folder: Folder, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also on a file system without hard links."""
    if not links:

        def refused(*_: Any, **__: Any) -> NoReturn:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

        monkeypatch.setattr(os, "link", refused)

    def make() -> None:
        with folder.file(NAME).replacing(new=True) as opened:
            opened.write(NEW)
            (path / NAME).write_bytes(OLD)

    with pytest.raises(FileExistsError, match=str(path / NAME)):
        make()
    assert folder.names() == [NAME]
    assert (path / NAME).read_bytes() == OLD
    with pytest.raises(FileExistsError, match=str(path / NAME)):
        folder.file(NAME).move(folder.file(NAME))
    folder.file("new").write(NEW, new=True)
    folder.file("new").move(folder.file("newer"))
    assert folder.names() == [NAME, "newer"]
    assert folder.file("newer").read() == NEW


def test_a_link_that_takes_the_place_of_a_file_while_it_moves(
    folder: Folder, path: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It moves itself: a name for what it leads to would make that writable."""
    (file := folder.file(NAME)).write(OLD)
    link = os.link

    def swap(*names: str, **options: Any) -> None:
        (path / NAME).unlink()
        (path / NAME).symlink_to(outside / "canary")
        link(*names, **options)

    monkeypatch.setattr(os, "link", swap)
    file.move(folder.file("moved"))
    assert (path / "moved").is_symlink()
    assert (outside / "canary").stat().st_nlink == 1


def test_two_that_write_one_file(folder: Folder, path: Path) -> None:
    """Neither gives the half of the other's its name, whoever ends first."""
    one, other = folder.file(NAME), Folder(path).file(NAME)
    first, second = contextlib.ExitStack(), contextlib.ExitStack()
    first.enter_context(one.replacing()).write(OLD)
    other.write(NEW)
    with pytest.raises(FileNotFoundError, match=str(path)):
        first.close()
    assert one.read() == NEW
    first.enter_context(one.replacing()).write(OLD)
    second.enter_context(other.replacing()).write(b"half")
    with pytest.raises(OSError, match=f"another process writes it: '{path / NAME}'"):
        first.close()
    assert one.read() == NEW
    second.close()
    assert one.read() == b"half"
    assert folder.names() == [NAME]


def test_of_many_that_make_one_file_one_does(path: Path) -> None:
    def write(number: int) -> bool:
        with contextlib.suppress(OSError):
            Folder(path).file(NAME).write(bytes([number]) * 10_000, new=True)
            return True
        return False

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(write, range(64))) == 1
    assert [x.name for x in path.iterdir()] == [NAME]
    data = (path / NAME).read_bytes()
    assert data == data[:1] * 10_000
