"""Evaluation: whole episodes with mean weights, the noise off."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Shaped

from noisydqn.compilation import Program, program_for
from noisydqn.envs.device import DeviceEnvironment, VectorEnvironment
from noisydqn.envs.host import HostEnvironment
from noisydqn.envs.vectors import HostVector
from noisydqn.learner.agent import act
from noisydqn.learner.policy import Policy
from noisydqn.options import MAX_COUNT
from noisydqn.preprocessing import frames
from noisydqn.settings import own_settings
from noisydqn.types import TimeStep

SIDE_BY_SIDE = 50
"""At most so many of Gymnasium's environments play at once in an evaluation."""

PART_SECONDS = 0.3
"""About how long one compiled call plays."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The outcome of an evaluation."""

    returns: tuple[float, ...]
    truncated: int = 0  # episodes that the limit of steps ended
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
        return {
            "episodes": len(self.returns),
            "mean_return": self.mean_return,
            "truncated_episodes": self.truncated,
            **caught,
        }

    def describe(self) -> str:
        """The outcome in words."""
        caught = self.caught_fraction
        fruit = "" if caught is None else f", {caught:.2%} of the fruit caught"
        limit = f", {self.truncated} truncated" if self.truncated else ""
        return f"return {self.mean_return:.1f}{fruit}{limit}"


