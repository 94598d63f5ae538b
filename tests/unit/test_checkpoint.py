"""Checkpoints on disk: what is written, and what becomes of one that is not whole."""

import contextlib
import errno
import os
import shutil
from collections.abc import Generator
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from tests import checkpoints
from tests.checkpoints import DAMAGE, FORGERIES, Corpus, Damage, make, read, write
from tests.disks import mounted

from noisydqn.checkpoint import format as form
from noisydqn.checkpoint import writer as writing
from noisydqn.checkpoint.reader import newest_whole, read_manifest
from noisydqn.errors import UserError
from noisydqn.folders import File, Folder

FUZZ = settings(max_examples=150, deadline=None)


def names(folder: Path, pattern: str) -> list[str]:
    return sorted(path.name for path in folder.glob(pattern))


@pytest.mark.parametrize("written", [0, 1, 5, 7, 24, 31, 1000])
def test_a_checkpoint_is_read_as_it_was_written(written: int, tmp_path: Path) -> None:
    write(tmp_path, written)
    assert read(tmp_path, pytest.fail) == written


def test_only_blocks_that_changed_are_written(tmp_path: Path) -> None:
    """Blocks have 5 slots of 24: steps 12 and 13 are in block 2, 24 to 26 in block 0."""
    write(tmp_path, 12, keep=9)
    assert names(tmp_path, "rows-*") == [f"rows-00000001-{i:06d}.bin" for i in range(3)]
    write(folder := tmp_path / "more", 12, 14, 24, 27, keep=9)
    by_number = [names(folder, f"rows-{n:08d}-*") for n in (2, 3, 4)]
    assert [[int(name[-10:-4]) for name in group] for group in by_number] == [[2], [2, 3, 4], [0]]
    assert read(folder, pytest.fail) == 27


def test_the_requested_number_of_checkpoints_is_kept(tmp_path: Path) -> None:
    """With the files that belong to them, and none else."""
    (tmp_path / "rows-00000001-000000.bin.part").write_bytes(b"left behind by a kill")
    (tmp_path / "state-00000007.bin").write_bytes(b"left behind, too")
    write(tmp_path, 12, 14, 24, 27, 29, keep=2)
    manifests = [
        read_manifest(File.at(tmp_path / name)) for name in names(tmp_path, "checkpoint-*")
    ]
    assert [manifest.run["steps"] for manifest in manifests] == [27, 29]
    assert [manifest.number for manifest in manifests] == [11, 12]  # 7 was taken
    wanted = {file.name for manifest in manifests for file in manifest.files}
    assert set(names(tmp_path, "*.bin*")) == wanted


