"""The device runner: environments, acting, replay and learning as one compiled program.

`run(config, env, keys)` is a generator of chunks. All arrays of its state have a leading axis of
seeds; seeds are trained side by side with `vmap`.
"""

import dataclasses
from collections.abc import Callable, Generator
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from noisydqn.agent import Agent, Metrics
from noisydqn.build import Policy
from noisydqn.checkpoint.reader import Checkpoint
from noisydqn.checkpoint.snapshot import Snapshot
from noisydqn.config import Config
from noisydqn.envs.device import DeviceEnvironment, VectorEnvironment
from noisydqn.flat import Flat
from noisydqn.training.core import Core, Probe, TrainingState
from noisydqn.training.report import Chunk, Episode, SeedChunk, seed_chunk
from noisydqn.types import Row


class DeviceState(NamedTuple):
    """Everything a run on the device needs to go on."""

    training: TrainingState
    env_states: Any
    episode_return: Float[Array, " envs"]  # of the episodes under way
    episode_length: Int[Array, " envs"]


class ChunkLog(NamedTuple):
    """What happened in a chunk, on the device. Rows beyond the chunk's steps are zero."""

    ended: Bool[Array, "steps envs"]
    episode_return: Float[Array, "steps envs"]
    episode_length: Int[Array, "steps envs"]
    sums: Flat[Metrics]  # over all updates
    updates: Int[Array, ""]  # made in this chunk
    probe: Probe


