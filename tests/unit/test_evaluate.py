"""Evaluation plays whole episodes with mean weights."""

import itertools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.host_envs import CountingHostEnv

from noisydqn import PRESETS, Config
from noisydqn.envs.catcher import CatcherParams, CatcherPixels
from noisydqn.envs.device import DeviceEnvironment
from noisydqn.envs.host import HostEnvironment
from noisydqn.learner.policy import Policy
from noisydqn.nets.noisy import noisy_layers
from noisydqn.play.evaluate import evaluate
from noisydqn.play.host_rollout import SIDE_BY_SIDE
from noisydqn.runners import build

pytestmark = pytest.mark.slow

KEY = jax.random.key(0)


SHORT = DeviceEnvironment.create(CatcherPixels(), CatcherParams(max_ticks=400))
"""Catcher with games of 400 ticks."""


@pytest.fixture(scope="module")
def policy() -> Policy:
    return build.make_policy(PRESETS["catcher"].program, SHORT.spec, KEY)


def test_evaluation_is_deterministic_and_free_of_noise(policy: Policy) -> None:
    env = SHORT
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
    evaluation = evaluate(SHORT, corner, episodes=5, key=KEY)
    assert len(evaluation.returns) == 5
    assert evaluation.mean_return == pytest.approx(sum(evaluation.returns) / 5)
    caught = sum(r + 3 + 5 for r in evaluation.returns)
    assert evaluation.stats["caught_fraction"] == pytest.approx(caught / (caught + 15))
    assert not evaluation.solved


def test_games_are_truncated_at_the_time_limit(policy: Policy) -> None:
    env = DeviceEnvironment.create(CatcherPixels(), CatcherParams(max_ticks=30))
    evaluation = evaluate(env, policy, episodes=3, key=KEY)
    assert evaluation.returns == (0.0, 0.0, 0.0)  # no fruit comes down in a second
    assert evaluation.stats["caught_fraction"] == 0


def test_an_environment_rests_once_its_share_is_played() -> None:
    """Three of fifty play a second episode, which is longer; the others are not stepped then."""
    steps: list[int] = []

    class Tallied(CountingHostEnv):
        def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
            steps.append(self.time)
            return super().step(action)

    config = Config(env="CartPole-v1", hidden=(8,))
    env = HostEnvironment.create(config.environment, Tallied)
    evaluation = evaluate(
        env, build.make_policy(config.program, env.spec, KEY), episodes=SIDE_BY_SIDE + 3, key=KEY
    )
    assert evaluation.returns == (6.0,) * SIDE_BY_SIDE + (15.0,) * 3
    assert len(steps) == SIDE_BY_SIDE * 3 + 3 * 5


class Endless(CountingHostEnv):
    """Episodes that never end."""

    def __init__(self) -> None:
        super().__init__((10**9, 10**9))


def test_episodes_that_never_end_are_truncated() -> None:
    config = Config(env="CartPole-v1", hidden=(8,))
    env = HostEnvironment.create(config.environment, Endless)
    policy = build.make_policy(config.program, env.spec, KEY)
    evaluation = evaluate(env, policy, episodes=SIDE_BY_SIDE + 1, key=KEY, max_steps=4)
    assert evaluation.returns == (1.0 + 2 + 3 + 4,) * (SIDE_BY_SIDE + 1)
    assert evaluation.truncated == SIDE_BY_SIDE + 1
    assert evaluation.summary()["truncated_episodes"] == SIDE_BY_SIDE + 1
    assert "51 truncated" in evaluation.describe()


@pytest.mark.parametrize(
    ("max_steps", "returns", "truncated"),
    [
        (4, (6.0,) * SIDE_BY_SIDE + (10.0,) * 2, 2),  # the second episodes are longer
        (2, (3.0,) * (SIDE_BY_SIDE + 2), SIDE_BY_SIDE + 2),
    ],
)
def test_an_ids_own_vector_plays_as_many_episodes_as_asked(
    max_steps: int, returns: tuple[float, ...], truncated: int
) -> None:
    """It knows no limit: what is played beyond it is not counted."""
    config = Config(env="noisydqn-tests/CountingVector-v0", hidden=(8,), vectorization="own")
    env = HostEnvironment.create(config.environment, config.environment.env)
    policy = build.make_policy(config.program, env.spec, KEY)
    evaluation = evaluate(env, policy, episodes=SIDE_BY_SIDE + 2, key=KEY, max_steps=max_steps)
    assert (evaluation.returns, evaluation.truncated) == (returns, truncated)


def test_own_vectors_whose_episodes_never_end_are_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CountingHostEnv.__init__, "__defaults__", ((10**9, 10**9),))
    config = Config(env="noisydqn-tests/CountingVector-v0", hidden=(8,), vectorization="own")
    env = HostEnvironment.create(config.environment, config.environment.env)
    policy = build.make_policy(config.program, env.spec, KEY)
    evaluation = evaluate(env, policy, episodes=SIDE_BY_SIDE + 2, key=KEY, max_steps=2)
    assert (evaluation.returns, evaluation.truncated) == ((3.0,) * 52, 52)


def test_episodes_on_the_device_are_truncated(policy: Policy) -> None:
    evaluation = evaluate(
        DeviceEnvironment.create(CatcherPixels()), policy, episodes=4, key=KEY, max_steps=7
    )
    assert (evaluation.truncated, evaluation.returns) == (4, (0.0,) * 4)
    assert evaluate(SHORT, policy, episodes=4, key=KEY).truncated == 0


def test_an_evaluation_can_be_left(policy: Policy) -> None:
    """While an episode is played, on the host and on the device."""
    config = Config(env="CartPole-v1", hidden=(8,))
    env = HostEnvironment.create(config.environment, Endless)
    calls = itertools.count()

    def leave() -> None:
        if next(calls) == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        evaluate(
            env, build.make_policy(config.program, env.spec, KEY), episodes=2, key=KEY, check=leave
        )
    calls = itertools.count()
    with pytest.raises(InterruptedError):
        evaluate(
            DeviceEnvironment.create(CatcherPixels()), policy, episodes=4, key=KEY, check=leave
        )


class Successful(CountingHostEnv):
    """Reports a success of the longer of two kinds of episodes, and nothing of the shorter."""

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        outcome = super().step(action)
        return (*outcome[:4], {"is_success": sum(outcome[2:4]) * 1.0} if self.time > 3 else {})


def test_successes_are_reported_where_infos_say_so() -> None:
    config = Config(env="CartPole-v1", hidden=(8,))
    env = HostEnvironment.create(config.environment, Successful)
    policy = build.make_policy(config.program, env.spec, KEY)
    evaluation = evaluate(env, policy, episodes=SIDE_BY_SIDE + 1, key=KEY)
    assert evaluation.stats == {"success_rate": 1}
    assert evaluation.summary()["success_rate"] == 1
    assert evaluation.describe().endswith(", 100% of the episodes succeeded")
    assert not evaluation.solved
    silent = evaluate(env, policy, episodes=2, key=KEY)  # the shorter kind alone
    assert silent.stats == {}