def test_a_save_that_is_interrupted_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second Ctrl-C may come while the rows are copied."""
    writer = write(tmp_path, 9)
    before = names(tmp_path, "*")
    warnings: list[str] = []
    writer.warn = warnings.append

    def interrupted(*args: Any) -> None:
        del args
        raise KeyboardInterrupt

    monkeypatch.setattr(writing.ring, "cut", interrupted)
    with pytest.raises(KeyboardInterrupt):
        writer.save(make(31), {"steps": 31})
    writer.wait()
    assert names(tmp_path, "*") == before
    assert "it was interrupted; training continues" in warnings[0]
    assert read(tmp_path, pytest.fail) == 9


# Damage


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """Two checkpoints, after 9 steps and after 31."""
    write(tmp_path / "two", 9, 31)
    return tmp_path / "two"


def files_of_the_newest(folder: Path) -> list[Path]:
    newest = folder / names(folder, "checkpoint-*")[-1]
    return [newest, *(folder / file.name for file in read_manifest(File.at(newest)).files)]


@pytest.mark.parametrize("how", ["flip", "truncate", "remove", "empty", "folder", "link"])
def test_each_file_of_a_checkpoint_damaged(how: str, two: Path) -> None:
    """It is named and the one before is used, unless the file belongs to both."""
    # Without its manifest it is none.
    for path in files_of_the_newest(two)[1 if how == "remove" else 0 :]:
        data = path.read_bytes()
        path.unlink()
        if how == "flip":
            path.write_bytes(
                data[: len(data) // 2]
                + bytes([data[len(data) // 2] ^ 4])
                + data[len(data) // 2 + 1 :]
            )
        elif how == "truncate":
            path.write_bytes(data[:-1])
        elif how == "empty":
            path.write_bytes(b"")
        elif how == "folder":
            path.mkdir()
        elif how == "link":
            (two.parent / "elsewhere").write_bytes(data)
            path.symlink_to(two.parent / "elsewhere")
        warnings: list[str] = []
        assert read(two, warnings.append) == 9
        assert len(warnings) == 1
        assert "checkpoint-00000002.json is damaged and skipped: " in warnings[0]
        assert path.name in warnings[0]
        if path.is_dir():
            path.rmdir()
        path.unlink(missing_ok=True)
        path.write_bytes(data)
    assert read(two, pytest.fail) == 31


def test_a_folder_without_an_intact_checkpoint_is_refused(two: Path) -> None:
    for path in two.glob("state-*"):
        path.write_bytes(b"")
    warnings: list[str] = []
    with pytest.raises(UserError, match="holds no whole checkpoint: copy the folder again"):
        newest_whole(Folder(two), warnings.append)
    assert len(warnings) == 2


def test_a_damaged_checkpoint_is_not_kept_in_place_of_an_intact_one(
    two: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a run is resumed, checkpoints newer than its own do not count."""
    (two / "state-00000002.bin").write_bytes(b"")
    checkpoint = newest_whole(Folder(two), lambda _: None)
    assert checkpoint is not None
    monkeypatch.setattr(writing.ring, "BLOCK_BYTES", 5 * checkpoints.SLOT_BYTES)
    writer = writing.CheckpointWriter(Folder(two), 2, checkpoint.manifest, pytest.fail)
    writer.save(make(33), {"steps": 33})
    writer.wait()
    assert names(two, "checkpoint-*") == ["checkpoint-00000001.json", "checkpoint-00000003.json"]
    assert read(two, pytest.fail) == 33


def test_a_manifest_that_is_too_large(two: Path) -> None:
    """It is not even read."""
    with (two / "checkpoint-00000002.json").open("r+b") as file:
        file.truncate(2**40)
    warnings: list[str] = []
    assert read(two, warnings.append) == 9
    assert "is larger than any manifest" in warnings[0]