@dataclasses.dataclass(frozen=True)
class DeviceRunner:
    """The compiled program of a run and the parts that it is made of."""

    config: Config
    core: Core
    vector: VectorEnvironment

    @staticmethod
    def create(config: Config, env: DeviceEnvironment) -> "DeviceRunner":
        """The runner of a config on an environment."""
        vector = VectorEnvironment(env, env.default_params, config.num_envs)
        return DeviceRunner(config, Core.create(config, vector.spec), vector)

    def init(self, key: PRNGKeyArray) -> DeviceState:
        """The state of one seed before its first step."""
        env_key, training_key = jax.random.split(key)
        env_states, time_step = self.vector.reset(env_key)
        return DeviceState(
            training=self.core.observe(self.core.init(training_key), time_step),
            env_states=env_states,
            episode_return=jnp.zeros(self.config.num_envs),
            episode_length=jnp.zeros(self.config.num_envs, jnp.int32),
        )

    def step(
        self, state: DeviceState, step: Int[Array, ""], sums: Flat[Metrics]
    ) -> tuple[DeviceState, Flat[Metrics]]:
        """Act, step every environment once, and make the updates that are due.

        `step` counts environment steps before this one; `sums` adds up the updates' metrics.
        """
        training, actions = self.core.act(state.training, step)
        key, env_key = jax.random.split(training.key)
        started = training.time_step.last
        env_states, time_step = self.vector.step(env_key, state.env_states, actions, started)
        training = self.core.observe(training._replace(key=key), time_step)
        due = self.core.updates_due(step, jnp.sum(time_step.last, dtype=jnp.int32))
        allowed = self._allowed(training, step, due)
        training, sums = self.core.learn(training, due, allowed, sums)
        state = DeviceState(
            training=training,
            env_states=env_states,
            episode_return=jnp.where(started, 0, state.episode_return) + time_step.reward,
            episode_length=jnp.where(started, 0, state.episode_length + 1),
        )
        return state, sums

    def _allowed(
        self, state: TrainingState, step: Int[Array, ""], due: Int[Array, ""]
    ) -> Int[Array, ""]:
        steps_done = step + self.config.num_envs
        allowed = jnp.where(steps_done >= self.config.first_learning_step, due, 0)
        if self.config.max_updates is None:
            return allowed
        return jnp.minimum(allowed, self.config.max_updates - state.learner.updates)

    def chunk(
        self, state: DeviceState, step: Int[Array, ""], number: Int[Array, ""]
    ) -> tuple[DeviceState, ChunkLog]:
        """Run `number` steps of all environments, at most `chunk_steps` in all."""
        shape = (self.vector_steps, self.config.num_envs)
        updates_before = state.training.learner.updates
        sums = Agent.no_metrics()
        episodes = (jnp.zeros(shape, jnp.bool_), jnp.zeros(shape), jnp.zeros(shape, jnp.int32))

        def body(
            i: Int[Array, ""],
            carry: tuple[DeviceState, tuple[Array, Array, Array], Flat[Metrics]],
        ):
            state, (ended, returns, lengths), sums = carry
            state, sums = self.step(state, step + i * self.config.num_envs, sums)
            episodes = (
                ended.at[i].set(state.training.time_step.last),
                returns.at[i].set(state.episode_return),
                lengths.at[i].set(state.episode_length),
            )
            return state, episodes, sums

        state, episodes, sums = jax.lax.fori_loop(0, number, body, (state, episodes, sums))
        training, probe = self.core.probe(state.training)
        updates = training.learner.updates - updates_before
        ended, returns, lengths = episodes
        return state._replace(training=training), ChunkLog(
            ended=ended,
            episode_return=returns,
            episode_length=lengths,
            sums=sums,
            updates=updates,
            probe=probe,
        )

    @property
    def vector_steps(self) -> int:
        """Steps of all environments in a whole chunk."""
        return max(self.config.chunk_steps // self.config.num_envs, 1)


class _Program(NamedTuple):
    """A runner and its two functions, compiled at their first call."""

    runner: DeviceRunner
    init: Callable[[PRNGKeyArray], DeviceState]
    chunk: Callable[[DeviceState, Array, Array], tuple[DeviceState, ChunkLog]]


@lru_cache(maxsize=8)
def _program(config: Config, env: DeviceEnvironment) -> _Program:
    """Kept, so that training again in one process, with another seed, compiles nothing."""
    runner = DeviceRunner.create(config, env)
    chunk = jax.jit(partial(_chunk_of_seeds, runner), donate_argnums=0)
    return _Program(runner, jax.jit(jax.vmap(runner.init)), chunk)


def run(
    config: Config,
    env: DeviceEnvironment,
    keys: PRNGKeyArray,
    checkpoint: Checkpoint | None = None,
) -> Generator[Chunk]:
    """Train, and yield after each chunk of steps until the steps or updates are used up.

    Args:
        config: the options. Its `seed` is not used here: `keys` stand for it.
        env: the environment to train on.
        keys: a key for each seed.
        checkpoint: where to go on from; None starts anew.

    Raises:
        UserError: the checkpoint does not fit the config.
    """
    program = _program(config.of_program, env)
    runner = program.runner
    num_seeds = len(keys)
    total = config.total_steps // config.num_envs
    done, updates = 0, np.zeros(num_seeds, np.int64)
    if checkpoint is None:
        state = program.init(keys)
    else:
        state, done, updates = _restore(program, keys, checkpoint)
    while done < total and (config.max_updates is None or updates.min() < config.max_updates):
        number = min(runner.vector_steps, total - done)
        state, log = program.chunk(state, jnp.int32(done * config.num_envs), jnp.int32(number))
        log = jax.tree.map(np.asarray, log)
        updates += log.updates
        seeds = [
            _seed_chunk(jax.tree.map(lambda x, i=i: x[i], log), state, done, int(updates[i]))
            for i in range(num_seeds)
        ]
        done += number
        policy = partial(_policy, runner.core, state.training)
        snapshot = partial(_snapshot, state, done, updates.copy())
        yield Chunk(done * config.num_envs, seeds, state, policy, snapshot)


def _with_rows(state: DeviceState, rows: Row | None) -> DeviceState:
    return state._replace(training=state.training.with_rows(rows))


def _snapshot(state: DeviceState, done: int, updates: np.ndarray) -> Snapshot:
    arrays = {"done": np.array(done), "updates": updates, "state": _with_rows(state, None)}
    return Snapshot(arrays, state.training.replay.rows, 1, done)


def _restore(
    program: "_Program", keys: PRNGKeyArray, checkpoint: Checkpoint
) -> tuple[DeviceState, int, np.ndarray]:
    """State, vector steps and updates of a checkpoint."""
    like = jax.eval_shape(program.init, keys)
    checkpoint.check_rows(like.training.replay.rows, 1)
    state = checkpoint.read("state", _with_rows(like, None))
    done = int(checkpoint.read("done", np.array(0)))
    updates = np.array(checkpoint.read("updates", np.zeros(len(keys), np.int64)))
    rows = checkpoint.read_rows(program.init(keys).training.replay.rows, 1)
    return _with_rows(state, rows), done, updates


def _policy(core: Core, training: TrainingState, index: int) -> Policy:
    return jax.tree.map(lambda x: x[index], core.policy(training))


def _chunk_of_seeds(
    runner: DeviceRunner, state: DeviceState, step: Int[Array, ""], number: Int[Array, ""]
) -> tuple[DeviceState, ChunkLog]:
    if len(state.episode_return) > 1:
        return jax.vmap(runner.chunk, in_axes=(0, None, None))(state, step, number)
    # A batch of one costs time in every product; without it nothing is copied.
    one = runner.chunk(jax.tree.map(lambda x: x[0], state), step, number)
    return jax.tree.map(lambda x: x[None], one)


def _seed_chunk(log: ChunkLog, state: DeviceState, done: int, updates: int) -> SeedChunk:
    envs = log.ended.shape[1]
    episodes = [
        Episode(
            step=(done + int(i) + 1) * envs,
            episode_return=float(log.episode_return[i, e]),
            length=int(log.episode_length[i, e]),
        )
        for i, e in np.argwhere(log.ended)
    ]
    network = state.training.learner.online.tree
    return seed_chunk(updates, int(log.updates), episodes, log.sums, log.probe, network)
