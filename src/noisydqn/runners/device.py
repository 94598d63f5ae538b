"""The device runner: environments, acting, replay and learning as one compiled program.

`run(programs, keys, steps)` is a generator of chunks. All arrays of its state have a leading axis
of parts: of seeds, which are trained side by side with `vmap`, or of the shards of a single seed on
several devices (`runners/placement.py`).
"""

import dataclasses
import math
from collections.abc import Generator, Iterator
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from noisydqn.checkpoint.reader import Checkpoint
from noisydqn.checkpoint.snapshot import Snapshot
from noisydqn.compilation import Compiler, Pace, Program
from noisydqn.envs.device import DeviceEnvironment
from noisydqn.envs.device_vector import STUCK, VectorEnvironment, stuck_error
from noisydqn.errors import EnvironmentFailedError
from noisydqn.learner.gradient import Metrics, no_metrics
from noisydqn.program_cache import Device
from noisydqn.runners.core import Beginning, Core, program_key
from noisydqn.runners.cores import make_core
from noisydqn.runners.options import AnyProgram
from noisydqn.runners.placement import Divided, Placement
from noisydqn.runners.probe import Probe
from noisydqn.runners.report import Chunk, Episode, SeedChunk, seed_chunk
from noisydqn.runners.stop import Stop
from noisydqn.shards import ONE, Shards
from noisydqn.trees import Flat, structs
from noisydqn.types import Row, TimeStep


class DeviceState(NamedTuple):
    """Everything a run on the device needs to resume."""

    training: Any  # the `TrainingState` of its learner
    env_states: Any
    episode_return: Float[Array, " envs"]  # of the episodes under way
    episode_length: Int[Array, " envs"]
    episode_counts: dict[str, Float[Array, " envs"]]  # those that the environment declares
    stuck: Int[Array, " envs"] | None = None  # steps before it had no valid action, -1 if it has


class ChunkLog(NamedTuple):
    """The events of a chunk, on the device. Rows of steps not made yet are to be ignored."""

    ended: Bool[Array, "steps envs"]
    episode_return: Float[Array, "steps envs"]
    episode_length: Int[Array, "steps envs"]
    episode_counts: dict[str, Float[Array, "steps envs"]]
    sums: Flat[Metrics]  # over all updates


class ChunkEnd(NamedTuple):
    """The measurements after a chunk."""

    updates: Int[Array, ""]  # since the start
    probe: Probe


