"""Probe environments with known values: each fails for one kind of mistake alone.

constant, 1 step    the value of a reward                     V = 1
cue, 1 step         values that depend on the observation     V = cue
constant, 3 steps   bootstrapping and the discount            V = gamma^(2 - t)
match, 1 step       values that depend on the action          Q = 1 or -1
match, 2 steps      all of it: the action counts at the end   Q = 1 or -1, gamma before
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from tests.probes import Probe, train

from noisydqn import Config
from noisydqn.learner.agent import values

GAMMA = 0.5

PROBE_CONFIG = Config(
    torso="flat",
    hidden=(32,),
    normalize_observations="scale",
    num_envs=4,
    steps=6_000,
    random_steps=6_000,  # every action is tried to the end, so all values are known
    chunk_steps=6_000,
    learning_starts=100,
    updates_per_step=0.5,
    batch_size=32,
    learning_rate=3e-3,
    learning_rate_final=1e-4,
    schedule_updates=3_000,
    discount=GAMMA,
    n_step=1,
    target_period=20,
    target_rate=1.0,
    replay_capacity=2_000,
)


def learned(
    probe: Probe,
    observations: list[list[float]],
    *,
    config: Config = PROBE_CONFIG,
    **options: Any,
) -> np.ndarray:
    """Mean-weight action values [observations, actions] after training on a probe."""
    (chunk,) = train(config.replace(**options), probe)
    return np.asarray(values(chunk.policy(0).network, jnp.asarray(observations, jnp.float32), None))


@pytest.mark.parametrize("noise", ["factorised", "independent"])
def test_constant_reward(noise: str) -> None:
    q = learned(Probe(1, cue=False, kind="constant"), [[1, 0]], noise=noise)
    np.testing.assert_allclose(q, [[1, 1]], atol=0.1)


def test_reward_from_the_observation() -> None:
    q = learned(Probe(1, cue=True, kind="cue"), [[-1, 0], [1, 0]])
    np.testing.assert_allclose(q, [[-1, -1], [1, 1]], atol=0.1)


@pytest.mark.parametrize("n_step", [1, 2, 5])
def test_discounted_value_of_a_later_reward(n_step: int) -> None:
    q = learned(Probe(3, cue=False, kind="constant"), [[1, 0], [1, 1], [1, 2]], n_step=n_step)
    expected = np.array([GAMMA**2, GAMMA, 1])
    np.testing.assert_allclose(q, np.stack([expected, expected], axis=-1), atol=0.1)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"double": False},
        {"dueling": False},
        {"replay": "uniform"},
        {"loss": "squared"},
        {"optimizer": "adamw"},
        {"noise": "independent", "sigma_init": 0.5},
        {"sigma_penalty": 0.01},
        {"acting_noise": "episode", "acting_noise_shared": True},
        {"normalize_observations": "running"},
    ],
    ids=str,
)
def test_action_that_matches_the_cue(options: dict[str, Any]) -> None:
    observations = [[-1.0, 0.0], [1.0, 0.0]]
    config = PROBE_CONFIG.replace(**options)
    (chunk,) = train(config, Probe(1, cue=True, kind="match"))
    policy = chunk.policy(0)
    q = values(policy.network, policy.preprocess(jnp.asarray(observations)), None)
    np.testing.assert_allclose(q, [[1, -1], [-1, 1]], atol=0.15)


CATEGORICAL = {"distribution": "categorical", "atoms": 21, "v_min": -2.0, "v_max": 2.0}
QUANTILE = {"distribution": "quantile", "quantiles": 8}
IMPLICIT = {"distribution": "implicit-quantile", "quantiles": 8, "acting_quantiles": 8}


@pytest.mark.parametrize(
    "options",
    [
        CATEGORICAL,
        CATEGORICAL | {"dueling": False, "double": False, "replay": "uniform"},
        QUANTILE,
        QUANTILE | {"noise": "independent", "n_step": 3},
        IMPLICIT,
        IMPLICIT | {"double": False, "dueling": False, "exploration": "epsilon-greedy"},
    ],
    ids=str,
)
def test_every_distribution_learns_the_action_that_matches(options: dict[str, Any]) -> None:
    probe = Probe(2, cue=True, kind="match")
    q = learned(probe, [[-1, 1], [1, 1], [1, 0]], **options)
    np.testing.assert_allclose(q[:2], [[1, -1], [-1, 1]], atol=0.2)
    before = GAMMA if options.get("n_step", 1) == 1 else 0
    np.testing.assert_allclose(q[2], [before, before], atol=0.2)


PARALLEL_CONFIG = Config(
    learner="parallel",
    torso="flat",
    hidden=(32,),
    num_envs=8,
    rollout_steps=16,
    minibatches=4,
    epochs=4,
    return_lambda=0.0,  # random play would lower the values of longer returns
    steps=24_000,
    random_steps=24_000,
    chunk_steps=24_000,
    learning_rate=3e-3,
    learning_rate_final=1e-4,
    schedule_share=1.0,
    discount=GAMMA,
)
"""The same tasks for the parallel learner."""


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"loss": "squared", "dueling": False, "layer_norm": True},
        {"exploration": "epsilon-greedy"},
        {"noise": "independent", "return_noise": "acting", "acting_noise": "step"},
        CATEGORICAL,
        QUANTILE,
        IMPLICIT,
        {"distribution": "hl-gauss", "bins": 41, "v_min": -2.0, "v_max": 2.0},
    ],
    ids=str,
)
def test_the_parallel_learner_learns_the_action_at_the_end(options: dict[str, Any]) -> None:
    observations = [[-1.0, 1.0], [1.0, 1.0], [1.0, 0.0]]
    probe = Probe(2, cue=True, kind="match")
    q = learned(probe, observations, config=PARALLEL_CONFIG, **options)
    np.testing.assert_allclose(q[:2], [[1, -1], [-1, 1]], atol=0.2)
    np.testing.assert_allclose(q[2], [GAMMA, GAMMA], atol=0.2)


@pytest.mark.parametrize("return_lambda", [0.0, 0.65, 1.0])
def test_the_parallel_learner_discounts_a_later_reward(return_lambda: float) -> None:
    options: dict[str, Any] = {"config": PARALLEL_CONFIG, "return_lambda": return_lambda}
    q = learned(Probe(3, cue=False, kind="constant"), [[1, 0], [1, 1], [1, 2]], **options)
    expected = np.array([GAMMA**2, GAMMA, 1])
    np.testing.assert_allclose(q, np.stack([expected, expected], axis=-1), atol=0.1)


def test_the_parallel_learner_has_nothing_beyond_random_play_with_lambda_1() -> None:
    """Returns of whole episodes are those of the play between: on the average nothing."""
    probe = Probe(2, cue=True, kind="match")
    q = learned(probe, [[1, 0]], config=PARALLEL_CONFIG, return_lambda=1.0)
    np.testing.assert_allclose(q, [[0, 0]], atol=0.15)


@pytest.mark.parametrize("options", [{}, CATEGORICAL, QUANTILE], ids=str)
def test_munchausen_values(options: dict[str, Any]) -> None:
    """One step is worth its reward and the clipped log-probability of its action.

    With q = (1 + alpha x, -1 + alpha y), x and y the log-probabilities times tau: the better
    action is as good as certain, and the other's is at the bound l_0.
    """
    probe = Probe(1, cue=True, kind="match")
    q = learned(
        probe,
        [[-1, 0], [1, 0]],
        munchausen=True,
        munchausen_scale=0.5,
        munchausen_minimum=-0.5,
        **options,
    )
    np.testing.assert_allclose(q, [[1, -1.25], [-1.25, 1]], atol=0.2)


@pytest.mark.parametrize("n_step", [1, 3])
def test_action_at_the_end(n_step: int) -> None:
    q = learned(Probe(2, cue=True, kind="match"), [[-1, 1], [1, 1], [1, 0]], n_step=n_step)
    np.testing.assert_allclose(q[:2], [[1, -1], [-1, 1]], atol=0.15)
    # One-step targets give the best play's value; longer ones that of the random play between.
    before = GAMMA if n_step == 1 else 0
    np.testing.assert_allclose(q[2], [before, before], atol=0.15)


def test_normalized_rewards_scale_the_values() -> None:
    probe = Probe(1, cue=True, kind="three cues")
    q = learned(probe, [[-1, 0], [1, 0]], normalize_rewards=True)
    # Rewards of 3 or -3 have deviation 3; the resets between are not counted.
    np.testing.assert_allclose(q, [[-1, -1], [1, 1]], atol=0.15)


def test_noise_tries_what_greed_does_not() -> None:
    """Without noise at the start one action stays unknown; noise tries both, and is unlearned."""
    probe, seen = Probe(1, cue=False, kind="better"), jnp.array([[1.0, 0.0]])
    config = PROBE_CONFIG.replace(random_steps=0, dueling=False)

    def known(q: np.ndarray) -> list[bool]:
        return (np.abs(q - [0.5, 1.0]) < 0.1).tolist()

    greedy_knows: list[list[bool]] = []
    for seed in range(10):
        q = learned(probe, seen.tolist(), config=config.replace(sigma_init=0.0, seed=seed))[0]
        greedy_knows.append(known(q))
        (chunk,) = train(config.replace(seed=seed), probe)
        q = np.asarray(values(chunk.policy(0).network, seen, None))[0]
        assert known(q) == [True, True]
        assert chunk.seeds[0].action_change < 0.1
        assert chunk.seeds[0].sigma["advantage"] < 0.75 * 0.5 / np.sqrt(32)  # a quarter less
    assert [True, True] not in greedy_knows
