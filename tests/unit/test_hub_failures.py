"""Fetching a run that ends early leaves nothing, and touches nothing."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.disks import mounted
from tests.hub import NAMES, Hub, make_run, raising, serve, tree

from noisydqn import UserError, hub
from noisydqn.folders import File


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The hub."""
    return serve(tmp_path, monkeypatch)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder."""
    return make_run(tmp_path / "run")


def at_first(error: BaseException) -> Callable[[Path], object]:
    """Raise during the download of the first file."""
    return raising(error)


def at_last(error: BaseException) -> Callable[[Path], object]:
    """Raise during the download of the last file."""

    def meanwhile(place: Path) -> None:
        if place.name == "config.json":
            raise error

    return meanwhile


@pytest.fixture(params=["new", "deep/new", "empty"])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder to pull into."""
    (tmp_path / "empty").mkdir()
    return tmp_path / request.param


@pytest.mark.parametrize("when", [at_first, at_last])
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyboardInterrupt("stop"), "stop"),
        (ConnectionError("reset"), r"the hub refused me/catcher or cannot .*reset\): try again"),
        (TimeoutError(errno.ETIMEDOUT, "too slow"), "the hub refused me/catcher or cannot be rea"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), r"the disk of \S+ is full: free some"),
        (RuntimeError(f"{os.strerror(errno.ENOSPC)} (os error 28)"), r"the disk of \S+ is full"),
        (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), "x"), r"the disk of \S+ is full"),
        (PermissionError(errno.EACCES, "no", "/x"), r"\S+ cannot be written to \(no\): name ano"),
    ],
)
def test_a_download_that_fails_leaves_nothing(
    when: Callable[[BaseException], Callable[[Path], object]],
    error: BaseException,
    said: str,
    stub: Hub,
    run: Path,
    out: Path,
    tmp_path: Path,
) -> None:
    stub.commit("me/catcher", run)
    before = tree(tmp_path)
    stub.meanwhile = when(error)
    with pytest.raises((UserError, KeyboardInterrupt), match=said):
        hub.pull("me/catcher", out)
    assert tree(tmp_path) == before
    stub.meanwhile = lambda _: None
    assert hub.pull("me/catcher", out) == out


@pytest.mark.parametrize("number", range(len(NAMES) + 1))
def test_a_stop_while_files_are_moved_leaves_nothing(
    number: int, stub: Hub, run: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub.commit("me/catcher", run)
    moved: list[str] = []
    move = File.move

    def stopping(self: File, to: File) -> None:
        if len(moved) == number:
            raise KeyboardInterrupt
        move(self, to)
        moved.append(to.name)

    was_there = out.exists()
    monkeypatch.setattr(File, "move", stopping)
    with pytest.raises(KeyboardInterrupt):
        hub.pull("me/catcher", out)
    assert len(moved) == number
    assert "config.json" not in moved  # which would make it a run
    assert (list(out.iterdir()) == []) if was_there else (not out.exists())
    assert not list(out.parent.glob(f"{hub.STAGE}*"))


def test_a_full_disk_is_noticed_before_the_download(
    stub: Hub, run: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub.commit("me/catcher", run)
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match=f"the disk of {out} is full: .* another place with --out"):
        hub.pull("me/catcher", out)
    assert len(stub.asked) == 1


def test_a_full_disk_is_not_the_hubs(stub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(File, "write", raising(OSError(errno.ENOSPC, "full")))
    with pytest.raises(UserError, match=r"the disk of .* is full: .* another place with TMPDIR"):
        hub.push(run, "me/catcher")
    nowhere = FileNotFoundError(errno.ENOENT, "No usable temporary directory found")
    monkeypatch.setattr(hub.tempfile, "TemporaryDirectory", raising(nowhere))
    with pytest.raises(UserError, match=r"temporary files cannot be written to \(No usable"):
        hub.push(run, "me/catcher")
    assert not stub.root.exists()


def test_a_folder_that_cannot_be_written_to(stub: Hub, run: Path, tmp_path: Path) -> None:
    stub.commit("me/catcher", run)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=r"file/new cannot be written to \(Not a directory\): name"):
        hub.pull("me/catcher", tmp_path / "file/new")


def test_a_folder_that_is_filled_meanwhile_is_not_touched(
    stub: Hub, run: Path, out: Path, tmp_path: Path
) -> None:
    stub.commit("me/catcher", run)

    def fill(_: Path) -> None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "theirs").write_text("theirs")

    stub.meanwhile = fill
    with pytest.raises(UserError, match=f"--out {out} was filled by another program meanwhile"):
        hub.pull("me/catcher", out)
    assert [path.name for path in out.iterdir()] == ["theirs"]

    theirs = tmp_path / "file"
    stub.meanwhile = lambda _: theirs.write_text("theirs")
    with pytest.raises(UserError, match=f"--out {theirs} was filled by another program meanwhile"):
        hub.pull("me/catcher", theirs)
    assert theirs.read_text() == "theirs"


def test_a_file_that_appears_last_is_not_overwritten(
    stub: Hub, run: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub.commit("me/catcher", run)
    move = File.move

    def racing(self: File, to: File) -> None:
        (out / "config.json").write_text("theirs")
        move(self, to)

    monkeypatch.setattr(File, "move", racing)
    with pytest.raises(UserError, match="was filled by another program meanwhile"):
        hub.pull("me/catcher", out)
    assert {path.name: path.read_text() for path in out.iterdir()} == {"config.json": "theirs"}


def test_a_run_of_the_same_name_is_not_touched(stub: Hub, run: Path) -> None:
    stub.commit("me/catcher", run)
    theirs = hub.pull("me/catcher")
    names = sorted(theirs.iterdir())
    seen: list[list[Path]] = []
    stub.meanwhile = lambda _: seen.append(sorted(theirs.iterdir()))
    hub.pull("me/catcher")
    assert seen == [names] * len(NAMES)


def test_a_name_that_is_taken_meanwhile_gets_a_number(stub: Hub, run: Path) -> None:
    stub.commit("me/catcher", run)
    stub.meanwhile = lambda _: Path("runs/catcher").mkdir(parents=True, exist_ok=True)
    assert hub.pull("me/catcher") == Path("runs/catcher-2")
    assert list(Path("runs/catcher").iterdir()) == []


def test_files_move_where_there_are_no_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", raising(OSError(errno.EPERM, "no links here")))
    one, two = File.at(tmp_path / "one"), File.at(tmp_path / "two")
    one.write(b"1")
    one.move(two)
    assert (one.taken(), two.read()) == (False, b"1")
    one.write(b"new")
    with pytest.raises(FileExistsError):
        one.move(two)
    assert (one.read(), two.read()) == (b"new", b"1")


def test_a_disk_that_becomes_full(
    stub: Hub, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one that is mounted where the run is to lie."""
    stub.commit("me/catcher", run)
    with mounted(tmp_path / "disk", "1m") as disk:
        assert hub.pull("me/catcher", disk) == disk
    (tmp_path / "disk").rmdir()
    with mounted(tmp_path / "disk", "32k") as disk:
        monkeypatch.setattr(hub.shutil, "disk_usage", lambda _: SimpleNamespace(free=2**30))
        with pytest.raises(UserError, match=f"the disk of {disk} is full: free some space"):
            hub.pull("me/catcher", disk)
        assert list(disk.iterdir()) == []