@dataclasses.dataclass(frozen=True)
class DeviceRunner:
    """The compiled program of a run and the parts that it is made of, on each of its devices."""

    core: Core
    vector: VectorEnvironment
    vector_steps: int  # steps of all environments in a whole chunk

    @staticmethod
    def create(options: AnyProgram, env: DeviceEnvironment, shards: Shards = ONE) -> "DeviceRunner":
        """Make the runner of a program on an environment."""
        vector = VectorEnvironment(env, shards.part(options.runner.num_envs))
        core = make_core(options, vector.spec, shards)
        return DeviceRunner(core, vector, options.runner.vector_steps)

    @property
    def num_envs(self) -> int:
        """Environments that step in lockstep, on all devices."""
        return self.vector.num_envs * self.shards.number

    @property
    def shards(self) -> Shards:
        """The devices that share a seed."""
        return self.core.acting.shards

    @property
    def counts(self) -> tuple[str, ...]:
        """The names of what is counted over each episode."""
        return self.vector.env.episode_counts

    def init(self, key: PRNGKeyArray) -> DeviceState:
        """Make the state of one seed before its first step."""
        env_key, training_key = jax.random.split(key)
        env_states, time_step = self.vector.reset(self.shards.own_key(env_key))
        envs = self.vector.num_envs
        return DeviceState(
            training=self.core.observe(self.core.init(training_key), time_step),
            env_states=env_states,
            episode_return=jnp.zeros(envs),
            episode_length=jnp.zeros(envs, jnp.int32),
            episode_counts={name: jnp.zeros(envs) for name in self.counts},
            stuck=self._stuck(None, time_step, 0),
        )

    def _stuck(
        self, before: Int[Array, " envs"] | None, time_step: TimeStep, step: Int[Array, ""] | int
    ) -> Int[Array, " envs"] | None:
        """Note where environments with action masks have no valid action for the first time.

        The time step is reached with the step of all environments after `step` environment steps,
        or by the first reset if there is no `before`.
        """
        if STUCK not in time_step.info:
            return None
        is_stuck = time_step.info[STUCK] > 0
        if before is None:
            return jnp.where(is_stuck, jnp.int32(0), jnp.int32(-1))
        return jnp.where((before < 0) & is_stuck, step + self.num_envs, before)

    def step(
        self, state: DeviceState, step: Int[Array, ""], sums: Flat[Metrics]
    ) -> tuple[DeviceState, Flat[Metrics]]:
        """Act, step every environment once, and make the updates that are due.

        `step` counts environment steps before this one; `sums` adds up the updates' metrics.
        """
        core, schedule = self.core, self.core.schedule
        training, actions = core.act(state.training, step)
        actor = training.actor
        key, env_key = jax.random.split(actor.key)  # environments move with their actor
        started = actor.time_step.last
        env_states, time_step = self.vector.step(env_key, state.env_states, actions, started)
        training = core.observe(training._replace(actor=actor._replace(key=key)), time_step)
        ended = self.shards.total(jnp.sum(time_step.last, dtype=jnp.int32))
        scheduled = schedule.scheduled(step, ended)
        due = schedule.due(scheduled, step, training.learner.updates)
        training, sums = core.learn(training, due, sums)
        training = core.resample(training, scheduled > 0)
        state = DeviceState(
            training=training,
            env_states=env_states,
            episode_return=jnp.where(started, 0, state.episode_return) + time_step.reward,
            episode_length=jnp.where(started, 0, state.episode_length + 1),
            episode_counts={
                name: jnp.where(started, 0, count) + time_step.info[name].astype(jnp.float32)
                for name, count in state.episode_counts.items()
            },
            stuck=self._stuck(state.stuck, time_step, step),
        )
        return state, sums

    def empty_log(self) -> ChunkLog:
        """Make the log of a chunk before its first step."""
        shape = (self.vector_steps, self.vector.num_envs)
        return ChunkLog(
            ended=jnp.zeros(shape, jnp.bool_),
            episode_return=jnp.zeros(shape, jnp.float32),
            episode_length=jnp.zeros(shape, jnp.int32),
            episode_counts={name: jnp.zeros(shape) for name in self.counts},
            sums=no_metrics(),
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
            state, sums = self.step(state, step + i * self.num_envs, log.sums)
            return state, ChunkLog(
                ended=log.ended.at[i].set(state.training.actor.time_step.last),
                episode_return=log.episode_return.at[i].set(state.episode_return),
                episode_length=log.episode_length.at[i].set(state.episode_length),
                episode_counts={
                    name: log.episode_counts[name].at[i].set(count)
                    for name, count in state.episode_counts.items()
                },
                sums=sums,
            )

        return jax.lax.fori_loop(start, start + number, body, (state, log._replace(sums=sums)))

    def end(self, state: DeviceState) -> tuple[DeviceState, ChunkEnd]:
        """Look at the noise after a chunk."""
        training, probe = self.core.probe(state.training)
        return state._replace(training=training), ChunkEnd(training.learner.updates, probe)


class DevicePrograms(NamedTuple):
    """A runner and its functions, compiled for a number of seeds and devices."""

    runner: DeviceRunner
    placement: Placement
    init: Divided[tuple[DeviceState, ChunkLog]]  # of keys
    advance: Divided[tuple[DeviceState, ChunkLog]]  # of state, log, step, start, number
    end: Divided[tuple[DeviceState, ChunkEnd]]  # of state

    def start(self, compiler: Compiler) -> Program[Any]:
        """Compile all; return one of those that take longest."""
        for each in (self.advance, self.init, self.end):
            compiler.start(*each.programs)
        return self.advance.programs[-1]


@lru_cache(maxsize=8)
def programs(options: AnyProgram, env: DeviceEnvironment, num_seeds: int) -> DevicePrograms:
    """Make the programs of a run; kept, so that a second run compiles nothing.

    Raises:
        UserError: there are fewer devices than the options say.
    """
    place = Placement.create(options.runner.devices, num_seeds)
    runner = DeviceRunner.create(options, env, place.shards)

    def start(key: PRNGKeyArray) -> tuple[DeviceState, ChunkLog]:
        return runner.init(key), runner.empty_log()

    starts = jax.vmap(start) if place.shards.number == 1 else place.lift(start, 1)
    advance, end = place.lift(runner.advance, 2), place.lift(runner.end, 1)
    keys = jax.ShapeDtypeStruct((place.parts // len(place.groups),), jax.random.key(0).dtype)
    count = jax.ShapeDtypeStruct((), jnp.int32)

    def on(group: tuple[Device, ...]) -> tuple[Program[Any], Program[Any], Program[Any]]:
        of_env, several = env.cache_key, group if len(place.devices) > 1 else ()
        parts = options, of_env, num_seeds, *(device.id for device in several)
        key = None if of_env is None else program_key(*parts)
        made = partial(Program[Any], key=key, devices=several)
        init = made("start", starts, lambda: (place.structs(keys, group),), runs="once")

        def shapes() -> tuple[Any, ...]:
            number = place.structs(count, group, same=True)
            return *place.structs(init.shapes, group), number, number, number

        return (
            init,
            made("training", advance, shapes, donate=(0, 1), runs=runner.core.runs),
            made("noise", end, lambda: shapes()[:1], donate=(0,), runs="seldom"),
        )

    init, training, noise = zip(*map(on, place.groups), strict=True)
    return DevicePrograms(
        runner,
        place,
        Divided(place, init, 1),
        Divided(place, training, 2),
        Divided(place, noise, 1),
    )


PART_SECONDS = 0.5
"""Seconds, roughly, that one call runs; nothing can interrupt it."""


def run(
    made: DevicePrograms,
    keys: PRNGKeyArray,
    total_steps: int,
    checkpoint: Checkpoint | None = None,
    *,
    begin: Beginning | None = None,
    stop: Stop | None = None,
    compiler: Compiler | None = None,
) -> Generator[Chunk]:
    """Train, and yield after each chunk of steps until the steps or updates are used up.

    Args:
        made: the programs, for as many seeds.
        keys: a key for each seed.
        total_steps: environment steps of the whole run, a multiple of the environments.
        checkpoint: where to resume; None starts anew.
        begin: what a run starts from that is not resumed; None starts from new weights.
        stop: if it is asked for, an unfinished chunk is yielded and training ends.
        compiler: compiles the programs; None compiles them here.

    Raises:
        UserError: the checkpoint does not fit the options.
        EnvironmentFailedError: an environment with action masks had no valid action. The unfinished
            chunk is yielded before.
        StoppedError: a stop was asked for before the first step.
    """
    if compiler is not None:
        compiler.wait(*made.advance.programs, *made.init.programs)
    training = _Run(made, keys, total_steps, stop or Stop())
    if checkpoint is not None:
        training.restore(checkpoint)
    elif begin is not None:
        training.begin(begin)
    yield from training.chunks()


class _Run:
    """A run under way."""

    def __init__(
        self, made: DevicePrograms, keys: PRNGKeyArray, total_steps: int, stop: Stop
    ) -> None:
        self.made, self.stop, self.placement = made, stop, made.placement
        self.core = made.runner.core
        self.num_envs, self.schedule = made.runner.num_envs, self.core.schedule
        self.total_steps = total_steps
        self.chunk_steps = made.runner.vector_steps * self.num_envs
        # The shards of a seed begin with its key, of which each makes its own.
        of_parts = jnp.repeat(keys, self.placement.shards.number)
        self.state, self.log = made.init(self.placement.place(of_parts))
        self.layers = self.core.acting.noisy_layers
        self.inherited = 0  # rows of each environment in the replay buffer before the first step
        self.steps, self.steps_before = 0, 0  # since the start; before the chunk under way
        self.updates_before = np.zeros(len(keys), np.int64)  # of each seed
        self._pace = Pace(PART_SECONDS)

    @property
    def _vector_steps(self) -> int:
        """Steps of all environments in the chunk under way."""
        return (self.steps - self.steps_before) // self.num_envs

    def chunks(self) -> Iterator[Chunk]:
        """Train to the end of the budget, or until a stop is asked for."""
        while self.steps_before < self.total_steps and not self.schedule.exhausted(
            int(self.updates_before.min())
        ):
            whole = self._advance(min(self.steps_before + self.chunk_steps, self.total_steps))
            failure = self._failure()
            if failure is not None or not whole:
                yield self._chunk([])
                if failure is not None:
                    raise failure
                return
            yield self._chunk(self._end())

    def _advance(self, end: int) -> bool:
        """Make the steps up to `end`; return False if a stop or a failure comes before.

        The parts are as long as the last one's time allows. One ends where learning starts.
        """
        num_envs = self.num_envs
        learning = (math.ceil(self.schedule.first_step / num_envs) - 1) * num_envs
        while self.steps < end:
            if self.stop.asked or self._failure() is not None:
                return False
            part_end = learning if self.steps < learning < end else end
            part = min(self._pace.most, (part_end - self.steps) // num_envs)
            with self._pace.timed(part):
                self.state, self.log = self.made.advance(
                    self.state,
                    self.log,
                    np.int32(self.steps_before),
                    np.int32(self._vector_steps),
                    np.int32(part),
                )
                jax.block_until_ready(self.log)
            self.steps += part * num_envs
            if self.steps == learning:
                self._pace = Pace(PART_SECONDS)  # steps take longer from here on
        return True

    def _failure(self) -> EnvironmentFailedError | None:
        """Return what went wrong if an environment had no valid action."""
        if self.state.stuck is None:
            return None
        stuck = np.asarray(self.state.stuck).reshape(-1, self.num_envs)  # [seeds, envs]
        if (stuck < 0).all():
            return None
        first = int(np.where(stuck < 0, np.iinfo(np.int32).max, stuck).argmin())
        seed, env = divmod(first, self.num_envs)
        where = f"environment {env}" + (f" of seed {seed}" if len(stuck) > 1 else "")
        name = self.made.runner.vector.env.name
        return stuck_error(f"at step {stuck[seed, env]:,} in {where}", name)

    def _end(self) -> list[SeedChunk]:
        """Close the chunk; return each seed's report."""
        self.state, end = self.made.end(self.state)
        end = jax.tree.map(np.asarray, end)
        log = self._log()
        seeds: list[SeedChunk] = []
        all_updates = end.updates[: self.placement.seeds]  # they are the same in all shards
        for i, updates in enumerate(all_updates):
            of_seed: ChunkLog = jax.tree.map(lambda x, i=i: x[i], log)
            probe: Probe = jax.tree.map(lambda x, i=i: x[i], end.probe)
            number = int(updates - self.updates_before[i])
            episodes = self._episodes(of_seed)
            report = seed_chunk(int(updates), number, episodes, of_seed.sums, probe, self.layers)
            seeds.append(report)
        self.steps_before, self.updates_before = self.steps, np.array(all_updates, np.int64)
        return seeds

    def _log(self) -> ChunkLog:
        """Return the log of each seed [seeds, ...], of all its environments."""
        log = jax.tree.map(np.asarray, self.log)
        events = jax.tree.map(self.placement.by_seed, log._replace(sums=None))
        return events._replace(sums=log.sums)  # those of the first shard are the same in all

    def _episodes(self, log: ChunkLog) -> list[Episode]:
        return [
            Episode(
                step=self.steps_before + (int(i) + 1) * self.num_envs,
                episode_return=float(log.episode_return[i, e]),
                length=int(log.episode_length[i, e]),
                stats={name: float(x[i, e]) for name, x in log.episode_counts.items()},
            )
            for i, e in np.argwhere(log.ended[: self._vector_steps])
        ]

    def _chunk(self, seeds: list[SeedChunk]) -> Chunk:
        policy = partial(self.core.acting.copy_policy, self.state.training)
        return Chunk(self.steps, seeds, self.state, policy, self.snapshot)

    # Starting, stopping and resuming

    def begin(self, beginning: Beginning) -> None:
        """Change the training state of all parts before the first step."""
        training, self.inherited = beginning.change(self.state.training), beginning.rows
        self.state = self.placement.place(self.state._replace(training=training))

    def snapshot(self) -> Snapshot:
        """Collect all that is needed to resume here, even in the middle of a chunk."""
        arrays = {
            "counts": np.array([self.steps_before // self.num_envs, self._vector_steps]),
            "updates": self.updates_before,
            "log": self.log,
            "state": self._with_rows(self.state, None),
        }
        return Snapshot(arrays, self._rows, 1, self.inherited + self.steps // self.num_envs)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Resume from a checkpoint."""
        checkpoint.check_rows(self._rows, 1)
        state = checkpoint.read("state", structs(self._with_rows(self.state, None)))
        self.log = self.placement.place(checkpoint.read("log", structs(self.log)))
        before, made = map(int, checkpoint.read("counts", np.zeros(2, np.int64)))
        in_chunk = 0 <= made <= self.made.runner.vector_steps
        if not (in_chunk and 0 <= before <= self.total_steps // self.num_envs - made):
            raise checkpoint.unfit("its counts of steps are impossible")
        self.steps_before, self.steps = before * self.num_envs, (before + made) * self.num_envs
        self.inherited = checkpoint.inherited(before + made)
        self.updates_before = np.array(checkpoint.read("updates", self.updates_before))
        rows = checkpoint.read_rows(self._rows, 1)
        self.state = self.placement.place(self._with_rows(state, rows))

    @property
    def _rows(self) -> Row | None:
        return self.core.rows(self.state.training)

    def _with_rows(self, state: DeviceState, rows: Row | None) -> DeviceState:
        return state._replace(training=self.core.with_rows(state.training, rows))
