"""Whatever lies in a run's folder, nothing outside it is read, written or removed."""

import contextlib
import errno
import json
import os
import shutil
import socket
import stat
import subprocess
import tempfile
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import pytest
from tests.disks import mounted

from noisydqn.checkpoint.lock import Lock
from noisydqn.errors import UserError
from noisydqn.folders import PART, File, Folder
from noisydqn.runs.folder import RunFolder

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


@pytest.fixture(autouse=True)
def outside(tmp_path: Path) -> Generator[Path]:
    """A folder beside that of the run, which no test may change."""
    folder = tmp_path / "outside"
    (folder / "empty").mkdir(parents=True)
    for name in ("canary", NAME, NAME + PART):
        (folder / name).write_bytes(THEIRS)
    before = tree(folder)
    yield folder
    assert tree(folder) == before


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The path of the run's folder, which is empty."""
    (folder := tmp_path / "run").mkdir()
    return folder


@pytest.fixture
def folder(path: Path) -> Folder:
    return Folder(path)


# What may have the name of a file or of a folder


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


def test_kinds(folder: Folder, path: Path, outside: Path) -> None:
    for name, make in (ODD | FOLDERS | REGULAR).items():
        make(path / name, outside)
        kinds = {"pipe": stat.S_IFIFO, "socket": stat.S_IFSOCK, "file": stat.S_IFREG}
        kind = stat.S_IFLNK if name in LINKS else kinds.get(name, stat.S_IFDIR)
        assert folder.kind(name) == kind
        if name in LINKS:
            with pytest.raises(OSError, match=f"it is a link, which .*{path / name}"):
                folder.refuse_link(name)
        else:
            folder.refuse_link(name)
    assert folder.kind("nothing") is None
    folder.refuse_link("nothing")
    assert folder.names() == sorted(ODD | FOLDERS | REGULAR)


# Files


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


# Replacing


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


# Folders


CALLS: dict[str, Callable[[Folder], object]] = {
    "make": Folder.make,
    "names": Folder.names,
    "sync": Folder.sync,
    "remove": Folder.remove,
    "handle": lambda folder: folder.handle,
    "kind": lambda folder: folder.kind("canary"),
    "refuse_link": lambda folder: folder.refuse_link("canary"),
    "make a folder in it": lambda folder: folder.folder("sub").make(),
    "remove a folder in it": lambda folder: folder.folder("empty").remove(),
    "remove a file in it": lambda folder: folder.file("canary").remove(),
    "move out": lambda folder: folder.file("canary").move(Folder(folder.path.parent).file("x")),
    "move in": lambda folder: File.at(folder.path.parent / "mine").move(folder.file("x")),
}


@each(ODD | REGULAR)
def test_nothing_is_reached_through_what_is_no_folder(
    make: Make, folder: Folder, path: Path, outside: Path
) -> None:
    make(path / "checkpoints", outside)
    (path / "mine").write_bytes(OLD)
    before = tree(path)
    everything = CALLS | {
        name: lambda folder, call=call: call(folder.file("canary"))
        for name, call in (READING | WRITING | MAKING).items()
    }
    for call in everything.values():
        place = folder.folder("checkpoints")
        assert not place.exists()
        with pytest.raises(OSError, match=str(path)):
            call(place)
        assert not place.file("canary").exists()
        assert not place.exists()
    assert tree(path) == before


