"""Actions of several dimensions: a probe with known values, and numbers in bins."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.action_envs import PLACES, Aim, Levers
from tests.hosts import make
from tests.learning.test_probes import GAMMA, PROBE_CONFIG
from tests.probes import run_host

from noisydqn import Config
from noisydqn.dimensions import existing
from noisydqn.envs.host import HostEnvironment
from noisydqn.learner.agent import values
from noisydqn.play.evaluate import evaluate

CONFIG = PROBE_CONFIG.replace(
    env="python:tests",
    steps=16_000,
    random_steps=16_000,
    chunk_steps=16_000,
    learning_rate_final=1e-5,
    schedule_updates=8_000,
    replay_capacity=4_000,
)
PARALLEL: dict[str, Any] = {
    "learner": "parallel",
    "rollout_steps": 8,
    "minibatches": 1,
    "epochs": 4,
    "return_lambda": 0.0,
}


def of_learner(config: Config, options: dict[str, Any]) -> Config:
    """Change options, and drop those of the replay learner if another is named."""
    if "learner" not in options:
        return config.replace(**options)
    names = set(Config(learner="parallel").flat())
    return Config(**{k: v for k, v in config.flat().items() if k in names} | options)


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        ({}, 0.01),
        ({"dueling": False, "double": False, "replay": "uniform"}, 0.01),
        ({"noise": "independent"}, 0.01),
        ({"distribution": "quantile", "quantiles": 8}, 0.02),
        (PARALLEL, 0.02),
    ],
    ids=str,
)
def test_levers_have_their_known_values(options: dict[str, Any], tolerance: float) -> None:
    """The values of all 24 joint actions at the last step, and of the best before it."""
    env = make(Levers)
    (*_, chunk) = run_host(of_learner(CONFIG, options), env, jax.random.key(0))
    network = chunk.policy(0).network
    q = np.asarray(values(network, jnp.array([[1.0, 1], [-1, 1], [1, 0], [-1, 0]]), None))
    exists = existing(tuple(PLACES.tolist()))
    right = np.full((2, 3, 4), -1.0)
    right[0, :, 0] = right[1, np.arange(3), PLACES - 1] = 1
    joint = np.stack([x.reshape(-1) for x in np.indices(tuple(PLACES.tolist()))], axis=-1)
    for cue in range(2):
        ours = q[cue][np.arange(3), joint].mean(axis=-1)
        expected = right[cue][np.arange(3), joint].mean(axis=-1)
        np.testing.assert_allclose(ours, expected, atol=tolerance)
    before = q[2:, np.arange(3)[:, None], 0].mean(axis=1)
    np.testing.assert_allclose(before, GAMMA, atol=tolerance)
    assert exists is not None
    assert (np.isfinite(q) == exists).all()


@pytest.mark.parametrize(
    "options",
    [{}, {"distribution": "implicit-quantile", "quantiles": 8}, {"munchausen": True}],
    ids=str,
)
def test_numbers_in_bins_are_aimed(options: dict[str, Any]) -> None:
    """Every target is one of the three bins, so the best loss is 0; a random one's is 0.44."""
    env = make(Aim, action_bins=3)
    config = CONFIG.replace(random_steps=0, **options)
    (*_, chunk) = run_host(config, env, jax.random.key(0))
    played = evaluate(env, chunk.policy(0), episodes=50, key=jax.random.key(1))
    assert np.mean(played.returns) > -0.05


def test_half_cheetah_runs() -> None:
    """Six torques of three bins each; random play returns -264 on average."""
    pytest.importorskip("mujoco")
    env = HostEnvironment.create(Config(env="HalfCheetah-v5").environment, "HalfCheetah-v5")
    assert env.spec.action_sizes == (3,) * 6
    config = CONFIG.replace(
        steps=30_000,
        chunk_steps=30_000,
        random_steps=2_000,
        num_envs=8,
        normalize_observations="running",
        reward_scale=0.1,
        hidden=(128,),
        layer_norm=True,
        exploration="both",
        epsilon=0.1,
        epsilon_final=0.1,
        learning_rate=1e-3,
        learning_rate_final=1e-4,
        discount=0.99,
        n_step=3,
        batch_size=64,
        updates_per_step=0.25,
        target_period=1,
        target_rate=0.005,
        replay_capacity=30_000,
    )
    (*_, chunk) = run_host(config, env, jax.random.key(0))
    played = evaluate(env, chunk.policy(0), episodes=3, key=jax.random.key(1))
    assert np.mean(played.returns) > 100
