"""Policies play in the environment's own terms, without the environment."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.toy_text import TaxiEnv
from gymnasium.vector import SyncVectorEnv
from tests.host_envs import ShowingEnv
from tests.runs import create_folders

from noisydqn import Config, UserError, load_policy
from noisydqn.envs.encoding import Encoding
from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.export import export_run
from noisydqn.play.policy import GreedyPolicy
from noisydqn.runners import build
from noisydqn.runs.folder import RunFolder, write_spaces
from noisydqn.runs.weights import save_policy

PLAIN = Config(env="python:nowhere.<lambda>", hidden=(), exploration="greedy", dueling=False)
PARTS = spaces.Dict({"image": spaces.Box(0, 255, (4, 5), np.uint8), "place": spaces.Discrete(3)})
GAMES: dict[str, Any] = {
    "FrozenLake": lambda: gymnasium.make("FrozenLake-v1"),
    "Taxi": TaxiEnv,
    "CliffWalking": lambda: gymnasium.make("CliffWalking-v1"),
    "Blackjack": lambda: gymnasium.make("Blackjack-v1"),
    "Dict": lambda: ShowingEnv(PARTS),
    "MultiDiscrete": lambda: ShowingEnv(spaces.MultiDiscrete([2, 3])),
    "Box, actions from 5 on": lambda: ShowingEnv(spaces.Box(-1, 1, (2,))),
}


def spec_of(env: gymnasium.Env[Any, Any]) -> EnvironmentSpec:
    return EnvironmentSpec.of(Encoding.of(env.observation_space, env.action_space))


def fresh(spec: EnvironmentSpec, config: Config = PLAIN) -> build.Policy:
    """A policy that was not trained, made as fast as it can be."""
    like = jax.eval_shape(lambda: build.make_policy(config.program, spec, jax.random.key(0)))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype), like)


@pytest.mark.parametrize("make", GAMES.values(), ids=GAMES)
def test_plays_as_stable_baselines3_does(make: Any) -> None:
    env = make()
    policy = GreedyPolicy(fresh(spec_of(env)), spec_of(env))
    observation, _ = env.reset(seed=0)
    for _ in range(5):
        action, state = policy.predict(observation, deterministic=True)
        assert state is None
        assert env.action_space.contains(action)
        assert {action: 1}[int(action)] == 1  # a key of dictionaries
        assert list(range(action + 1))[action] == action
        observation, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            observation, _ = env.reset()
    env.close()


@pytest.mark.parametrize("name", ["Taxi", "Blackjack", "Dict"])
def test_plays_in_a_vector_environment(name: str) -> None:
    vector = SyncVectorEnv([GAMES[name]] * 3)
    spec = spec_of(vector.envs[0])
    policy = GreedyPolicy(fresh(spec), spec)
    observation, _ = vector.reset(seed=0)
    actions, _ = policy.predict(observation)
    assert actions.shape == (3,)
    assert actions.dtype == np.int64
    assert vector.action_space.contains(actions)
    alone = [
        policy(x) for x in gymnasium.vector.utils.iterate(vector.observation_space, observation)
    ]
    assert actions.tolist() == alone
    vector.step(actions)
    vector.close()


def test_actions_are_not_counted_from_zero_where_the_environment_does_not() -> None:
    env = GAMES["Box, actions from 5 on"]()
    policy = GreedyPolicy(fresh(spec_of(env)), spec_of(env))
    seen = np.random.default_rng(0).normal(size=(20, 2))
    actions, _ = policy.predict(seen)
    np.testing.assert_array_equal(actions, policy.values(seen).argmax(-1) + 5)
    assert set(actions) <= {5, 6, 7}


def test_frames_of_parts_are_kept_in_the_state() -> None:
    env = GAMES["Dict"]()
    spec, config = spec_of(env), PLAIN.replace(frame_stack=2)
    policy = GreedyPolicy(fresh(spec, config), spec)
    first, second = env.reset()[0], env.step(5)[0]
    _, state = policy.predict(first)
    _, state = policy.predict(second, state)
    expected = np.concatenate([spec.encoding.read(x)[0] for x in (first, second)])[None]
    np.testing.assert_array_equal(state, expected)
    with pytest.raises(UserError, match=r"episode_start has shape \[2\], expected \[1\]"):
        policy.predict(second, state, episode_start=[True, False])


def test_a_policy_is_shown_in_one_short_line() -> None:
    env = GAMES["Dict"]()
    policy = GreedyPolicy(fresh(spec_of(env)), spec_of(env))
    expected = "GreedyPolicy(image (4, 5) and Discrete(3) -> 3 actions, 72 parameters)"
    assert repr(policy) == expected
    assert policy.network is policy.policy.network


# Folders


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run whose environment no name leads to."""
    spec = spec_of(GAMES["Dict"]())
    out, (folder,) = create_folders(PLAIN, tmp_path / "run", spec)
    save_policy(folder.best, fresh(spec))
    return out


def test_loads_without_the_environment(run: Path) -> None:
    seen = GAMES["Dict"]().reset()[0]
    policy = load_policy(run)
    assert policy(seen) in (5, 6, 7)
    exported = load_policy(export_run(run, "safetensors"))
    assert exported.spec == policy.spec
    np.testing.assert_array_equal(exported.values(seen), policy.values(seen))


def test_an_old_run_needs_its_environment(run: Path) -> None:
    RunFolder.at(run).spaces.path.unlink()
    with pytest.raises(UserError, match=r"has no spaces\.json, so its policy needs the env"):
        load_policy(run)
    with pytest.raises(UserError, match=r"has no spaces\.json"):
        export_run(run, "safetensors")


@pytest.mark.parametrize("text", ["{}", "no JSON", '{"version": 2}'])
def test_spaces_that_are_damaged_are_named(run: Path, text: str) -> None:
    RunFolder.at(run).spaces.path.write_text(text)
    with pytest.raises(UserError, match=r"spaces\.json cannot be used .*: restore it") as error:
        load_policy(run)
    assert "\n" not in str(error.value)


def test_spaces_of_another_run_do_not_fit(run: Path) -> None:
    write_spaces(RunFolder.at(run), spec_of(GAMES["MultiDiscrete"]()))
    with pytest.raises(UserError, match="does not fit the config beside it"):
        load_policy(run)


def test_importing_the_package_does_not_import_jax() -> None:
    code = "import noisydqn, sys; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
