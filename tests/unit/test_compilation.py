"""Programs, the threads that compile them, and the folder where they are kept."""

import os
import threading
import time
from collections.abc import Generator
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from noisydqn import compilation
from noisydqn.compilation import (
    Background,
    Compiler,
    Program,
    compilation_cache,
    default_cache,
    machine_key,
    program_for,
    wait,
)

VECTOR = jax.ShapeDtypeStruct((3,), jnp.float32)


class GoneError(Exception):
    """Nobody waits any more."""


def double(x: jax.Array) -> jax.Array:
    return 2 * x


def test_a_program_knows_its_result_before_it_is_compiled() -> None:
    program = Program("double", double, lambda: (VECTOR,))
    assert program.shapes.shape == (3,)
    assert not program.ready
    assert program(jnp.arange(3.0)).tolist() == [0, 2, 4]
    assert program.ready


def test_programs_are_the_same_for_the_same_shapes() -> None:
    assert program_for("double", double, VECTOR) is program_for("double", double, jnp.zeros(3))
    assert program_for("double", double, VECTOR) is not program_for("double", double, jnp.zeros(4))


def test_programs_are_compiled_in_other_threads() -> None:
    threads: list[str] = []

    def traced(x: jax.Array) -> jax.Array:
        threads.append(threading.current_thread().name)
        return x

    said: list[list[str]] = []
    programs = [Program(name, traced, lambda: (VECTOR,)) for name in ("one", "other")]
    with Compiler(announce=lambda names: said.append(list(names))) as compiler:
        compiler.wait(*programs)
    assert all(program.ready for program in programs)
    assert set(threads) == {"compiler"}
    assert said[0] == ["one", "other"]
    assert said[-1] == []


def test_whoever_waits_for_a_program_can_leave() -> None:
    release = threading.Event()

    def slow(x: jax.Array) -> jax.Array:
        release.wait(20)
        return x

    def leave() -> None:
        if time.monotonic() > start + 0.2:
            raise GoneError

    start = time.monotonic()
    with pytest.raises(GoneError), Compiler(leave) as compiler:
        compiler.wait(Program("slow", slow, lambda: (VECTOR,)))
    assert time.monotonic() - start < 10
    assert compilation.busy()
    release.set()
    while compilation.busy():  # it would keep its program in the next test's cache
        time.sleep(0.01)


def test_jobs_raise_where_they_are_waited_for_and_threads_end() -> None:
    def fail() -> None:
        raise TimeoutError("the job's own")

    with Background(2, "jobs") as background:
        failing, fine = background.submit(fail), background.submit(lambda: 1)
        assert wait(fine, lambda: None) == 1
        with pytest.raises(TimeoutError, match="own"):
            wait(failing, lambda: None)
    assert background.join(5)


# The cache


@pytest.fixture(autouse=True)
def no_cache_around(monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    """The cache that the tests themselves use is put aside."""
    before = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setattr(compilation, "CACHED_SECONDS", 0.0)
    yield
    jax.config.update("jax_compilation_cache_dir", before)


def refuse(line: str) -> None:
    raise AssertionError(line)


def test_a_compiled_program_is_kept_and_found_again(tmp_path: Path) -> None:
    """By whoever compiles the same, in a folder of this version on this kind of processor."""
    folder = tmp_path / machine_key()
    with compilation_cache(tmp_path, refuse) as used:
        assert used == folder
        Program("new", lambda x: 2 * x, lambda: (VECTOR,)).compile()
    (kept,) = folder.glob("*-cache")
    used_at = kept.with_name(f"{kept.name.removesuffix('-cache')}-atime")
    before = int.from_bytes(used_at.read_bytes(), "little")
    with compilation_cache(tmp_path, refuse):
        Program("new", lambda x: 2 * x, lambda: (VECTOR,)).compile()
    assert list(folder.glob("*-cache")) == [kept]
    assert int.from_bytes(used_at.read_bytes(), "little") > before


def test_the_settings_of_jax_are_put_back(tmp_path: Path) -> None:
    with compilation_cache(tmp_path, refuse):
        assert jax.config.values["jax_compilation_cache_dir"] is not None
    assert jax.config.values["jax_compilation_cache_dir"] is None


def test_a_cache_of_the_program_around_is_left_alone(tmp_path: Path) -> None:
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "theirs"))
    with compilation_cache(tmp_path / "ours", refuse) as folder:
        assert folder is None
        assert jax.config.values["jax_compilation_cache_dir"] == str(tmp_path / "theirs")
    assert not (tmp_path / "ours").exists()


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NOISYDQN_CACHE", str(tmp_path))
    assert default_cache() == tmp_path
    monkeypatch.setenv("NOISYDQN_CACHE", "")
    assert default_cache() is None
    with compilation_cache(None, refuse) as folder:
        assert folder is None
    monkeypatch.delenv("NOISYDQN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = default_cache()
    assert found is not None
    assert found.name == "noisydqn"


def test_an_empty_text_means_no_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NOISYDQN_CACHE", str(tmp_path))
    with compilation_cache("", refuse) as folder:
        assert folder is None


def test_a_folder_that_others_may_write_to_is_not_used(tmp_path: Path) -> None:
    """What they put there would be run."""
    lines: list[str] = []
    tmp_path.chmod(0o777)
    with compilation_cache(tmp_path, lines.append) as folder:
        assert folder is None
    assert len(lines) == 1
    assert "others may write to it" in lines[0]


def test_a_folder_that_cannot_be_made_is_not_used(tmp_path: Path) -> None:
    lines: list[str] = []
    (tmp_path / "file").touch()
    with compilation_cache(tmp_path / "file", lines.append) as folder:
        assert folder is None
    assert len(lines) == 1
    assert "\n" not in lines[0]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    """An entry without its time may be cut short, and JAX would never replace it."""
    own = tmp_path / machine_key()
    own.mkdir(parents=True, mode=0o700)
    (own / "jit_f-0-cache").write_bytes(b"cut sho")
    (own / "jit_g-1-cache").write_bytes(b"whole")
    (own / "jit_g-1-atime").write_bytes(bytes(8))
    with compilation_cache(tmp_path, refuse):
        pass
    assert [path.name for path in own.glob("*-cache")] == ["jit_g-1-cache"]


def test_caches_that_nobody_used_for_long_are_removed(tmp_path: Path) -> None:
    old, new, other = tmp_path / "0123456789abcdef", tmp_path / "fedcba9876543210", tmp_path / "my"
    for folder in (old, new, other):
        folder.mkdir()
    long_ago = time.time() - 40 * 86_400
    for folder in (old, other):
        os.utime(folder, (long_ago, long_ago))
    with compilation_cache(tmp_path, refuse):
        pass
    assert not old.exists()
    assert new.exists()
    assert other.exists()
