"""Tiny environments with known answers."""

from collections.abc import Generator
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from noisydqn import Config
from noisydqn.envs.device import DeviceEnvironment
from noisydqn.envs.jax_interface import JaxEnvironment
from noisydqn.learner.agent import acting_values
from noisydqn.nets.network import QNetwork
from noisydqn.runners import device, host, host_programs
from noisydqn.runners.report import Chunk

SMALL = Config(
    torso="flat",
    updates_per_step=0.125,
    hidden=(8,),
    num_envs=2,
    n_step=2,
    batch_size=4,
    replay_capacity=40,
    steps=100,
    chunk_steps=20,
    learning_starts=0,
)
"""A config for runs of a few steps."""


adapted = lru_cache(DeviceEnvironment.create)
"""The adapter of an environment, the same one for the same: its programs are compiled once."""


def train(config: Config, env: JaxEnvironment) -> list[device.Chunk]:
    """All chunks of a run, each seed's key its own."""
    seeds = range(config.run.seed, config.run.seed + config.run.num_seeds)
    keys = jnp.stack([jax.random.key(seed) for seed in seeds])
    return list(run_device(config, adapted(env), keys))


Outcome = tuple[jax.Array, Any, jax.Array, jax.Array, dict[str, jax.Array]]
"""What `step_env` returns: observation, state, reward, terminated, info."""


class CountState(NamedTuple):
    time: jax.Array
    length: jax.Array
    action: jax.Array


class CountingEnv:
    """Shows (time, length of the episode, last action); the reward of a step is the new time.

    An episode has one of `lengths`, sampled at its start. The shorter kind terminates, the longer
    one is truncated.
    """

    num_actions = 2
    default_params = None

    def __init__(self, lengths: tuple[int, int] = (3, 5)) -> None:
        self.lengths = lengths

    def observe(self, state: CountState) -> jax.Array:
        return jnp.stack([state.time, state.length, state.action]).astype(jnp.float32)

    def reset_env(self, key: jax.Array, params: Any) -> tuple[jax.Array, CountState]:
        del params
        length = jax.random.choice(key, jnp.asarray(self.lengths, jnp.int32))
        state = CountState(jnp.int32(0), length, jnp.int32(-1))
        return self.observe(state), state

    def step_env(
        self, key: jax.Array, state: CountState, action: jax.Array, params: Any
    ) -> Outcome:
        del key, params
        state = CountState(state.time + 1, state.length, action)
        terminated = (state.time == state.length) & (state.length == min(self.lengths))
        return self.observe(state), state, state.time.astype(jnp.float32), terminated, {}

    def is_truncated(self, state: CountState, params: Any) -> jax.Array:
        del params
        return state.time == state.length


class ProbeState(NamedTuple):
    time: jax.Array
    shown: jax.Array
    reward: jax.Array


class Probe:
    """A probe: `length` steps, a cue of -1 or 1 shown at the start, a reward at the end.

    Args:
        length: steps of an episode.
        cue: whether the cue is random; else it is 1.
        kind: "constant": the reward is 1; "cue": it is the cue, "three cues":
            three times that; "match": it is 1 if the last
            action matches the cue's sign (action 1 for cue 1), else -1; "better": it is 1 for
            action 1 and 0.5 for action 0, so that greed stays with what it tried first.
    """

    num_actions = 2
    default_params = None

    def __init__(self, length: int, *, cue: bool, kind: str) -> None:
        self.length, self.cue, self.kind = length, cue, kind

    def observe(self, state: ProbeState) -> jax.Array:
        return jnp.stack([state.shown, state.time.astype(jnp.float32)])

    def reset_env(self, key: jax.Array, params: Any) -> tuple[jax.Array, ProbeState]:
        del params
        sign = jnp.where(jax.random.bernoulli(key), 1.0, -1.0)
        state = ProbeState(jnp.int32(0), sign if self.cue else jnp.float32(1), jnp.float32(0))
        return self.observe(state), state

    def step_env(
        self, key: jax.Array, state: ProbeState, action: jax.Array, params: Any
    ) -> Outcome:
        del key, params
        over = state.time + 1 == self.length
        if self.kind == "constant":
            reward = jnp.float32(1)
        elif self.kind == "cue":
            reward = state.shown
        elif self.kind == "three cues":
            reward = 3 * state.shown
        elif self.kind == "better":
            reward = jnp.where(action == 1, 1.0, 0.5)
        else:
            reward = jnp.where((action == 1) == (state.shown > 0), 1.0, -1.0)
        state = state._replace(time=state.time + 1)
        return self.observe(state), state, jnp.where(over, reward, 0.0), over, {}

    def is_truncated(self, state: ProbeState, params: Any) -> jax.Array:
        del state, params
        return jnp.bool_(False)


def run_device(config: Config, env: Any, keys: Any, *args: Any, **options: Any) -> Generator[Chunk]:
    """Run the device runner with the options of a config."""
    made = device.programs(config.program, env, len(keys))
    return device.run(made, keys, config.total_steps, *args, **options)


def run_host(config: Config, env: Any, key: Any, *args: Any, **options: Any) -> Generator[Chunk]:
    """Run the host runner with the options of a config."""
    made = host_programs.programs(config.program, env.spec)
    return host.run(made, env, key, config.total_steps, *args, **options)


def act(network: QNetwork, observations: jax.Array, noise: Any) -> jax.Array:
    """Choose the greedy actions under a noise sample; None uses the mean weights."""
    return jnp.argmax(acting_values(network, observations, noise), axis=-1).astype(jnp.int32)
