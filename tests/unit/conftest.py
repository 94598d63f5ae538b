"""Fixtures of the tests of files and folders, which several modules share."""

from collections.abc import Generator
from pathlib import Path

import pytest
from tests.folders import NAME, THEIRS, tree

from noisydqn.folders import PART, Folder


@pytest.fixture
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
