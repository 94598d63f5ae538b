"""Environments of Gymnasium that fail or do not fit: each is refused or named in one line."""

import itertools
import re
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import SyncVectorEnv
from tests.host_envs import (
    BrokenEnv,
    CountingHostEnv,
    CountingVectorEnv,
    Drawing,
    Giving,
    Panic,
    Raising,
    ShowingEnv,
)
from tests.hosts import SMALL, make
from tests.probes import run_host

from noisydqn.envs.backends import NativeBackend
from noisydqn.envs.vectors import HostVector
from noisydqn.errors import EnvironmentFailedError, UserError
from noisydqn.play.evaluate import evaluate
from noisydqn.runners.build import make_policy

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("raise", "it raised RuntimeError: the motor is 100% broken"),
        ("nan", r"observation\[1\] is nan"),
        ("shape", r"observation is float64 \[2\], expected finite float32 \[4\]"),
        ("reward", "reward is nan"),
    ],
)
def test_a_broken_environment_is_named(how: str, message: str) -> None:
    env = make(partial(BrokenEnv, how), vectorization="subprocess" if how == "raise" else "sync")
    run = run_host(SMALL.replace(chunk_steps=10, num_envs=1), env, jax.random.key(0))
    where = "the environment failed at step 2 of episode 3 of environment 0: "
    chunks: list[int] = []
    with pytest.raises(EnvironmentFailedError, match=f"^{where}{message}") as failure:
        chunks.extend(chunk.steps for chunk in run)
    # Three episodes of 3, 5 and 3 steps, as many resets, and one step before the one that broke.
    assert chunks == [10, 15]
    assert ("RuntimeError" in failure.value.traceback) == (how == "raise")
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize("vectorization", ["sync", "subprocess"])
def test_an_environment_that_breaks_in_its_first_reset_is_named(vectorization: str) -> None:
    env = make(partial(BrokenEnv, "reset"), vectorization=vectorization)
    with pytest.raises(EnvironmentFailedError, match=r"step 0 of episode 0 .* 100% empty"):
        next(run_host(SMALL, env, jax.random.key(0)))


def test_dictionaries_are_checked_key_by_key() -> None:
    class Wrong(ShowingEnv):
        def step(self, action: Any) -> Any:
            observation, *rest = super().step(action)
            return {**observation, "speed": np.array([np.inf, 0.0])}, *rest

    space = spaces.Dict({"speed": spaces.Box(-1, 1, (2,)), "gear": spaces.Discrete(3)})
    vector = make(lambda: Wrong(space)).vector(1)
    vector.reset(0)
    with pytest.raises(EnvironmentFailedError, match=r"observation\['speed'\]\[0\] is inf"):
        vector.step(np.array([0]))


def test_a_vector_environment_that_hides_final_observations_is_refused() -> None:
    with pytest.raises(UserError, match="expected NEXT_STEP"):
        make(
            "noisydqn-tests/CountingVector-v0",
            vectorization="own",
            env_kwargs='{"autoreset_mode": "SameStep"}',
        )


