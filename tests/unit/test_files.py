"""Whatever has the name of a file, nothing outside the run's folder is read or written."""

import contextlib
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.folders import (
    FOLDERS,
    MAKING,
    NAME,
    NEW,
    ODD,
    OLD,
    READING,
    REGULAR,
    THEIRS,
    WRITING,
    Make,
    each,
    tree,
)

from noisydqn.checkpoint.lock import Lock
from noisydqn.errors import UserError
from noisydqn.folders import PART, File, Folder
from noisydqn.runs.folder import RunFolder

pytestmark = pytest.mark.usefixtures("outside")

# What may have the name of a file


@each(ODD | FOLDERS)
@pytest.mark.parametrize("read", READING.values(), ids=READING)
def test_only_regular_files_are_opened(
    read: Callable[[File], object], make: Make, folder: Folder, path: Path, outside: Path
) -> None:
    make(path / NAME, outside)
    before, file = tree(path), folder.file(NAME)
    with pytest.raises(OSError, match=str(path / NAME)):
        read(file)
    assert tree(path) == before
    assert file.taken()
    assert not file.exists()
    assert file.free().name == "metrics-2.csv"


@each(ODD | REGULAR)
@pytest.mark.parametrize("write", WRITING.values(), ids=WRITING)
def test_what_is_no_folder_is_replaced(
    write: Callable[[File], object], make: Make, folder: Folder, path: Path, outside: Path
) -> None:
    make(path / NAME, outside)
    write(folder.file(NAME))
    assert folder.kind(NAME) == stat.S_IFREG
    assert (path / NAME).read_bytes() == NEW
    assert folder.names() == [NAME]


@each(ODD | REGULAR)
@pytest.mark.parametrize("write", WRITING.values(), ids=WRITING)
def test_what_is_no_folder_makes_room_for_a_file_that_is_written(
    write: Callable[[File], object], make: Make, folder: Folder, path: Path, outside: Path
) -> None:
    """Left behind by a kill, or laid there."""
    make(path / (NAME + PART), outside)
    write(folder.file(NAME))
    assert (path / NAME).read_bytes() == NEW
    assert folder.names() == [NAME]


@each(FOLDERS)
@pytest.mark.parametrize("suffix", ["", PART])
@pytest.mark.parametrize("write", WRITING.values(), ids=WRITING)
def test_a_folder_is_not_replaced(
    write: Callable[[File], object],
    suffix: str,
    make: Make,
    folder: Folder,
    path: Path,
    outside: Path,
) -> None:
    make(path / (NAME + suffix), outside)
    before = tree(path)
    with pytest.raises(OSError, match=str(path / (NAME + suffix))):
        write(folder.file(NAME))
    assert tree(path) == before


@each(ODD | FOLDERS | REGULAR)
@pytest.mark.parametrize("create", MAKING.values(), ids=MAKING)
def test_a_new_file_replaces_nothing(
    create: Callable[[File], object], make: Make, folder: Folder, path: Path, outside: Path
) -> None:
    make(path / NAME, outside)
    before = tree(path)
    with pytest.raises(FileExistsError, match=str(path / NAME)):
        create(folder.file(NAME))
    assert tree(path) == before


@each(ODD | FOLDERS | REGULAR)
def test_a_file_moves_to_no_name_that_is_taken(
    make: Make, folder: Folder, path: Path, outside: Path
) -> None:
    make(path / NAME, outside)
    (moving := folder.file("moving")).write(NEW)
    before = tree(path)
    with pytest.raises(FileExistsError, match=str(path / NAME)):
        moving.move(folder.file(NAME))
    assert tree(path) == before


@each(ODD | REGULAR)
def test_what_is_removed_is_the_name(make: Make, folder: Folder, path: Path, outside: Path) -> None:
    make(path / NAME, outside)
    folder.file(NAME).remove()
    assert folder.names() == []
    folder.file(NAME).remove()


@each(FOLDERS)
def test_a_folder_is_not_removed_as_a_file(
    make: Make, folder: Folder, path: Path, outside: Path
) -> None:
    make(path / NAME, outside)
    before = tree(path)
    with pytest.raises(OSError, match=str(path / NAME)):
        folder.file(NAME).remove()
    assert tree(path) == before


# From its making to its end


def test_a_file_from_its_making_to_its_end(folder: Folder, path: Path) -> None:
    file = folder.file(NAME)
    assert (file.path, str(file), file.size()) == (path / NAME, str(path / NAME), 0)
    assert not file.exists()
    assert not file.taken()
    assert file.free() == file
    with file.create() as opened:
        opened.write(OLD)
    assert file.exists()
    assert (file.size(), file.read()) == (len(OLD), OLD)
    with file.appending() as opened:
        opened.write(NEW)
        opened.seek(0)
        assert opened.read() == OLD + NEW
    with file.opened() as place:
        assert Path(place).read_bytes() == OLD + NEW
    (sub := folder.folder("sub")).make()
    file.move(other := sub.file("other"))
    assert not file.exists()
    assert other.read() == OLD + NEW
    other.write_json({"a": 1})
    assert json.loads(other.read()) == {"a": 1}
    other.remove()
    assert sub.names() == []
    with pytest.raises(FileNotFoundError, match=str(other)):
        other.read()
    with pytest.raises(FileNotFoundError, match=str(other)):
        other.move(file)
    with file.appending() as opened:  # which makes it
        assert opened.read() == b""


