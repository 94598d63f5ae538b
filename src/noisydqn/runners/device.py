"""The device runner: environments, acting, replay and learning as one compiled program.

`run(config, env, keys)` is a generator of chunks. All arrays of its state have a leading axis of
seeds; seeds are trained side by side with `vmap`.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Generator, Iterator
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from noisydqn.checkpoint.reader import Checkpoint
from noisydqn.checkpoint.snapshot import Snapshot
from noisydqn.compilation import Compiler, Program
from noisydqn.config.config import Config
from noisydqn.envs.device import DeviceEnvironment, VectorEnvironment
from noisydqn.learner.agent import Agent, Metrics
from noisydqn.runners.core import Core, Probe, TrainingState, program_key
from noisydqn.runners.report import Chunk, Episode, SeedChunk, seed_chunk
from noisydqn.runs.stop import Stop
from noisydqn.trees import Flat, structs
from noisydqn.types import Row


class DeviceState(NamedTuple):
    """Everything a run on the device needs to go on."""

    training: TrainingState
    env_states: Any
    episode_return: Float[Array, " envs"]  # of the episodes under way
    episode_length: Int[Array, " envs"]


class ChunkLog(NamedTuple):
    """What happened in a chunk, on the device. Rows of steps not made yet mean nothing."""

    ended: Bool[Array, "steps envs"]
    episode_return: Float[Array, "steps envs"]
    episode_length: Int[Array, "steps envs"]
    sums: Flat[Metrics]  # over all updates


class ChunkEnd(NamedTuple):
    """What is looked at after a chunk."""

    updates: Int[Array, ""]  # since the start
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
        vector = VectorEnvironment(env, config.num_envs)
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

    def empty_log(self) -> ChunkLog:
        """The log of a chunk before its first step."""
        shape = (self.vector_steps, self.config.num_envs)
        return ChunkLog(
            ended=jnp.zeros(shape, jnp.bool_),
            episode_return=jnp.zeros(shape, jnp.float32),
            episode_length=jnp.zeros(shape, jnp.int32),
            sums=Agent.no_metrics(),
        )

    def advance(
        self,
        state: DeviceState,
        log: ChunkLog,
        step: Int[Array, ""],
        start: Int[Array, ""],
        number: Int[Array, ""],
    ) -> tuple[DeviceState, ChunkLog]:
        """Run a part of a chunk: `number` steps of all environments, from its step `start` on.

        `step` counts environment steps before the chunk. A chunk gives the same bits in one part
        as in many.
        """
        sums = log.sums.with_vector(jnp.where(start == 0, 0, log.sums.vector))

        def body(
            i: Int[Array, ""], carry: tuple[DeviceState, ChunkLog]
        ) -> tuple[DeviceState, ChunkLog]:
            state, log = carry
            state, sums = self.step(state, step + i * self.config.num_envs, log.sums)
            return state, ChunkLog(
                ended=log.ended.at[i].set(state.training.time_step.last),
                episode_return=log.episode_return.at[i].set(state.episode_return),
                episode_length=log.episode_length.at[i].set(state.episode_length),
                sums=sums,
            )

        return jax.lax.fori_loop(start, start + number, body, (state, log._replace(sums=sums)))

    def end(self, state: DeviceState) -> tuple[DeviceState, ChunkEnd]:
        """Look at the noise after a chunk."""
        training, probe = self.core.probe(state.training)
        return state._replace(training=training), ChunkEnd(training.learner.updates, probe)

    @property
    def vector_steps(self) -> int:
        """Steps of all environments in a whole chunk."""
        return max(self.config.chunk_steps // self.config.num_envs, 1)


class DevicePrograms(NamedTuple):
    """A runner and its functions, compiled for a number of seeds."""

    runner: DeviceRunner
    init: Program[tuple[DeviceState, ChunkLog]]  # of keys
    advance: Program[tuple[DeviceState, ChunkLog]]  # of state, log, step, start, number
    end: Program[tuple[DeviceState, ChunkEnd]]  # of state

    def start(self, compiler: Compiler) -> Program[Any]:
        """Compile all; returns the one that takes longest."""
        compiler.start(self.advance, self.init, self.end)
        return self.advance


@lru_cache(maxsize=8)
def programs(config: Config, env: DeviceEnvironment, num_seeds: int) -> DevicePrograms:
    """The programs of `config.of_program`; kept, so that a second run compiles nothing."""
    runner = DeviceRunner.create(config, env)

    def start(key: PRNGKeyArray) -> tuple[DeviceState, ChunkLog]:
        return runner.init(key), runner.empty_log()

    keys = jax.ShapeDtypeStruct((num_seeds,), jax.random.key(0).dtype)
    of_env = env.cache_key
    key = None if of_env is None else program_key(config, of_env, num_seeds)
    init = Program("start", jax.vmap(start), lambda: (keys,), runs="once", key=key)
    advance = _of_seeds(runner.advance, num_seeds, 2)
    end = _of_seeds(runner.end, num_seeds, 1)
    count = jax.ShapeDtypeStruct((), jnp.int32)

    def shapes() -> tuple[Any, ...]:
        return *init.shapes, count, count, count

    return DevicePrograms(
        runner,
        init,
        Program("training", advance, shapes, donate=(0, 1), key=key),
        Program("noise", end, lambda: init.shapes[:1], donate=(0,), runs="seldom", key=key),
    )


def _of_seeds(function: Callable[..., Any], num_seeds: int, states: int) -> Callable[..., Any]:
    """A function of one seed for several: its first `states` arguments have an axis of seeds."""

    def of_several(*args: Any) -> Any:
        axes = [0] * states + [None] * (len(args) - states)
        return jax.vmap(function, in_axes=axes)(*args)

    def of_one(*args: Any) -> Any:
        # A batch of one costs time in every product; without it nothing is copied.
        one = jax.tree.map(lambda x: x[0], args[:states])
        return jax.tree.map(lambda x: x[None], function(*one, *args[states:]))

    return of_several if num_seeds > 1 else of_one


PART_SECONDS = 0.5
"""About how long one call runs, which nothing can interrupt."""


def run(
    config: Config,
    env: DeviceEnvironment,
    keys: PRNGKeyArray,
    checkpoint: Checkpoint | None = None,
    *,
    stop: Stop | None = None,
    compiler: Compiler | None = None,
) -> Generator[Chunk]:
    """Train, and yield after each chunk of steps until the steps or updates are used up.

    Args:
        config: the options. Its `seed` is not used here: `keys` stand for it.
        env: the environment to train on.
        keys: a key for each seed.
        checkpoint: where to resume; None starts anew.
        stop: if it is asked for, an unfinished chunk is yielded and training ends.
        compiler: compiles the programs; None compiles them here.

    Raises:
        UserError: the checkpoint does not fit the config.
        StoppedError: a stop was asked for before the first step.
    """
    made = programs(config.of_program, env, len(keys))
    if compiler is not None:
        compiler.wait(made.advance, made.init)
    training = _Run(config, made, keys, stop or Stop())
    if checkpoint is not None:
        training.restore(checkpoint)
    yield from training.chunks()


class _Run:
    """A run under way."""

    def __init__(
        self, config: Config, made: DevicePrograms, keys: PRNGKeyArray, stop: Stop
    ) -> None:
        self.config, self.made, self.stop = config, made, stop
        self.state, self.log = made.init(keys)
        self.layers = made.runner.core.noisy_layers
        self.done = 0  # steps of all environments before the chunk under way
        self.start = 0  # of it, those that are made
        self.updates = np.zeros(len(keys), np.int64)  # before the chunk under way
        self._most = 1  # steps in the next part

    @property
    def steps(self) -> int:
        """Environment steps since the start."""
        return (self.done + self.start) * self.config.num_envs

    def chunks(self) -> Iterator[Chunk]:
        """Train to the end of the budget, or until a stop is asked for."""
        config, total = self.config, self.config.total_steps // self.config.num_envs
        limit = math.inf if config.max_updates is None else config.max_updates
        while self.done < total and self.updates.min() < limit:
            if not self._advance(min(self.made.runner.vector_steps, total - self.done)):
                yield self._chunk([])
                return
            yield self._chunk(self._end())

    def _advance(self, number: int) -> bool:
        """Make the rest of a chunk of `number` steps; returns whether all of it was made.

        The parts are as long as the last one's time allows. One ends where learning starts.
        """
        num_envs = self.config.num_envs
        learning = math.ceil(self.config.first_learning_step / num_envs) - self.done - 1
        while self.start < number:
            if self.stop.asked:
                return False
            end = learning if self.start < learning < number else number
            part = min(self._most, end - self.start)
            before = time.perf_counter()
            self.state, self.log = self.made.advance(
                self.state,
                self.log,
                np.int32(self.done * num_envs),
                np.int32(self.start),
                np.int32(part),
            )
            jax.block_until_ready(self.log)
            seconds = time.perf_counter() - before
            self.start += part
            self._most = min(4 * part, math.ceil(part * PART_SECONDS / seconds))
            if self.start == learning:
                self._most = 1  # steps take longer from here on
        return True

    def _end(self) -> list[SeedChunk]:
        """Close the chunk; returns what each seed did in it."""
        self.state, end = self.made.end(self.state)
        log, end = jax.tree.map(np.asarray, (self.log, end))
        seeds: list[SeedChunk] = []
        for i, updates in enumerate(end.updates):
            of_seed: ChunkLog = jax.tree.map(lambda x, i=i: x[i], log)
            probe: Probe = jax.tree.map(lambda x, i=i: x[i], end.probe)
            made = int(updates - self.updates[i])
            episodes = self._episodes(of_seed)
            seeds.append(seed_chunk(int(updates), made, episodes, of_seed.sums, probe, self.layers))
        self.done, self.start = self.done + self.start, 0
        self.updates = np.array(end.updates, np.int64)
        return seeds

    def _episodes(self, log: ChunkLog) -> list[Episode]:
        return [
            Episode(
                step=(self.done + int(i) + 1) * self.config.num_envs,
                episode_return=float(log.episode_return[i, e]),
                length=int(log.episode_length[i, e]),
            )
            for i, e in np.argwhere(log.ended[: self.start])
        ]

    def _chunk(self, seeds: list[SeedChunk]) -> Chunk:
        policy = partial(self.made.runner.core.copy_policy, self.state.training)
        return Chunk(self.steps, seeds, self.state, policy, self.snapshot)

    # Stopping and resuming

    def snapshot(self) -> Snapshot:
        """All that is needed to resume here, be it in the middle of a chunk."""
        arrays = {
            "counts": np.array([self.done, self.start]),
            "updates": self.updates,
            "log": self.log,
            "state": _with_rows(self.state, None),
        }
        return Snapshot(arrays, self.state.training.replay.rows, 1, self.done + self.start)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Resume from a checkpoint."""
        checkpoint.check_rows(self.state.training.replay.rows, 1)
        state = checkpoint.read("state", structs(_with_rows(self.state, None)))
        self.log = checkpoint.read("log", structs(self.log))
        self.done, self.start = map(int, checkpoint.read("counts", np.zeros(2, np.int64)))
        self.updates = np.array(checkpoint.read("updates", self.updates))
        rows = checkpoint.read_rows(self.state.training.replay.rows, 1)
        self.state = _with_rows(state, rows)


def _with_rows(state: DeviceState, rows: Row | None) -> DeviceState:
    return state._replace(training=state.training.with_rows(rows))