@pytest.mark.parametrize(
    ("entry", "options", "message"),
    [
        ("CartPole-v9", {}, "no environment 'CartPole-v9': did you mean CartPole-v1"),
        ("CartPole-v1", {"env_kwargs": '{"speed": 3}'}, "cannot be made: .*speed"),
        ("no_such_module:Env-v0", {}, "names a module that cannot be imported"),
        (CountingHostEnv, {"vectorization": "own"}, "own needs an environment that is given by"),
        ("noisydqn-tests/Counting-v0", {"vectorization": "own"}, "vector entry point"),
    ],
)
def test_environments_that_cannot_be_made(entry: Any, options: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(entry, **options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import no_such_dependency", "needs the module no_such_dependency, which cannot be found"),
        ("import json.no_such", "needs the module json.no_such, which cannot be found"),
        ("from json import no_such", "importing its module broken_module raised ImportError: "),
        ("def (", "importing its module broken_module raised SyntaxError: .*; correct the module"),
        ("1 / 0", "importing its module broken_module raised ZeroDivisionError: division by zero"),
    ],
)
def test_modules_that_cannot_be_imported(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that register an id, and those that define it."""
    (tmp_path / "broken_module.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    elsewhere = EnvSpec("noisydqn-tests/Elsewhere-v0", "broken_module:Env")
    monkeypatch.setitem(gymnasium.registry, elsewhere.id, elsewhere)
    with pytest.raises(UserError, match=message):
        make("broken_module:Some-v0")
    of_gymnasium = "needs" in message or "ImportError" in message
    with pytest.raises(UserError, match="made: (No module|cannot)" if of_gymnasium else message):
        make(elsewhere.id)


@pytest.mark.parametrize(
    ("entry", "extra"), [("ALE/Pong-v5", "atari"), ("MinAtar/Breakout-v1", "minatar")]
)
def test_missing_packages_are_named(
    monkeypatch: pytest.MonkeyPatch, entry: str, extra: str
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UserError, match=rf"pip install 'noisydqn\[{extra}\]'"):
        make(entry)


def test_missing_box2d_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_box2d(*_: Any, **__: Any) -> None:
        raise gymnasium.error.DependencyNotInstalled(
            'run `pip install swig` followed by `pip install "gymnasium[box2d]"`'
        )

    monkeypatch.setattr("gymnasium.make", no_box2d)
    with pytest.raises(UserError, match=r"pip install 'noisydqn\[box2d\]'"):
        make("LunarLander-v3")


def test_a_missing_package_of_a_named_environment_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """CartPole needs pygame only to render; the notice comes before training."""
    monkeypatch.setitem(sys.modules, "pygame", None)
    env = make("CartPole-v1")
    problem = "needs a package that is not installed: pip install 'noisydqn[classic-control]'"
    assert env.video_problem == f"to draw pictures, CartPole-v1 {problem}"


def test_a_vector_of_its_own_is_why_there_is_no_video() -> None:
    problem = make("CartPole-v1", vectorization="own").video_problem or ""
    assert problem.startswith("--vectorization own draws no pictures")
    assert make("CartPole-v1", vectorization="sync").video_problem is None


def play_a_step(maker: Any, **options: Any) -> None:
    vector = make(maker, **options).vector(1)
    vector.reset(0)
    vector.step(np.array([0]))


@pytest.mark.parametrize("where", ["constructor", "reset", "step"])
@pytest.mark.parametrize("error", [SystemExit(3), Panic("out of fuel"), RuntimeError("off\nroad")])
def test_whatever_an_environment_raises_is_one_line(where: str, error: BaseException) -> None:
    with pytest.raises(EnvironmentFailedError) as failure:
        play_a_step(lambda: Raising(where, error))
    assert f"raised {type(error).__name__}: {' '.join(str(error).split())}" in str(failure.value)
    assert "Traceback" in failure.value.traceback


def test_only_the_user_may_interrupt_an_environment() -> None:
    with pytest.raises(KeyboardInterrupt):
        play_a_step(lambda: Raising("step", KeyboardInterrupt()))


def test_closing_never_hides_the_first_error_and_is_told_once() -> None:
    actions = spaces.Tuple([spaces.Discrete(2)])
    with pytest.warns(UserWarning, match=r"close\(\) raised OSError: gone; it was ignored") as told:
        make(lambda: Raising("close", OSError("gone"))).vector(3).close()
    assert len(told) == 1
    with (
        pytest.warns(UserWarning, match="raised OSError: gone"),
        pytest.raises(UserError, match="is Tuple, expected Discrete"),
    ):
        make(lambda: Raising("close", OSError("gone"), actions))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"outcome": (np.zeros(4), 0.0, False, {})}, "step returned 4 values, expected 5: obs"),
        ({"outcome": None}, "step returned 1 value, expected 5"),
        ({"start": np.zeros(4)}, r"reset returned ndarray, expected \(observation, info\)"),
        ({"first": np.full(4, 1e300)}, r"observation\[0\] is 1e\+300, expected finite float32"),
        ({"reward": 1e39}, r"reward is 1e\+39, expected a finite float32"),
        ({"terminated": None}, "terminated is None, expected True or False"),
    ],
)
def test_values_from_an_environment_are_checked(given: dict[str, Any], message: str) -> None:
    with pytest.raises(EnvironmentFailedError, match=f"episode 0 of environment 0: {message}"):
        play_a_step(partial(Giving, **given))


def test_an_old_step_within_a_limit_is_named() -> None:
    old = partial(Giving, outcome=(np.zeros(4), 0.0, False, {}))
    with pytest.raises(EnvironmentFailedError, match="step must return 5 values: observation"):
        play_a_step(old, max_episode_steps=5)


@pytest.mark.parametrize(
    ("shown", "reward", "message"),
    [
        (
            np.array([0, 1e300, 0, 0]),
            0.0,
            r"observation\[1\] is 1e\+300, expected finite float32 \[4\]",
        ),
        (np.zeros(4), 1e39, r"reward is 1e\+39, expected a finite float32"),
        (np.zeros(4), np.nan, "reward is nan, expected a finite float32"),
    ],
)
def test_rewards_and_observations_of_a_native_vector_are_checked(
    shown: np.ndarray, reward: float, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = make("noisydqn-tests/CountingVector-v0", vectorization="own")
    vector = env.vector(2)
    vector.reset(0)
    outcome = np.zeros((2, 4)), np.zeros(2), np.zeros(2, bool), np.zeros(2, bool), {}
    outcome[0][1], outcome[1][1] = shown, reward
    monkeypatch.setattr(CountingVectorEnv, "step", lambda *_: outcome)
    where = "the environment failed at step 1 of environment 1: "
    with pytest.raises(EnvironmentFailedError, match=f"^{where}{message}"):
        vector.step(np.zeros(2, int))


@pytest.mark.parametrize(
    ("space", "shown", "message"),
    [
        (spaces.Discrete(3), 3, "of environment 1: observation is 3, expected an integer from 0"),
        (spaces.Discrete(3), -1, "of environment 1: observation is -1, expected an integer"),
        (spaces.MultiDiscrete([2, 4]), [1, 9], r"1: observation\[1\] is 9, expected integers"),
        (
            spaces.Dict({"gear": spaces.Discrete(3, start=2), "speed": spaces.Box(0, 1, (2,))}),
            {"gear": 1},
            r"of environment 1: observation\['gear'\] is 1, expected an integer from 2 to 4",
        ),
        (spaces.MultiBinary(2), [0, 5], r"1: observation\[1\] is 5, expected zeros and ones"),
        (
            spaces.Dict({"gear": spaces.Discrete(3), "speed": spaces.Box(0, 1, (2,))}),
            {"speed": np.array([0, np.inf], np.float32)},
            r"of environment 1: observation\['speed'\]\[1\] is inf, expected finite float32 \[2\]",
        ),
    ],
)
def test_observations_of_a_native_vector_are_checked_part_by_part(
    space: spaces.Space[Any], shown: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = ShowingEnv(space)
    given = {**space.sample(), **shown} if isinstance(space, spaces.Dict) else np.array(shown)
    backend = NativeBackend(SyncVectorEnv([lambda: ShowingEnv(space), lambda: wrong]))
    vector = HostVector(backend)
    vector.reset(0)
    monkeypatch.setattr(wrong, "_seen", lambda: given)
    with pytest.raises(EnvironmentFailedError, match=f"failed at step 1 .*{message}") as failure:
        vector.step(np.zeros(2, int))
    assert "\n" not in str(failure.value)


class OldEnv:
    __module__ = "gym.old"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (lambda: None, "returned None, expected an instance of gymnasium.Env"),
        (lambda: 3, "returned an instance of int, expected an instance of gymnasium.Env"),
        (lambda: CountingVectorEnv(2), "CountingVectorEnv is a vector of environments, expected"),
        (lambda: SimpleNamespace(step=0), "returned an instance of types.SimpleNamespace"),
        (partial(OldEnv), "gym.old.OldEnv is an environment of gym, expected one of its succ"),
        (lambda: Giving(cast(Any, "left or right")), "observation_space of .* is str, expected"),
    ],
)
def test_what_is_not_an_environment(entry: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(entry)


class Limited(CountingHostEnv):
    """Of this no more than two may exist at once."""

    alive = 0
    made = 0

    def __init__(self) -> None:
        if Limited.alive == 2:
            raise OSError("the port is in use")
        super().__init__()
        Limited.alive += 1
        Limited.made += 1

    def close(self) -> None:
        Limited.alive -= 1


def test_evaluation_accepts_fewer_environments(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    env = make(Limited)
    assert (Limited.alive, Limited.made) == (0, 1)
    notices: list[str] = []
    env.notices.tell(notices.append)
    policy = make_policy(SMALL.program, env.spec, jax.random.key(0))
    for _ in range(2):
        evaluation = evaluate(env, policy, episodes=5, key=jax.random.key(0))
        assert sorted(evaluation.returns) == [6.0, 6.0, 6.0, 15.0, 15.0]
    assert Limited.alive == 0
    assert Limited.made == 1 + 2 * 2
    (notice,) = notices
    assert notice.startswith("evaluating with 2 environments, not 5: ")
    assert "the port is in use" in notice
    with pytest.raises(EnvironmentFailedError, match="the port is in use"):
        env.vector(3)
    assert Limited.alive == 0
    monkeypatch.setattr(Limited, "alive", 1)
    env.vector(2, fewer=True).close()
    assert notices[-1].startswith("evaluating with 1 environment, not 2: ")


def test_environments_that_differ_are_refused() -> None:
    sizes = itertools.count(1)
    env = make(lambda: ShowingEnv(spaces.Box(0, 1, (next(sizes),))))
    with pytest.raises(UserError, match="two environments that were made alike have the obs"):
        env.vector(2)


# Pictures


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        ([None], "the environment rendered no picture at step 0: render returned NoneType"),
        ([np.zeros((0, 4, 3), np.uint8)], r"render returned shape \[0, 4, 3\], expected \[height"),
        ([[]], "render returned an empty list"),
        (["text"], "render returned str"),
        ([np.full((4, 4, 3), 999)], "render returned values from 999 to 999, expected 0 to 255"),
    ],
)
def test_what_keeps_a_video_from_being_made(pictures: list[Any], message: str) -> None:
    problem = make(partial(Drawing, pictures)).video_problem
    assert problem is not None
    assert re.search(message, problem)


def test_a_render_that_raises_keeps_a_video_from_being_made() -> None:
    problem = make(lambda: Raising("render", Panic("no screen"))).video_problem
    assert problem is not None
    assert "it raised Panic: no screen" in problem
    assert "draws no pictures" in (make(CountingHostEnv).video_problem or "")
