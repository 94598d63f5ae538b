"""Running statistics against NumPy on everything seen, and Gymnasium's reward wrapper."""

from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noisydqn.preprocessing import normalize
from noisydqn.preprocessing.normalize import RunningMoments


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.integers(0, 100))
def test_moments_agree_with_numpy(sizes: list[int], seed: int) -> None:
    random = np.random.default_rng(seed)
    moments = normalize.init((3,))
    batches = [random.integers(0, 255, (size, 3)).astype(np.uint8) for size in sizes]
    for batch in batches:
        moments = normalize.update(moments, jnp.asarray(batch))
    everything = np.concatenate(batches).astype(np.float64)
    assert int(moments.seen) == len(everything)
    np.testing.assert_allclose(moments.rounded.mean, everything.mean(0), rtol=1e-6)
    np.testing.assert_allclose(moments.rounded.variance, everything.var(0), rtol=1e-5, atol=1e-9)


def add_all(moments: RunningMoments, batches: np.ndarray) -> RunningMoments:
    """Add batches [number, batch, ...], one after another."""

    def add(moments: RunningMoments, batch: jax.Array) -> tuple[RunningMoments, None]:
        return normalize.update(moments, batch), None

    return jax.jit(lambda moments: jax.lax.scan(add, moments, jnp.asarray(batches))[0])(moments)


def test_after_a_thousand_million_values_each_still_counts() -> None:
    """More than float32 can count to, and a mean that each batch moves by less than it can hold."""
    many, mean, variance = 10**9, 5.0, 4.0
    batches = np.random.default_rng(0).normal(7, 1, (20_000, 16)).astype(np.float32)
    start = normalize.init(())
    start = RunningMoments(
        jnp.uint32(many),
        start.mean.add(jnp.float32(mean)),
        start.squares.add(jnp.float32(4.0 * many)),
    )
    moments = add_all(start, batches)
    new = batches.astype(np.float64)
    total = many + new.size
    shifted = (many * mean + new.sum()) / total
    squares = many * (variance + (mean - shifted) ** 2) + ((new - shifted) ** 2).sum()
    assert int(moments.seen) == total
    assert float(moments.rounded.mean) == pytest.approx(shifted, rel=1e-7)
    assert float(moments.rounded.variance) == pytest.approx(squares / total, rel=3e-7)


def test_a_large_mean_takes_nothing_from_the_variance() -> None:
    batches = np.random.default_rng(0).normal(1e5, 0.1, (10_000, 4)).astype(np.float32)
    moments = add_all(normalize.init(()), batches)
    exact = batches.astype(np.float64)
    assert float(moments.rounded.mean) == pytest.approx(exact.mean(), rel=1e-7)
    assert float(moments.rounded.variance) == pytest.approx(exact.var(), rel=1e-5)


def test_normalize_centres_scales_and_clips() -> None:
    moments = normalize.update(normalize.init(()), jnp.array([2.0, 4.0])).rounded
    got = normalize.normalize(jnp.array([3.0, 4.0, 100.0, -100.0]), moments, 5.0)
    np.testing.assert_allclose(got, [0, 1, 5, -5], rtol=1e-5)


def test_a_pixel_that_never_changes_becomes_zero() -> None:
    moments = normalize.update(normalize.init((2,)), jnp.array([[7.0, 1.0], [7.0, 2.0]])).rounded
    assert float(normalize.normalize(jnp.array([7.0, 1.0]), moments, 10.0)[0]) == 0


def test_before_anything_was_seen_nothing_changes() -> None:
    x = jnp.array([0.5, -3.0])
    np.testing.assert_allclose(normalize.normalize(x, normalize.init((2,)).rounded, 10.0), x)
    assert float(normalize.init_return_scale(1).scale) == pytest.approx(1)


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
    update = jax.jit(normalize.update_return_scale, static_argnums=3)
    scale = normalize.init_return_scale(1)
    normalized = np.nan
    for reward in rewards:
        _, normalized, *_ = theirs.step(np.int64(0))
        first = jnp.array([False])
        scale = update(scale, jnp.array([reward]), first, 0.9)
    assert rewards[-1] * float(scale.scale) == pytest.approx(float(normalized), rel=1e-3)


def test_values_that_are_not_counted_change_nothing() -> None:
    moments = normalize.update(normalize.init(()), jnp.array([2.0, 4.0, 9.0]))
    counted = jnp.array([True, False, True])
    some = normalize.update(moments, jnp.array([1.0, 1e6, 3.0]), counted)
    expected = normalize.update(moments, jnp.array([1.0, 3.0]))
    np.testing.assert_allclose(some.rounded, expected.rounded, rtol=1e-6)
    none = normalize.update(moments, jnp.array([5.0]), jnp.array([False]))
    np.testing.assert_array_equal(none.rounded, moments.rounded)
    nothing = normalize.update(normalize.init(()), jnp.array([5.0]), jnp.array([False]))
    np.testing.assert_array_equal(nothing.rounded, np.zeros(3))


def test_a_new_episode_starts_its_return_at_zero() -> None:
    scale = normalize.init_return_scale(2)
    scale = normalize.update_return_scale(
        scale, jnp.array([1.0, 1.0]), jnp.array([False, False]), 0.5
    )
    scale = normalize.update_return_scale(
        scale, jnp.array([2.0, 0.0]), jnp.array([False, True]), 0.5
    )
    assert scale.discounted_return.tolist() == [2.5, 0.0]
    assert int(scale.moments.seen) == 3  # a reset has no reward to count
