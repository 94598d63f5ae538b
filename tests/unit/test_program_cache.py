"""Compiled programs on disk: found again, and only where they fit."""

import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import pytest
from tests.probes import SMALL, CountingEnv
from tests.programs import use

import noisydqn
from noisydqn import PRESETS, compilation, program_cache
from noisydqn.compilation import Program
from noisydqn.envs.catcher import CatcherPixels
from noisydqn.envs.device import DeviceEnvironment
from noisydqn.envs.registry import make_environment
from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.play.evaluate import evaluate
from noisydqn.program_cache import machine_key
from noisydqn.runners import device, host_programs
from noisydqn.runners.build import make_policy
from noisydqn.runners.core import program_key

pytestmark = pytest.mark.slow

R = TypeVar("R")

VECTOR = jax.ShapeDtypeStruct((3,), jnp.float32)


@pytest.fixture(autouse=True)
def keep_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be a program made as fast as it may."""
    monkeypatch.setattr(compilation, "CACHED_SECONDS", 0.0)


def kept(folder: Path) -> list[Path]:
    compilation.join_threads()  # they write
    return sorted((folder / machine_key()).glob("*.program"))


class Counted:
    """Programs that count how often they are traced."""

    def __init__(self) -> None:
        self.traced = 0

    def program(self, key: str | None = None, **options: Any) -> Program[jax.Array]:
        def double(x: jax.Array) -> jax.Array:  # a new one, as JAX remembers what it has traced
            self.traced += 1
            return 2 * x

        return Program("double", double, lambda: (VECTOR,), key=key, **options)

    def kept(self, key: str | None = None) -> Program[jax.Array]:
        program = self.program(key)
        program.compile()
        program.save()
        return program


def test_a_program_with_a_key_is_not_traced_again(tmp_path: Path) -> None:
    function = Counted()
    with use(tmp_path):
        assert function.kept("a")(jnp.arange(3.0)).tolist() == [0, 2, 4]
        (path,) = kept(tmp_path)
        os.utime(path, (1, 1))
        again = function.program("a")
        assert again.shapes.shape == (3,)
        assert again(jnp.arange(3.0)).tolist() == [0, 2, 4]
        assert function.traced == 1
        assert kept(tmp_path) == [path]
        assert path.stat().st_mtime > 1  # used now
        function.kept("b")
    assert function.traced == 2
    assert len(kept(tmp_path)) == 2


def test_a_program_without_a_key_is_found_by_its_text(tmp_path: Path) -> None:
    function = Counted()
    with use(tmp_path):
        function.kept()
        (path,) = kept(tmp_path)
        before = path.read_bytes()
        again = function.program()
        assert again(jnp.arange(3.0)).tolist() == [0, 2, 4]
        assert (function.traced, path.read_bytes()) == (2, before)
        Program("double", lambda x: 3 * x, lambda: (VECTOR,))(jnp.arange(3.0))
    assert len(kept(tmp_path)) == 2


def test_settings_of_jax_tell_programs_apart(tmp_path: Path) -> None:
    function, before = Counted(), jax.config.values["jax_default_matmul_precision"]
    with use(tmp_path):
        function.kept("a")
        compilation.join_threads()
        jax.config.update("jax_default_matmul_precision", "highest")
        try:
            function.kept("a")
        finally:
            jax.config.update("jax_default_matmul_precision", before)
    assert function.traced == 2


def test_code_tells_programs_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    function = Counted()
    with use(tmp_path):
        function.kept("a")
        compilation.join_threads()
        monkeypatch.setattr(program_cache, "ORIGIN", "changed")
        function.kept("a")
    assert function.traced == 2


def test_a_program_that_is_found_takes_memory_that_is_given_up(tmp_path: Path) -> None:
    with use(tmp_path):
        for _ in range(2):
            given = jnp.arange(3.0)
            program = Counted().program("a", donate=(0,))
            assert program(given).tolist() == [0, 2, 4]
            assert given.is_deleted()
            assert len(kept(tmp_path)) == 1


@pytest.mark.parametrize("cut", [0, 10, -1])
def test_a_damaged_program_is_compiled_again(tmp_path: Path, cut: int) -> None:
    function = Counted()
    with use(tmp_path):
        function.kept("a")
        (path,) = kept(tmp_path)
        whole = path.read_bytes()
        path.write_bytes(whole[:cut])
        assert function.program("a")(jnp.arange(3.0)).tolist() == [0, 2, 4]
        assert function.traced == 2
        assert kept(tmp_path) == [path]
        assert path.stat().st_size > 1_000


def test_a_disk_that_is_full_harms_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("No space left on device")

    with use(tmp_path):
        monkeypatch.setattr(program_cache.tempfile, "mkstemp", full)
        assert Counted().program("a")(jnp.arange(3.0)).tolist() == [0, 2, 4]
        compilation.join_threads()
    assert kept(tmp_path) == []


def test_the_programs_used_last_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with use(tmp_path):
        for i in range(3):
            Counted().kept(str(i))
        paths = kept(tmp_path)
        for age, path in enumerate(paths):
            os.utime(path, (1_000_000 - age, 1_000_000 - age))
        most = sum(path.stat().st_size for path in paths)
        monkeypatch.setattr(program_cache, "CACHE_BYTES", int(0.9 * most))
        Counted().kept("new")
        compilation.join_threads()
    left = kept(tmp_path)
    assert len(left) == 2
    assert paths[0] in left
    assert not set(paths[1:]) & set(left)


def test_threads_may_keep_the_same_program(tmp_path: Path) -> None:
    with use(tmp_path):
        threads = [
            threading.Thread(target=Counted().kept, args=["a"], daemon=True) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(kept(tmp_path)) == 1
        function = Counted()
        assert function.program("a")(jnp.arange(3.0)).tolist() == [0, 2, 4]
    assert function.traced == 0
    assert [path.suffix for path in (tmp_path / machine_key()).iterdir()] == [".program"]


def test_code_that_cannot_be_read_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program_cache, "ORIGIN", None)
    with use(tmp_path):
        assert Counted().program("a")(jnp.arange(3.0)).tolist() == [0, 2, 4]
        assert kept(tmp_path) == []


@pytest.mark.parametrize("runs", ["always", "often", "seldom", "once"])
def test_xla_knows_the_options(runs: compilation.Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the tests themselves are in `XLA_FLAGS`, which is left alone."""
    assert compilation.compile_options(runs) == {}
    monkeypatch.delenv("XLA_FLAGS")
    options = compilation.compile_options(runs)
    assert options
    jax.jit(lambda x: 2 * x).lower(VECTOR).compile(options)
    assert Counted().program(runs=runs)(jnp.arange(3.0)).tolist() == [0, 2, 4]


