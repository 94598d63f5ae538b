"""Evaluation: whole episodes with mean weights, the noise off."""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from noisydqn.agent import act
from noisydqn.build import Policy
from noisydqn.envs.device import DeviceEnvironment, VectorEnvironment
from noisydqn.types import TimeStep


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The outcome of an evaluation."""

    episodes: int
    mean_return: float
    caught_fraction: float  # of all fruit that came down, in all episodes
    returns: tuple[float, ...]

    @property
    def solved(self) -> bool:
        """Whether 99% of the fruit was caught."""
        return self.caught_fraction >= 0.99

    def summary(self) -> dict[str, Any]:
        """What is written to `summary.json` and printed as JSON."""
        return {
            "episodes": self.episodes,
            "mean_return": self.mean_return,
            "caught_fraction": self.caught_fraction,
        }


class _Playing(NamedTuple):
    key: PRNGKeyArray
    env_states: Any
    time_step: TimeStep
    over: Bool[Array, " episodes"]
    returns: Float[Array, " episodes"]
    counts: dict[str, Array]


@partial(jax.jit, static_argnums=(0, 1))
def _play(env: DeviceEnvironment, episodes: int, policy: Policy, key: PRNGKeyArray) -> _Playing:
    """Play `episodes` episodes in step until the last is over."""
    vector = VectorEnvironment(env, env.default_params, episodes)
    key, reset_key = jax.random.split(key)
    env_states, time_step = vector.reset(reset_key)
    start = _Playing(
        key=key,
        env_states=env_states,
        time_step=time_step,
        over=jnp.zeros(episodes, jnp.bool_),
        returns=jnp.zeros(episodes),
        counts=jax.tree.map(jnp.zeros_like, time_step.info),
    )

    def step(playing: _Playing) -> _Playing:
        key, step_key = jax.random.split(playing.key)
        seen = policy.preprocess(playing.time_step.observation)
        actions = act(policy.network, seen, None, shared=True)
        going_on = jnp.zeros(episodes, jnp.bool_)
        env_states, time_step = vector.step(step_key, playing.env_states, actions, going_on)
        counted = ~playing.over
        return _Playing(
            key=key,
            env_states=env_states,
            time_step=time_step,
            over=playing.over | time_step.last,
            returns=playing.returns + counted * time_step.reward,
            counts=jax.tree.map(
                lambda total, x: total + counted * x, playing.counts, time_step.info
            ),
        )

    return jax.lax.while_loop(lambda playing: ~jnp.all(playing.over), step, start)


def evaluate(
    env: DeviceEnvironment, policy: Policy, *, episodes: int, key: PRNGKeyArray
) -> Evaluation:
    """Play `episodes` whole episodes with mean weights."""
    played = _play(env, episodes, policy, key)
    caught, missed = (int(np.sum(played.counts[name])) for name in ("caught", "missed"))
    returns = tuple(float(x) for x in np.asarray(played.returns))
    return Evaluation(
        episodes=episodes,
        mean_return=float(np.mean(returns)),
        caught_fraction=caught / max(caught + missed, 1),
        returns=returns,
    )
