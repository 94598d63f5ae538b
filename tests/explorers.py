"""Explorers as users write them."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from noisydqn import Explorer
from noisydqn.runners.exploration import Noisy


@dataclasses.dataclass(frozen=True)
class EzGreedy(Explorer):
    """Temporally extended epsilon-greedy exploration (Dabney et al. 2021).

    With probability `epsilon` a random action begins, which is held for a random number of steps:
    n with a probability in proportion to n^-2, up to `longest`. The state is that action and the
    steps that it still lasts, [envs] each.
    """

    epsilon: float = 0.1
    longest: int = 8

    def init(self, network: Any, num_envs: int, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        del network, key
        return jnp.zeros(num_envs, jnp.int32), jnp.zeros(num_envs, jnp.int32)

    def act(
        self, state: Any, values_fn: Any, observation: Any, step: Any, key: jax.Array
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        del step
        held, left = state
        q = values_fn(observation)
        begin_key, action_key, length_key = jax.random.split(key, 3)
        begins = (left == 0) & (jax.random.uniform(begin_key, left.shape) < self.epsilon)
        action = jax.random.randint(action_key, held.shape, 0, q.shape[1], jnp.int32)
        logits = -2 * jnp.log(jnp.arange(1, self.longest + 1))
        length = 1 + jax.random.categorical(length_key, logits, shape=left.shape)
        held = jnp.where(begins, action, held)
        left = jnp.where(begins, length.astype(jnp.int32), left)
        greedy = jnp.argmax(q, axis=-1).astype(jnp.int32)
        return jnp.where(left > 0, held, greedy), (held, jnp.maximum(left - 1, 0))

    def resample(
        self, state: Any, network: Any, *, updated: Any, ended: jax.Array, key: Any
    ) -> tuple[jax.Array, jax.Array]:
        """An action does not outlast its episode."""
        del network, updated, key
        held, left = state
        return held, jnp.where(ended, 0, left)

    @property
    def resamples_every_step(self) -> bool:
        return True


@dataclasses.dataclass(frozen=True)
class Stubborn(Explorer):
    """Chooses an action always, valid or not."""

    action: int = 1

    def act(
        self, state: Any, values_fn: Any, observation: Any, step: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, Any]:
        del values_fn, step, key
        return jnp.full(len(observation), self.action, jnp.int32), state


def often() -> EzGreedy:
    """An explorer with arguments."""
    return EzGreedy(epsilon=0.8)


class Loud(Noisy):
    """An explorer with noisy layers and without options."""


def broken() -> Explorer:
    raise RuntimeError("a cable is loose")


def nothing() -> int:
    return 3