def test_free_names(folder: Folder, path: Path) -> None:
    for name in ("a.mp4", "a-2.mp4", "a-3.mp4.json"):
        (path / name).write_bytes(OLD)
    assert folder.file("a.mp4").free().name == "a-3.mp4"
    assert folder.file("a.mp4").free(beside=".json").name == "a-4.mp4"


PATHS = ["", ".", "..", "../outside", "../outside/canary", "a/b", "/etc/passwd", "a\0b", "a/"]


@pytest.mark.parametrize("name", PATHS)
def test_names_are_no_paths(name: str, folder: Folder) -> None:
    for call in (folder.file, folder.folder, RunFolder(folder).seed):
        with pytest.raises(ValueError, match="is not a plain name"):
            call(name)


@pytest.mark.parametrize("name", [".", "..", "/", "run/..", "run/."])
def test_a_path_of_the_users_that_names_a_folder(
    name: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent)
    before = tree(path.parent)
    file = File.at(name)
    for call in (*READING.values(), *MAKING.values(), File.remove):
        with contextlib.suppress(OSError):
            assert call(file) in (0, None)
    assert tree(path.parent) == before


def test_a_path_of_the_users_may_be_a_link(path: Path, outside: Path, tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(OLD)
    for name, to in {"here": "target", "new": "made later", "loop": "loop"}.items():
        (path / name).symlink_to(tmp_path / to if name != "loop" else name)
    assert File.at(path / "here").read() == OLD
    File.at(path / "here").write(NEW)
    File.at(str(path / "new")).write(NEW)
    assert (tmp_path / "target").read_bytes() == (tmp_path / "made later").read_bytes() == NEW
    with pytest.raises(OSError, match="loop"):
        File.at(path / "loop").read()
    assert all(x.is_symlink() for x in path.iterdir())
    (tmp_path / "run 2").symlink_to(path)
    assert Folder(tmp_path / "run 2").names() == ["here", "loop", "new"]
    assert File.at(outside / "canary").read() == THEIRS


def test_files_over_the_limit(folder: Folder, path: Path) -> None:
    file = folder.file(NAME)
    file.write(OLD)
    assert file.read(len(OLD)) == OLD
    for size in (len(OLD) + 1, 2**40):
        os.truncate(path / NAME, size)
        with pytest.raises(OSError, match=f"it has more than 12 bytes: '{path / NAME}'"):
            file.read(len(OLD))
    with pytest.raises(OSError, match="it has more than 268,435,456 bytes"):
        file.read()


def test_a_file_that_has_more_than_it_said() -> None:
    """One that grows meanwhile, or one of the kernel's."""
    if not (file := File.at("/proc/self/status")).exists():
        pytest.skip("needs /proc")
    assert file.size() == 0
    with pytest.raises(OSError, match="it has more than 10 bytes"):
        file.read(10)
    assert file.read(2**20).startswith(b"Name:")


def test_a_file_from_a_program(folder: Folder, tmp_path: Path) -> None:
    file = folder.file(NAME)
    file.write(OLD)
    with pytest.raises(FileNotFoundError, match="nothing"):
        file.take(tmp_path / "nothing")
    assert file.read() == OLD
    assert folder.names() == [NAME]


# Hard links


def test_a_second_name_keeps_what_it_had(folder: Folder, path: Path, outside: Path) -> None:
    file, place = folder.file(NAME), path / NAME
    for write in (*WRITING.values(), File.remove, lambda file: file.move(folder.file("moved"))):
        place.hardlink_to(outside / "canary")
        assert file.has_other_name()
        assert file.read() == THEIRS
        write(file)
        place.unlink(missing_ok=True)
    assert (path / "moved").read_bytes() == THEIRS
    place.hardlink_to(outside / "canary")
    with file.appending() as opened:
        assert not file.has_other_name()
        opened.truncate(3)
        opened.write(NEW)
    assert file.read() == THEIRS[:3] + NEW
    place.unlink()
    place.hardlink_to(outside / "canary")
    for create in MAKING.values():
        with pytest.raises(FileExistsError):
            create(file)


def test_a_file_with_a_second_name_beside_a_link(folder: Folder, path: Path, outside: Path) -> None:
    """The copy is not written through it."""
    (path / NAME).hardlink_to(outside / "canary")
    (path / (NAME + PART)).symlink_to(outside / NAME)
    with folder.file(NAME).appending() as opened:
        opened.write(NEW)
    assert (path / NAME).read_bytes() == THEIRS + NEW


def test_a_lock_with_a_second_name_locks(folder: Folder, path: Path, tmp_path: Path) -> None:
    """`cp -al` of a run that is being trained gives it one."""
    with Lock(folder, pytest.fail):
        (tmp_path / "copy").hardlink_to(path / "lock")
        with pytest.raises(UserError, match="is being trained"), Lock(Folder(path), pytest.fail):
            pass
    (path / "lock").unlink()
    (tmp_path / "copy").unlink()


def test_a_lock_does_not_write_to_its_second_name(
    folder: Folder, path: Path, outside: Path
) -> None:
    (path / "lock").hardlink_to(outside / "canary")
    with Lock(folder, pytest.fail):
        pass