def test_a_link_that_takes_the_place_of_a_folder_while_it_is_opened(
    folder: Folder, path: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.folder("sub").make()

    def swap(self: Folder, name: str) -> None:
        (self.path / name).rmdir()
        (self.path / name).symlink_to(outside)

    monkeypatch.setattr(Folder, "refuse_link", swap)
    with pytest.raises(OSError, match=str(path / "sub")):
        folder.folder("sub").file("canary").read()


def test_a_folder_that_is_missing(folder: Folder, path: Path) -> None:
    for place in (folder.folder("sub"), Folder(path / "sub")):
        assert not place.exists()
        assert place.kind("x") is None
        assert not place.file("x").taken()
        assert place.file("x").size() == 0
        place.file("x").remove()
        for call in (Folder.names, Folder.sync, lambda x: x.file("y").write(NEW)):
            with pytest.raises(FileNotFoundError, match=str(path / "sub")):
                call(place)
    assert folder.names() == []


def test_folders_are_made_with_those_above_them(tmp_path: Path) -> None:
    inner = Folder(tmp_path / "a" / "b").folder("c").folder("d")
    assert inner.make()
    assert not inner.make()
    inner.file(NAME).write(NEW)
    assert (tmp_path / "a/b/c/d" / NAME).read_bytes() == NEW
    assert not Folder(tmp_path / "a").make()
    inner.file(NAME).remove()
    inner.remove()
    assert not inner.exists()
    assert Folder(tmp_path / "a/b/c").names() == []


def test_a_folder_that_is_not_empty_is_not_removed(folder: Folder) -> None:
    (sub := folder.folder("sub")).make()
    sub.file(NAME).write(NEW)
    with pytest.raises(OSError, match=f"not empty: '{sub}'"):
        sub.remove()
    assert sub.file(NAME).read() == NEW


def test_many_that_make_one_folder(path: Path) -> None:
    def make(_: int) -> bool:
        Folder(path).folder("sub").make()
        return Folder(path / "other").make()

    with ThreadPoolExecutor(8) as pool:
        assert any(pool.map(make, range(64)))
    assert sorted(x.name for x in path.iterdir()) == ["other", "sub"]


def test_many_that_list_one_folder(folder: Folder, path: Path) -> None:
    """Each sees all of it."""
    names = sorted(f"file {i}" for i in range(3_000))
    for name in names:
        (path / name).touch()
    with ThreadPoolExecutor(4) as pool:
        assert all(found == names for found in pool.map(lambda _: folder.names(), range(100)))


def test_a_folder_that_is_renamed_keeps_its_files(
    folder: Folder, path: Path, outside: Path
) -> None:
    """Even if there is then something else in its place."""
    (sub := folder.folder("sub")).make()
    (there := sub.file("there")).write(OLD)
    for number, make in enumerate(LINKS.values()):
        moved = path.with_name(f"moved {number}")
        folder.path.rename(moved)
        make(path, outside)
        assert folder.exists()
        assert sub.exists()
        assert not sub.make()
        folder.file(NAME).write(NEW)
        sub.file(NAME).write(NEW)
        with there.appending() as opened:
            opened.write(NEW)
        assert folder.file(NAME).path == moved / NAME
        assert (moved / NAME).read_bytes() == (moved / "sub" / NAME).read_bytes() == NEW
        path.unlink()
    assert there.read() == OLD + NEW * len(LINKS)


def test_a_folder_in_it_that_is_renamed_keeps_its_files(
    folder: Folder, path: Path, outside: Path
) -> None:
    (sub := folder.folder("sub")).make()
    (path / "sub").rename(path / "moved")
    (path / "sub").symlink_to(outside)
    sub.file(NAME).write(NEW)
    assert (path / "moved" / NAME).read_bytes() == NEW
    with pytest.raises(OSError, match="it is a link"):
        folder.folder("sub").make()


def test_a_folder_that_is_renamed_while_a_file_is_written(folder: Folder, path: Path) -> None:
    with folder.file(NAME).replacing() as opened:
        path.rename(moved := path.with_name("moved"))
        path.mkdir()
        opened.write(NEW)
    assert list(path.iterdir()) == []
    assert [x.name for x in moved.iterdir()] == [NAME]


def test_a_folder_that_is_removed_is_made_anew(folder: Folder, path: Path) -> None:
    (sub := folder.folder("sub")).make()
    for gone in (path / "sub", path):
        shutil.rmtree(gone)
        assert not sub.exists()
        assert folder.exists() == path.exists()
        assert sub.names() == []
        for call in (*MAKING.values(), *WRITING.values(), File.read):
            with pytest.raises(FileNotFoundError, match=str(path)):
                call(sub.file(NAME))
        assert sub.make()
        assert sub.exists()
        assert not sub.make()
        sub.file(NAME).write(NEW)
        assert (path / "sub" / NAME).read_bytes() == NEW
    assert not folder.make()


def test_a_folder_that_another_made_anew(folder: Folder, path: Path, outside: Path) -> None:
    (sub := folder.folder("sub")).make()
    (path / "sub").rmdir()
    (path / "sub").mkdir()
    assert not sub.exists()
    assert sub.make()
    sub.file(NAME).write(NEW)
    assert (path / "sub" / NAME).read_bytes() == NEW
    for make in (ODD | REGULAR).values():
        shutil.rmtree(path / "sub")
        make(path / "sub", outside)
        before = tree(path)
        with pytest.raises(OSError, match=str(path / "sub")):
            sub.make()
        assert tree(path) == before
        (path / "sub").unlink()
        assert sub.make()


def test_a_run_whose_name_another_has_taken(folder: Folder, path: Path) -> None:
    assert folder.exists()
    shutil.rmtree(path)
    path.mkdir()
    (path / NAME).write_bytes(OLD)
    assert not folder.exists()
    assert folder.make()
    folder.file(NAME).write(NEW)
    assert (path / NAME).read_bytes() == OLD
    assert folder.path == path.with_name("run-2")
    assert (folder.path / NAME).read_bytes() == NEW


def refuses_to_write(folder: Folder, message: str) -> None:
    """Check that a folder with a file and a folder in it can be read and not written to."""
    before = tree(folder.path)
    assert folder.file(NAME).read() == OLD
    assert folder.names() == [NAME, "sub"]
    calls: list[Callable[[], object]] = [
        lambda: folder.file(NAME).write(NEW),
        lambda: folder.file("new").create(),
        lambda: folder.file("new").write(NEW, new=True),
        lambda: folder.file("new").appending(),
        lambda: folder.file(NAME).move(folder.file("new")),
        folder.file(NAME).remove,
        folder.folder("new").make,
        folder.folder("sub").remove,
    ]
    for call in calls:
        with pytest.raises(OSError, match=f"{message}: '{folder}"):
            call()
    assert tree(folder.path) == before


def test_a_folder_that_cannot_be_written_to(folder: Folder, path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root can write everywhere")
    folder.file(NAME).write(OLD)
    folder.folder("sub").make()
    path.chmod(0o500)
    try:
        refuses_to_write(folder, "Permission denied")
    finally:
        path.chmod(0o700)


def test_a_disk_that_cannot_be_written_to(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "100k") as disk:
        (folder := Folder(disk / "run")).make()
        folder.file(NAME).write(OLD)
        folder.folder("sub").make()
        del folder
        remount = ["mount", "-o", "remount,ro", str(disk)]
        subprocess.run(remount, check=True)
        refuses_to_write(Folder(disk / "run"), "Read-only file system")


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_files_and_folders_are_closed(
    folder: Folder, path: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that are refused, too."""
    monkeypatch.setattr(os, "fsync", lambda _: None)  # which takes long
    for name, make in (ODD | FOLDERS).items():
        make(path / name, outside)
    (path / "with a second name").hardlink_to(outside / "canary")
    assert folder.exists()

    def use(number: int) -> None:
        (sub := Folder(path).folder("sub")).make()
        file = sub.file(NAME)
        file.write(NEW)
        file.appending().close()
        assert (file.size(), file.read(), file.exists()) == (len(NEW), NEW, True)
        opened(file)
        with contextlib.suppress(OSError):
            file.read(1)
        with contextlib.suppress(FileExistsError):
            file.create()
        other = folder.file([*ODD, *FOLDERS][number % len(ODD | FOLDERS)])
        for call in (File.read, File.size, File.appending):
            with contextlib.suppress(OSError):
                call(other)
        with contextlib.suppress(OSError):
            folder.folder(other.name).names()
        if number % 100 == 0:
            shutil.rmtree(path / "sub")
            assert sub.make()

    before = descriptors()
    for number in range(2_000):
        use(number)
    assert descriptors() == before
