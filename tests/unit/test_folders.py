"""Whatever has the name of a folder, nothing is reached through what is none."""

import contextlib
import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.disks import mounted
from tests.folders import (
    FOLDERS,
    LINKS,
    MAKING,
    NAME,
    NEW,
    ODD,
    OLD,
    READING,
    REGULAR,
    WRITING,
    Make,
    each,
    opened,
    tree,
)

from noisydqn.folders import File, Folder

pytestmark = pytest.mark.usefixtures("outside")


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