def test_options_that_xla_does_not_know_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "compile_options", lambda _: {"xla_of_the_future": True})
    assert Counted().program()(jnp.arange(3.0)).tolist() == [0, 2, 4]


def test_a_machine_with_several_devices(tmp_path: Path) -> None:
    code = """
        import jax, jax.numpy as jnp
        from noisydqn import compilation
        from noisydqn.compilation import Program
        compilation.CACHED_SECONDS = 0
        assert len(jax.devices()) == 2
        shape = jax.ShapeDtypeStruct((3,), jnp.float32)
        print(Program("double", lambda x: 2 * x, lambda: (shape,), key="a")(jnp.arange(3.0)))
    """
    flags = "--xla_force_host_platform_device_count=2"
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)],
            env={**os.environ, "XLA_FLAGS": flags, "NOISYDQN_CACHE": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.stdout, done.returncode) == ("[0. 2. 4.]\n", 0), done.stderr
        assert len(kept(tmp_path)) == 1


class Pair(NamedTuple):
    """Two numbers."""

    one: jax.Array
    other: jax.Array


class Twin(NamedTuple):
    """The same, but of another kind."""

    one: jax.Array
    other: jax.Array


def test_the_same_text_with_other_trees_is_another_program(tmp_path: Path) -> None:
    numbers = jnp.float32(1), jnp.float32(2)

    def program(kind: Any) -> Program[jax.Array]:
        return Program("first", lambda pair: pair.one, lambda: (kind(*numbers),))

    with use(tmp_path):
        for kind in (Pair, Twin, Pair, Twin):
            assert float(program(kind)(kind(*numbers))) == 1
    assert len(kept(tmp_path)) == 2


def test_the_same_text_of_other_arguments_is_another_program(tmp_path: Path) -> None:
    numbers = jnp.float32(1), jnp.float32(2)

    def program(place: int) -> Program[jax.Array]:
        return Program("first", lambda *pair: pair[place], lambda: numbers)

    with use(tmp_path):
        for place in (0, 1, 0, 1):
            assert float(program(place)(*numbers)) == place + 1
    assert len(kept(tmp_path)) == 2


