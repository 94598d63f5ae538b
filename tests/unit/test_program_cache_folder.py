"""The folder of compiled programs: where it is, and that only the user can put something there."""

import os
import time
from pathlib import Path

import pytest
from tests.programs import use

from noisydqn import program_cache
from noisydqn.program_cache import ProgramCache, current_cache, default_cache, machine_key

pytestmark = pytest.mark.slow


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NOISYDQN_CACHE", str(tmp_path))
    assert default_cache() == tmp_path
    current = current_cache()
    assert current is not None
    assert current.folder == tmp_path / machine_key()
    with use("") as nowhere:
        assert nowhere is None
        assert current_cache() is None
    monkeypatch.setenv("NOISYDQN_CACHE", "")
    assert default_cache() is None
    assert current_cache() is None
    with use(None) as cache:
        assert cache is None
    monkeypatch.delenv("NOISYDQN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = default_cache()
    assert found is not None
    assert found.name == "noisydqn"


def test_a_folder_that_others_may_write_to_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What they put there would be run."""
    lines: list[str] = []
    tmp_path.chmod(0o777)
    with program_cache.program_cache(tmp_path, lines.append) as cache:
        assert cache is None
    assert len(lines) == 1
    assert "others may write to it" in lines[0]
    monkeypatch.setenv("NOISYDQN_CACHE", str(tmp_path))
    assert current_cache() is None


def test_a_folder_that_cannot_be_made_is_not_used(tmp_path: Path) -> None:
    lines: list[str] = []
    (tmp_path / "file").touch()
    with program_cache.program_cache(tmp_path / "file", lines.append) as cache:
        assert cache is None
    assert len(lines) == 1
    assert "\n" not in lines[0]


def test_what_nobody_used_for_long_is_removed(tmp_path: Path) -> None:
    """The caches of other versions, and what killed processes left; nothing of anybody else's."""
    old, new, other = (
        tmp_path / "programs-0",
        tmp_path / "programs-1",
        tmp_path / "fedcba9876543210",
    )
    (tmp_path / "programs-2").symlink_to(tmp_path / "nowhere")
    for folder in (old, new, other, tmp_path / machine_key()):
        folder.mkdir(mode=0o700)
    part, recent = tmp_path / machine_key() / "a.1.part", tmp_path / machine_key() / "b.2.part"
    part.touch()
    recent.touch()
    long_ago = time.time() - 40 * 86_400
    for path in (old, other, part):
        os.utime(path, (long_ago, long_ago))
    ProgramCache(tmp_path)
    assert [path.exists() for path in (old, part)] == [False, False]
    assert [path.exists() for path in (new, other, recent)] == [True, True, True]


def test_every_processor_has_its_own_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    before = machine_key()
    machine_key.cache_clear()
    monkeypatch.setattr(program_cache, "processor_lines", lambda: "another one")
    assert machine_key() != before
    machine_key.cache_clear()
    monkeypatch.undo()
    assert machine_key() == before


def test_a_folder_is_made_for_the_user_alone(tmp_path: Path) -> None:
    before = os.umask(0o002)
    try:
        with use(tmp_path / "a" / "b") as cache:
            assert cache is not None
    finally:
        os.umask(before)


def test_a_folder_that_cannot_be_named_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    with program_cache.program_cache("~nobody-at-all/x", lines.append) as cache:
        assert cache is None
    assert len(lines) == 1
    monkeypatch.setenv("NOISYDQN_CACHE", "~nobody-at-all/x")
    assert current_cache() is None
