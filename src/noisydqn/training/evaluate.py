"""Evaluation: whole episodes with mean weights, the noise off."""

import dataclasses
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Shaped

from noisydqn.agent import act
from noisydqn.build import Policy
from noisydqn.envs import frames
from noisydqn.envs.device import DeviceEnvironment, VectorEnvironment
from noisydqn.envs.host import HostEnvironment, HostVector
from noisydqn.settings import own_settings
from noisydqn.types import TimeStep

SIDE_BY_SIDE = 50
"""At most so many of Gymnasium's environments play at once in an evaluation."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The outcome of an evaluation."""

    returns: tuple[float, ...]
    caught_fraction: float | None = None  # of all fruit, in games where fruit is caught or missed

    @property
    def mean_return(self) -> float:
        """The mean return of the episodes."""
        return float(np.mean(self.returns))

    @property
    def solved(self) -> bool:
        """Whether 99% of the fruit was caught."""
        return self.caught_fraction is not None and self.caught_fraction >= 0.99

    def summary(self) -> dict[str, Any]:
        """What is written to `summary.json` and printed as JSON."""
        caught = {} if self.caught_fraction is None else {"caught_fraction": self.caught_fraction}
        return {"episodes": len(self.returns), "mean_return": self.mean_return, **caught}

    def describe(self) -> str:
        """The outcome in words."""
        caught = self.caught_fraction
        fruit = "" if caught is None else f", {caught:.2%} of the fruit caught"
        return f"return {self.mean_return:.1f}{fruit}"


@own_settings()
def evaluate(
    env: DeviceEnvironment | HostEnvironment, policy: Policy, *, episodes: int, key: PRNGKeyArray
) -> Evaluation:
    """Play `episodes` whole episodes with mean weights.

    Raises:
        EnvironmentFailedError: an environment of Gymnasium failed.
    """
    if isinstance(env, HostEnvironment):
        return _evaluate_host(env, policy, episodes, int(jax.random.bits(key)))
    played = _play(env, episodes, policy, key)
    counts = {name: int(np.sum(count)) for name, count in played.counts.items()}
    returns = tuple(float(x) for x in np.asarray(played.returns))
    if not {"caught", "missed"} <= counts.keys():
        return Evaluation(returns)
    fruit = counts["caught"] + counts["missed"]
    return Evaluation(returns, counts["caught"] / max(fruit, 1))


# Environments in JAX


class _Playing(NamedTuple):
    key: PRNGKeyArray
    env_states: Any
    time_step: TimeStep
    stack: Shaped[Array, "episodes ..."]
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
        stack=frames.start(time_step.observation, policy.frames),
        over=jnp.zeros(episodes, jnp.bool_),
        returns=jnp.zeros(episodes),
        counts=jax.tree.map(jnp.zeros_like, time_step.info),
    )
    going_on = jnp.zeros(episodes, jnp.bool_)

    def step(playing: _Playing) -> _Playing:
        key, step_key = jax.random.split(playing.key)
        seen = policy.preprocess(playing.stack)
        actions = act(policy.network, seen, None, shared=True)
        env_states, time_step = vector.step(step_key, playing.env_states, actions, going_on)
        counted = ~playing.over
        observation = time_step.observation
        return _Playing(
            key=key,
            env_states=env_states,
            time_step=time_step,
            stack=frames.push(playing.stack, observation, going_on, policy.frames),
            over=playing.over | time_step.last,
            returns=playing.returns + counted * time_step.reward,
            counts=jax.tree.map(
                lambda total, x: total + counted * x, playing.counts, time_step.info
            ),
        )

    return jax.lax.while_loop(lambda playing: ~jnp.all(playing.over), step, start)


# Environments of Gymnasium


@jax.jit
def greedy(
    policy: Policy,
    stack: Shaped[Array, "envs ..."],
    observation: Shaped[Array, "envs ..."],
    started: Bool[Array, " envs"],
) -> tuple[Shaped[Array, "envs ..."], Int[Array, " envs"], Float[Array, "envs actions"]]:
    """Take in observations and choose; returns stack, actions and values under mean weights."""
    stack = frames.push(stack, observation, started, policy.frames)
    q = jax.vmap(policy.network, in_axes=(0, None))(policy.preprocess(stack), None)
    return stack, jnp.argmax(q, axis=-1).astype(jnp.int32), q


def play(
    vector: HostVector, policy: Policy, seed: int
) -> Iterator[tuple[TimeStep, np.ndarray, np.ndarray]]:
    """Play with mean weights, without end.

    Yields each time step with the actions [envs] chosen on it and the values [envs, A].
    """
    time_step = vector.reset(seed)
    started = np.ones(vector.num_envs, bool)
    stack = frames.start(jnp.asarray(time_step.observation), policy.frames)
    while True:
        stack, actions, q = greedy(policy, stack, time_step.observation, started)
        yield time_step, np.asarray(actions), np.asarray(q)
        started = np.asarray(time_step.last)
        time_step = vector.step(np.asarray(actions))


def _evaluate_host(env: HostEnvironment, policy: Policy, episodes: int, seed: int) -> Evaluation:
    """Each environment plays its share of the episodes, however long they are."""
    size = min(episodes, SIDE_BY_SIDE)
    left = np.array([len(range(i, episodes, size)) for i in range(size)])
    over, running = np.ones(size, bool), np.zeros(size)
    returns: list[float] = []
    vector = env.vector(size)
    try:
        for time_step, _, _ in play(vector, policy, seed):
            running = np.where(over, 0, running) + time_step.reward
            over = np.asarray(time_step.last)
            ended = over & (left > 0)
            returns += running[ended].tolist()
            left -= ended
            if not left.any():
                break
            if np.any(ended & (left == 0)):
                vector.rest(left == 0)
    finally:
        vector.close()
    return Evaluation(tuple(returns))
