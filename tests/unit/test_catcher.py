"""Catcher's interfaces: gymnax's, and Gymnasium's."""

import warnings

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from noisydqn.envs import catcher
from noisydqn.envs.catcher import Catcher, CatcherParams, CatcherPixels
from noisydqn.envs.catcher_gymnasium import CatcherEnv
from noisydqn.envs.device import DeviceEnvironment
from noisydqn.envs.device_vector import VectorEnvironment

pytestmark = pytest.mark.slow

KEY = jax.random.key(0)


@pytest.mark.parametrize(("env", "shape"), [(Catcher(), (64, 64, 3)), (CatcherPixels(), (42, 42))])
def test_reset_and_step(env: Catcher, shape: tuple[int, ...]) -> None:
    observation, state = jax.jit(env.reset)(KEY, env.default_params)
    assert observation.shape == shape
    assert observation.dtype == jnp.uint8
    outcome = jax.jit(env.step)(KEY, state, jnp.int32(catcher.LEFT), env.default_params)
    observation, state, reward, terminated, truncated, info = outcome
    assert observation.shape == shape
    assert int(state.time) == env.ticks_per_step
    assert int(state.game.paddle_x) < catcher.PADDLE_START_X
    assert float(reward) == 0
    assert not terminated
    assert not truncated
    assert set(info) == {"caught", "missed", "final_observation"}


def test_spawns_are_where_the_original_puts_them() -> None:
    spawns = np.asarray(catcher.sample_spawns(KEY, 5000))
    assert set(spawns[:, 0].tolist()) == {8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 48, 52}
    assert set(spawns[:, 1].tolist()) == {-4, -8, -12, -16, -20, -24, -28}
    counts = np.unique(spawns[:, 0], return_counts=True)[1] / 5000
    assert np.abs(counts - 1 / 12).max() < 5 * np.sqrt(1 / 12 / 5000)


def test_a_held_action_is_two_ticks() -> None:
    env = CatcherPixels()
    _, state = env.reset(KEY)
    spawns = catcher.sample_spawns(KEY, 4).reshape(2, 2, 2)
    first, _, _ = catcher.tick(state.game, jnp.int32(1), spawns[0])
    second, _, _ = catcher.tick(first, jnp.int32(1), spawns[1])
    observation, held, *_ = env.step_env(KEY, state, jnp.int32(1), env.default_params)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(a == b), held.game, second))
    expected = catcher.warp(catcher.render(first), catcher.render(second))
    np.testing.assert_array_equal(observation, expected)


def lose(env: Catcher, params: CatcherParams | None = None) -> list[tuple[float, bool, bool, int]]:
    """Hold the paddle in a corner until the game is over."""
    params = env.default_params if params is None else params
    step = jax.jit(env.step)
    _, state = env.reset(KEY, params)
    history: list[tuple[float, bool, bool, int]] = []
    for i in range(1000):
        _, state, reward, terminated, truncated, info = step(
            jax.random.fold_in(KEY, i), state, jnp.int32(catcher.LEFT), params
        )
        history.append((float(reward), bool(terminated), bool(truncated), int(info["missed"])))
        if terminated or truncated:
            assert int(state.time) == 0  # a new game has begun
            return history
    raise AssertionError("the game never ended")


@pytest.mark.parametrize("env", [Catcher(), CatcherPixels()])
def test_the_third_miss_ends_the_game(env: Catcher) -> None:
    history = lose(env)
    reward, terminated, truncated, _ = history[-1]
    assert (reward, terminated, truncated) == (-6, True, False)
    assert sum(missed for *_, missed in history) == 3


def test_time_limit_truncates() -> None:
    history = lose(CatcherPixels(), CatcherParams(max_ticks=20))
    assert len(history) == 10
    assert history[-1][1:3] == (False, True)


def test_vector_environment_resets_in_the_step_after_the_last() -> None:
    env = DeviceEnvironment.create(CatcherPixels(), CatcherParams(max_ticks=6))
    vector = VectorEnvironment(env, 2)
    states, time_step = vector.reset(KEY)
    lasts: list[bool] = []
    for i in range(9):
        last = time_step.terminated | time_step.truncated
        states, time_step = vector.step(
            jax.random.fold_in(KEY, i), states, jnp.zeros(2, jnp.int32), last
        )
        lasts.append(bool(time_step.truncated[0]))
        if last[0]:
            assert int(states.time[0]) == 0
            assert float(time_step.reward[0]) == 0
            assert not time_step.info["caught"].any()
    # Three steps of two ticks, the third truncated; then a reset.
    assert lasts == [False, False, True, False, False, False, True, False, False]


def test_gymnasium_checks_pass() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gymnasium.make("noisydqn/Catcher-v0", render_mode="rgb_array")
        check_env(env.unwrapped)


def test_gymnasium_shows_the_same_game() -> None:
    """Seeded, 3 actions, RGB, truncated after 10,000 ticks, and by the rules of `tick`."""
    env = gymnasium.make("noisydqn/Catcher-v0", render_mode="rgb_array")
    assert env.spec is not None
    assert env.spec.max_episode_steps == 10_000
    assert env.action_space == gymnasium.spaces.Discrete(3)
    first, _ = env.reset(seed=3)
    again, _ = env.reset(seed=3)
    np.testing.assert_array_equal(first, again)
    total, caught, missed, over = 0.0, 0, 0, False
    observation, info = first, {}
    while not over:
        observation, reward, over, _, info = env.step(0)
        total += float(reward)
        caught, missed = caught + info["caught"], missed + info["missed"]
    assert missed == 3
    assert info["lives"] == 0
    assert total == caught - missed - 5
    np.testing.assert_array_equal(env.render(), observation)
    white = np.argwhere((observation == 255).all(-1))
    assert white[:, 0].min() == catcher.PADDLE_Y


def test_gymnasium_refuses_bad_calls() -> None:
    with pytest.raises(ValueError, match="render_mode must be"):
        CatcherEnv(render_mode="human")
    env = CatcherEnv()
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.int64(0))
    env.reset(seed=0)
    with pytest.raises(ValueError, match="action must be 0"):
        env.step(np.int64(3))