@own_settings()
def evaluate(
    env: DeviceEnvironment | HostEnvironment,
    policy: Policy,
    *,
    episodes: int,
    key: PRNGKeyArray,
    max_steps: int = MAX_COUNT,
    check: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Play `episodes` whole episodes with mean weights.

    Args:
        env: the environment.
        policy: what plays.
        episodes: how many.
        key: of the episodes.
        max_steps: steps after which an episode is truncated.
        check: called every now and then; it may raise to leave the evaluation.

    Raises:
        EnvironmentFailedError: an environment of Gymnasium failed.
    """
    if isinstance(env, HostEnvironment):
        seed = int(jax.random.bits(key))
        return _evaluate_host(env, policy, episodes, seed, max_steps, check)
    played = _evaluate_device(env, policy, episodes, key, max_steps, check)
    truncated = int(np.sum(~np.asarray(played.over)))
    counts = {name: int(np.sum(count)) for name, count in played.counts.items()}
    returns = tuple(float(x) for x in np.asarray(played.returns))
    if not {"caught", "missed"} <= counts.keys():
        return Evaluation(returns, truncated)
    fruit = counts["caught"] + counts["missed"]
    return Evaluation(returns, truncated, counts["caught"] / max(fruit, 1))


def evaluation_programs(
    env: DeviceEnvironment | HostEnvironment, policy: Policy, episodes: int
) -> tuple[Program[Any], ...]:
    """What `evaluate` runs for policies like `policy`, to be compiled before."""
    if isinstance(env, HostEnvironment):
        return (greedy_program(policy, env.spec.observation, min(episodes, SIDE_BY_SIDE)),)
    return _device_programs(env, episodes, *policy_shapes(policy))


# Environments in JAX


class _Playing(NamedTuple):
    key: PRNGKeyArray
    env_states: Any
    time_step: TimeStep
    stack: Shaped[Array, "episodes ..."]
    steps: Int[Array, ""]
    over: Bool[Array, " episodes"]
    returns: Float[Array, " episodes"]
    counts: dict[str, Array]


class _DevicePrograms(NamedTuple):
    begin: Program[_Playing]  # of policy and key
    play: Program[_Playing]  # of policy, playing and the step to end at


def policy_shapes(policy: Policy) -> tuple[Any, tuple[jax.ShapeDtypeStruct, ...]]:
    """The structure of a policy, and shapes and types of its arrays."""
    leaves, structure = jax.tree.flatten(policy)
    return structure, tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves)


@lru_cache(maxsize=8)
def _device_programs(
    env: DeviceEnvironment,
    episodes: int,
    structure: Any,
    leaves: tuple[jax.ShapeDtypeStruct, ...],
) -> _DevicePrograms:
    policy: Policy = jax.tree.unflatten(structure, leaves)
    key = jax.ShapeDtypeStruct((), jax.random.key(0).dtype)
    begin: Program[_Playing] = Program(
        "evaluation", partial(_begin, env, episodes), lambda: (policy, key), runs="once"
    )
    count = jax.ShapeDtypeStruct((), jnp.int32)
    play = partial(_play, env)
    return _DevicePrograms(
        begin, Program("evaluation", play, lambda: (policy, begin.shapes, count), donate=(1,))
    )


def _evaluate_device(
    env: DeviceEnvironment,
    policy: Policy,
    episodes: int,
    key: PRNGKeyArray,
    max_steps: int,
    check: Callable[[], None],
) -> _Playing:
    """Play in parts that take a fraction of a second, as nothing can interrupt a compiled call."""
    made = _device_programs(env, episodes, *policy_shapes(policy))
    playing, part = made.begin(policy, key), 1
    while (steps := int(playing.steps)) < max_steps and not np.all(playing.over):
        check()
        before = time.perf_counter()
        end = min(steps + part, max_steps)
        playing = jax.block_until_ready(made.play(policy, playing, np.int32(end)))
        seconds = time.perf_counter() - before
        part = min(4 * part, math.ceil(part * PART_SECONDS / seconds))
    return playing


def _begin(env: DeviceEnvironment, episodes: int, policy: Policy, key: PRNGKeyArray) -> _Playing:
    vector = VectorEnvironment(env, env.default_params, episodes)
    key, reset_key = jax.random.split(key)
    env_states, time_step = vector.reset(reset_key)
    return _Playing(
        key=key,
        env_states=env_states,
        time_step=time_step,
        stack=frames.start(time_step.observation, policy.frames),
        steps=jnp.int32(0),
        over=jnp.zeros(episodes, jnp.bool_),
        returns=jnp.zeros(episodes, jnp.float32),
        counts=jax.tree.map(jnp.zeros_like, time_step.info),
    )


def _play(env: DeviceEnvironment, policy: Policy, playing: _Playing, end: Array) -> _Playing:
    """Play in lockstep until the last episode is over, or up to step `end`."""
    episodes = len(playing.over)
    vector = VectorEnvironment(env, env.default_params, episodes)
    no_restart = jnp.zeros(episodes, jnp.bool_)

    def step(playing: _Playing) -> _Playing:
        key, step_key = jax.random.split(playing.key)
        seen = policy.preprocess(playing.stack)
        actions = act(policy.network, seen, None)
        env_states, time_step = vector.step(step_key, playing.env_states, actions, no_restart)
        counted = ~playing.over
        observation = time_step.observation
        return _Playing(
            key=key,
            env_states=env_states,
            time_step=time_step,
            stack=frames.push(playing.stack, observation, no_restart, policy.frames),
            steps=playing.steps + 1,
            over=playing.over | time_step.last,
            returns=playing.returns + counted * time_step.reward,
            counts=jax.tree.map(
                lambda total, x: total + counted * x, playing.counts, time_step.info
            ),
        )

    return jax.lax.while_loop(
        lambda playing: ~jnp.all(playing.over) & (playing.steps < end), step, playing
    )


# Environments of Gymnasium


def _greedy(
    policy: Policy,
    stack: Shaped[Array, "envs ..."],
    observation: Shaped[Array, "envs ..."],
    started: Bool[Array, " envs"],
) -> tuple[Shaped[Array, "envs ..."], Int[Array, " envs"], Float[Array, "envs actions"]]:
    """Take in observations and choose; returns stack, actions and values under mean weights."""
    stack = frames.push(stack, observation, started, policy.frames)
    q = jax.vmap(policy.network, in_axes=(0, None))(policy.preprocess(stack), None)
    return stack, jnp.argmax(q, axis=-1).astype(jnp.int32), q


greedy = jax.jit(_greedy)


def greedy_program(
    policy: Policy, observation: jax.ShapeDtypeStruct, num_envs: int
) -> Program[tuple[Array, Array, Array]]:
    """`greedy` for policies like `policy` in some environments in lockstep."""
    seen = jax.ShapeDtypeStruct((num_envs, *observation.shape), observation.dtype)
    stack = jax.eval_shape(partial(frames.start, frames=policy.frames), seen)
    started = jax.ShapeDtypeStruct((num_envs,), jnp.bool_)
    return program_for("evaluation", _greedy, policy, stack, seen, started)


def play(
    vector: HostVector, policy: Policy, seed: int
) -> Iterator[tuple[TimeStep, np.ndarray, np.ndarray]]:
    """Play with mean weights, without end.

    Yields each time step with the actions [envs] chosen on it and the values [envs, A].
    """
    choose = greedy_program(policy, vector.spec.observation, vector.num_envs)
    time_step = vector.reset(seed)
    started = np.ones(vector.num_envs, bool)
    stack = frames.start(jnp.asarray(time_step.observation), policy.frames)
    while True:
        stack, actions, q = choose(policy, stack, time_step.observation, started)
        yield time_step, np.asarray(actions), np.asarray(q)
        started = np.asarray(time_step.last)
        time_step = vector.step(np.asarray(actions))


def _evaluate_host(
    env: HostEnvironment,
    policy: Policy,
    episodes: int,
    seed: int,
    max_steps: int,
    check: Callable[[], None],
) -> Evaluation:
    """Each environment plays its share of the episodes.

    An id's own vector knows no limit and plays on where an episode is cut. What it plays there
    counts again once that episode has ended, or after a reset, when nothing else is left to play.
    """
    vector = env.vector(min(episodes, SIDE_BY_SIDE), max_steps=max_steps, fewer=True)
    size = vector.num_envs
    left = np.array([len(range(i, episodes, size)) for i in range(size)])
    returns: list[float] = []
    truncated = 0
    try:
        while left.any():
            over, beyond = np.ones(size, bool), np.zeros(size, bool)
            running, length = np.zeros(size), np.zeros(size, int)
            for time_step, _, _ in play(vector, policy, seed):
                check()
                running = np.where(over, 0, running) + time_step.reward
                length = np.where(over, 0, length + 1)
                over = np.asarray(time_step.last)
                limited = ~beyond & (length >= max_steps)
                ended = (over | limited) & ~beyond & (left > 0)
                returns += running[ended].tolist()
                truncated += int((ended & limited & ~np.asarray(time_step.terminated)).sum())
                left -= ended
                beyond = (beyond | limited) & ~over
                if np.all((left == 0) | beyond):
                    break
                if np.any(ended & (left == 0)):
                    vector.rest(left == 0)
            seed += 1
    finally:
        vector.close()
    return Evaluation(tuple(returns), truncated)
