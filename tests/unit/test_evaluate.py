"""Evaluation plays whole episodes with mean weights."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.host_envs import CountingHostEnv

from noisydqn import PRESETS, Config, build
from noisydqn.build import Policy
from noisydqn.envs.catcher import CatcherParams, CatcherPixels
from noisydqn.envs.device import environment_spec
from noisydqn.envs.host import HostEnvironment
from noisydqn.noisy import noisy_layers
from noisydqn.training.evaluate import SIDE_BY_SIDE, evaluate

KEY = jax.random.key(0)


class ShortCatcher(CatcherPixels):
    """Games of 400 ticks."""

    @property
    def default_params(self) -> CatcherParams:
        return CatcherParams(max_ticks=400)


@pytest.fixture(scope="module")
def policy() -> Policy:
    return build.make_policy(PRESETS["catcher"], environment_spec(ShortCatcher()), KEY)


def test_it_is_deterministic_and_free_of_noise(policy: Policy) -> None:
    env = ShortCatcher()
    first = evaluate(env, policy, episodes=4, key=KEY)
    assert evaluate(env, policy, episodes=4, key=KEY) == first
    assert evaluate(env, policy, episodes=4, key=jax.random.key(1)) != first
    louder = eqx.tree_at(
        lambda p: [layer.weight_sigma for layer in noisy_layers(p.network).values()],
        policy,
        replace_fn=lambda sigma: sigma * 100,
    )
    assert evaluate(env, louder, episodes=4, key=KEY) == first


def test_counts_agree_with_returns(policy: Policy) -> None:
    """A policy that stays in a corner: each game loses three lives, the last costs 5 more."""
    corner = eqx.tree_at(lambda p: p.network.advantage.bias_mu, policy, jnp.array([1e6, 0.0, 0.0]))
    evaluation = evaluate(ShortCatcher(), corner, episodes=5, key=KEY)
    assert len(evaluation.returns) == 5
    assert evaluation.mean_return == pytest.approx(sum(evaluation.returns) / 5)
    caught = sum(r + 3 + 5 for r in evaluation.returns)
    assert evaluation.caught_fraction == pytest.approx(caught / (caught + 15))
    assert not evaluation.solved


def test_games_are_cut_at_the_time_limit(policy: Policy) -> None:
    class Endless(ShortCatcher):
        @property
        def default_params(self) -> CatcherParams:
            return CatcherParams(max_ticks=30)

    evaluation = evaluate(Endless(), policy, episodes=3, key=KEY)
    assert evaluation.returns == (0.0, 0.0, 0.0)  # no fruit comes down in a second
    assert evaluation.caught_fraction == 0


def test_an_environment_rests_once_its_share_is_played() -> None:
    """Three of fifty play a second episode, which is longer; the others are not stepped then."""
    steps: list[int] = []

    class Tallied(CountingHostEnv):
        def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
            steps.append(self.time)
            return super().step(action)

    config = Config(env="CartPole-v1", hidden=(8,))
    env = HostEnvironment.create(config, Tallied)
    evaluation = evaluate(
        env, build.make_policy(config, env.spec, KEY), episodes=SIDE_BY_SIDE + 3, key=KEY
    )
    assert evaluation.returns == (6.0,) * SIDE_BY_SIDE + (15.0,) * 3
    assert len(steps) == SIDE_BY_SIDE * 3 + 3 * 5