def test_a_newer_format_is_refused_by_name(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = read_manifest(File.at(two / "checkpoint-00000002.json"))
    monkeypatch.setattr(form, "VERSION", form.VERSION + 1)
    (two / "checkpoint-00000002.json").write_bytes(form.encode(manifest))
    monkeypatch.undo()
    with pytest.raises(UserError, match="has checkpoint format 3, this version of noisydqn reads"):
        newest_whole(Folder(two), pytest.fail)


@pytest.mark.parametrize("name", ["../two/state-00000001.bin", "/etc/passwd", "lock", "a.bin"])
def test_a_manifest_cannot_name_other_files(name: str, two: Path) -> None:
    manifest = read_manifest(File.at(two / "checkpoint-00000002.json"))
    file = form.File(name, manifest.state.size, manifest.state.sha256)
    forged = form.encode(form.msgspec.structs.replace(manifest, state=file))
    (two / "checkpoint-00000002.json").write_bytes(forged)
    warnings: list[str] = []
    assert read(two, warnings.append) == 9
    assert "which is not a file of a checkpoint" in warnings[0]


def test_what_does_not_fit_is_refused_before_it_is_read(two: Path) -> None:
    checkpoint = newest_whole(Folder(two), pytest.fail)
    assert checkpoint is not None
    huge = jax.ShapeDtypeStruct((2**40,), jnp.float32)  # could not be had
    with pytest.raises(UserError, match=r"state.weights is expected as float32 \[1099511627776\]"):
        checkpoint.read("state", {"weights": huge})
    with pytest.raises(UserError, match=r"state\.other is expected as .*, and is not there"):
        checkpoint.read("state", {"other": jnp.zeros(2)})
    rows = jax.eval_shape(lambda: jax.tree.map(lambda x: jnp.tile(x, 2), checkpoints.ROW))
    with pytest.raises(UserError, match=r"has \d+ bytes, expected"):
        checkpoint.check_rows(rows, 0)
    longer = jax.tree.map(lambda x: jnp.concatenate([x, x]), checkpoints.ROW)
    with pytest.raises(UserError, match="its replay buffer has 24 slots, expected 48"):
        checkpoint.check_rows(longer, 0)


def test_a_folder_copied_while_it_is_written(tmp_path: Path) -> None:
    """At every moment of writing, what is on disk holds a whole checkpoint."""
    folder, copies = tmp_path / "run", list[Path]()
    write(folder, 9)
    rename = os.rename

    def copying(*args: Any, **kwargs: Any) -> None:
        for when in ("before", "after"):
            copies.append(tmp_path / f"copy{len(copies)}")
            shutil.copytree(folder, copies[-1])
            if when == "before":
                rename(*args, **kwargs)

    patch = pytest.MonkeyPatch()
    patch.setattr(os, "rename", copying)
    try:
        write(folder, 31)
    finally:
        patch.undo()
    steps = [read(copy, pytest.fail) for copy in copies]
    assert steps == [9] * (len(copies) - 1) + [31]


# Disks


def test_a_full_disk_costs_no_checkpoint(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the disk is full, training continues, and nothing is lost or left behind."""
    before = {path.name: path.read_bytes() for path in two.iterdir()}
    checkpoint = newest_whole(Folder(two), pytest.fail)
    assert checkpoint is not None
    fsync, count = os.fsync, [0]
    for fails_at in range(1, 4):
        count[0] = 0

        def full(descriptor: int, fails_at: int = fails_at) -> None:
            count[0] += 1
            if count[0] == fails_at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", full)
        warnings: list[str] = []
        writer = writing.CheckpointWriter(Folder(two), 2, checkpoint.manifest, warnings.append)
        writer.save(make(33), {"steps": 33})
        writer.wait()
        monkeypatch.undo()
        assert (
            "No space left on device; training continues, and the previous one is kept"
            in warnings[0]
        )
        assert {path.name: path.read_bytes() for path in two.iterdir()} == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Generator[Path]:
    """A disk of 40 KiB."""
    with mounted(tmp_path / "disk", "40k") as disk:
        yield disk


def test_a_disk_that_is_really_full(small_disk: Path) -> None:
    folder = small_disk / "run"
    writer = write(folder, 9)
    rest = small_disk / "rest"
    with contextlib.suppress(OSError):
        rest.write_bytes(bytes(2**20))  # as much as there is room for
    warnings: list[str] = []
    writer.warn = warnings.append
    writer.save(make(31), {"steps": 31})
    writer.wait()
    assert "No space left on device" in warnings[0]
    assert read(folder, pytest.fail) == 9
    rest.unlink()
    writer.save(make(33), {"steps": 33})
    writer.wait()
    assert read(folder, pytest.fail) == 33


# Fuzzing


@pytest.fixture(scope="module")
def corpus() -> Generator[Corpus]:
    corpus = Corpus()
    yield corpus
    corpus.close()


@FUZZ
@given(number=checkpoints.st.integers(0, 20), damage=DAMAGE)
def test_damaged_files_are_never_loaded(corpus: Corpus, number: int, damage: Damage) -> None:
    corpus.damaged_checkpoint(corpus.files[number % len(corpus.files)], damage)


@FUZZ
@given(forgery=FORGERIES)
def test_forged_manifests_do_no_harm(corpus: Corpus, forgery: tuple[list[str], Any]) -> None:
    corpus.forged_manifest(*forgery)


@FUZZ
@given(damage=DAMAGE)
def test_damaged_weights_are_never_loaded(corpus: Corpus, damage: Damage) -> None:
    corpus.damaged_weights(damage)


def test_the_makers_of_checkpoints_differ() -> None:
    """Else the tests above could not fail."""
    assert not eqx.tree_equal(make(9).rows, make(31).rows)
    assert not eqx.tree_equal(make(31).rows, make(33).rows)