# Programs of runs


@pytest.mark.parametrize(
    "options",
    [
        {"torso": "flat", "acting_noise": "episode", "normalize_rewards": True},
        {"torso": "nature", "distribution": "categorical", "v_min": -1.0, "v_max": 1.0},
        {"torso": "impala", "distribution": "quantile", "layer_norm": True},
        {"torso": "btr", "torso_layer_norm": True, "optimizer": "radam"},
        {"torso": "hadamax"},
        {"torso": "catcher", "distribution": "implicit-quantile", "dueling_hidden": (4,)},
    ],
    ids=str,
)
def test_the_trees_of_a_run_are_the_same_again(options: dict[str, Any]) -> None:
    """Whatever is static in a module is part of the structure, which must compare as equal."""
    config = SMALL.replace(frame_stack=4, num_envs=2, **options).program
    seen = jax.ShapeDtypeStruct((42, 42), jnp.uint8)
    spec = EnvironmentSpec(seen, 3, ("left", "right", "stay"))
    shapes = host_programs.programs(config, spec).init.shapes
    program_cache._pickled(shapes)  # pyright: ignore[reportPrivateUsage]


class Untraced(Program[R]):
    """A program that must be in the cache."""

    def _trace(self) -> Any:
        raise AssertionError(f"{self.name} was not kept")


def test_a_run_with_programs_from_the_cache_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(env: str) -> bytes:
        device.programs.cache_clear()
        host_programs.programs.cache_clear()
        options: dict[str, Any] = {"num_envs": 2, "hidden": (8,), "learning_starts": 8, "steps": 32}
        options |= {"torso": "flat", "evaluation_every": 0, "evaluation_episodes": 1}
        options |= {"video_seconds": 0, "evaluation_max_steps": 20, "batch_size": 4}
        config = PRESETS["default"].replace(env=env, replay_capacity=64, **options)
        result = noisydqn.train(config, out=tmp_path / str(time.time()), quiet=True, cache=cache)
        return (result.folder / "final.safetensors").read_bytes()

    cache = tmp_path / "cache"
    for env in ("noisydqn/Catcher-v0", "CartPole-v1"):
        first = train(env)
        number = len(kept(cache))
        assert number > 2
        with monkeypatch.context() as patch:
            patch.setattr(host_programs, "Program", Untraced)
            patch.setattr(device, "Program", Untraced)
            assert train(env) == first
        assert len(kept(cache)) == number


@pytest.mark.parametrize("word", ["", "none"])
def test_the_cache_is_turned_off(
    word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NOISYDQN_CACHE", word)
    assert program_cache.current_cache() is None
    for folder in (None, word):
        with program_cache.program_cache(folder, pytest.fail) as cache:
            assert cache is None
    assert not list(tmp_path.iterdir())


def test_what_is_not_this_packages_code_has_no_key() -> None:
    config = PRESETS["catcher"]
    whole, limited = (
        make_environment(config.replace(max_episode_steps=limit).environment).by_kind(
            device=lambda env: env.cache_key, host=lambda _: None
        )
        for limit in (None, 5)
    )
    assert len({whole, limited, None}) == 3
    assert DeviceEnvironment.create(CountingEnv()).cache_key is None
    assert DeviceEnvironment.create(CountingEnv(), max_episode_steps=5).cache_key is None
    assert program_key(SMALL.program, "catcher") is not None
    assert program_key(SMALL.program, "catcher") != program_key(
        SMALL.replace(hidden=(9,)).program, "catcher"
    )
    assert program_key(SMALL.replace(torso="python:my_torsos.make").program, "catcher") is None


def test_policies_of_all_kinds_are_evaluated_with_the_cache(tmp_path: Path) -> None:
    """With mean weights their programs may have the same text."""
    env = DeviceEnvironment.create(CatcherPixels())
    with use(tmp_path):
        for options in (
            {},
            {"loss": "squared"},
            {"noise": "independent"},
            {"exploration": "greedy"},
        ):
            config = SMALL.replace(torso="flat", hidden=(4,), **options)
            policy = make_policy(config.program, env.spec, jax.random.key(0))
            evaluation = evaluate(env, policy, episodes=1, key=jax.random.key(1), max_steps=3)
            assert evaluation.truncated == 1
