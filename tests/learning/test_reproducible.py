"""The same seed gives the same bits."""

import equinox as eqx
import jax
import jax.numpy as jnp
from tests.probes import train

from noisydqn import PRESETS, Config
from noisydqn.envs.catcher import CatcherPixels
from noisydqn.runners.state import TrainingState

SHORT = PRESETS["catcher"].replace(steps=1_600, chunk_steps=800, learning_starts=400)


def final_state(config: Config) -> TrainingState:
    return jax.block_until_ready(train(config, CatcherPixels())[-1].state.training)


def _bits(x: jax.Array) -> jax.Array:
    is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(x) if is_key else x


def test_same_seed_same_weights_twice() -> None:
    """All of the state: weights, optimizer, replay, statistics, keys, environments."""
    one, other = final_state(SHORT.replace(seed=5)), final_state(SHORT.replace(seed=5))
    raw = [jax.tree.map(_bits, state) for state in (one, other)]
    assert eqx.tree_equal(*raw)
    assert int(one.learner.updates[0]) > 100


def test_other_seed_other_weights() -> None:
    one, other = final_state(SHORT.replace(seed=5)), final_state(SHORT.replace(seed=6))
    assert not eqx.tree_equal(one.learner.online, other.learner.online)
