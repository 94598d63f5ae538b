"""Running statistics against NumPy on everything seen, and Gymnasium's reward wrapper."""

from typing import Any

import gymnasium
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noisydqn.envs import normalise


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.integers(0, 100))
def test_moments_agree_with_numpy(sizes: list[int], seed: int) -> None:
    random = np.random.default_rng(seed)
    moments = normalise.init((3,))
    batches = [random.integers(0, 255, (size, 3)).astype(np.uint8) for size in sizes]
    for batch in batches:
        moments = normalise.update(moments, jnp.asarray(batch))
    everything = np.concatenate(batches).astype(np.float64)
    assert float(moments.seen) == len(everything)
    np.testing.assert_allclose(moments.mean, everything.mean(0), rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(moments.variance, everything.var(0), rtol=1e-4, atol=1e-2)


def test_normalise_centres_scales_and_clips() -> None:
    moments = normalise.update(normalise.init(()), jnp.array([2.0, 4.0]))
    got = normalise.normalise(jnp.array([3.0, 4.0, 100.0, -100.0]), moments, 5.0)
    np.testing.assert_allclose(got, [0, 1, 5, -5], rtol=1e-5)


def test_a_pixel_that_never_changes_becomes_zero() -> None:
    moments = normalise.update(normalise.init((2,)), jnp.array([[7.0, 1.0], [7.0, 2.0]]))
    assert float(normalise.normalise(jnp.array([7.0, 1.0]), moments, 10.0)[0]) == 0


def test_before_anything_was_seen_nothing_changes() -> None:
    x = jnp.array([0.5, -3.0])
    np.testing.assert_allclose(normalise.normalise(x, normalise.init((2,)), 10.0), x)
    assert float(normalise.init_return_scale(1).scale) == pytest.approx(1)


class _Scripted(gymnasium.Env[np.ndarray, np.int64]):
    """Gives the rewards of a list."""

    def __init__(self, rewards: list[float]) -> None:
        self.rewards = rewards
        self.observation_space = gymnasium.spaces.Box(0, 1, (1,))
        self.action_space = gymnasium.spaces.Discrete(2)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        del seed, options
        self.time = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        del action
        self.time += 1
        return np.zeros(1, np.float32), self.rewards[self.time - 1], False, False, {}


def test_reward_scale_agrees_with_gymnasium() -> None:
    """Up to the pseudo-count with which Gymnasium starts its variance, whose weight vanishes."""
    rewards = np.random.default_rng(0).normal(1, 2, 3000).tolist()
    theirs = gymnasium.wrappers.NormalizeReward(_Scripted(rewards), gamma=0.9)
    theirs.reset()
    scale = normalise.init_return_scale(1)
    normalised = np.nan
    for reward in rewards:
        _, normalised, *_ = theirs.step(np.int64(0))
        first = jnp.array([False])
        scale = normalise.update_return_scale(scale, jnp.array([reward]), first, 0.9)
    assert rewards[-1] * float(scale.scale) == pytest.approx(float(normalised), rel=1e-3)


def test_values_that_are_not_counted_change_nothing() -> None:
    moments = normalise.update(normalise.init(()), jnp.array([2.0, 4.0, 9.0]))
    counted = jnp.array([True, False, True])
    some = normalise.update(moments, jnp.array([1.0, 1e6, 3.0]), counted)
    expected = normalise.update(moments, jnp.array([1.0, 3.0]))
    np.testing.assert_allclose(jnp.stack(some), jnp.stack(expected), rtol=1e-6)
    none = normalise.update(moments, jnp.array([5.0]), jnp.array([False]))
    np.testing.assert_allclose(jnp.stack(none), jnp.stack(moments))
    nothing = normalise.update(normalise.init(()), jnp.array([5.0]), jnp.array([False]))
    np.testing.assert_allclose(jnp.stack(nothing), np.zeros(3))


def test_a_new_episode_starts_its_return_at_zero() -> None:
    scale = normalise.init_return_scale(2)
    scale = normalise.update_return_scale(
        scale, jnp.array([1.0, 1.0]), jnp.array([False, False]), 0.5
    )
    scale = normalise.update_return_scale(
        scale, jnp.array([2.0, 0.0]), jnp.array([False, True]), 0.5
    )
    assert scale.discounted_return.tolist() == [2.5, 0.0]
    assert float(scale.moments.seen) == 3  # a reset has no reward to count
