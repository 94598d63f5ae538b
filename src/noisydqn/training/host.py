"""The host runner: any environment of Gymnasium, driving the same learner and replay memory.

Each step of all environments is one compiled call: take in what they show, act, store. Where
updates are due a second call makes them, and is not waited for: while it runs, the environments
take their step. So an action lags behind the updates of the very step before, always, and what a
run computes does not depend on how fast anything is.

`run(config, env, key)` is a generator of chunks.
"""

import warnings
from collections.abc import Callable, Generator, Iterator
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from noisydqn.agent import Agent, Metrics
from noisydqn.checkpoint.arrays import structs
from noisydqn.checkpoint.reader import Checkpoint
from noisydqn.checkpoint.snapshot import Snapshot
from noisydqn.config import Config
from noisydqn.envs.guard import EnvironmentFailedError
from noisydqn.envs.history import SavedHistory
from noisydqn.envs.host import HostEnvironment, HostVector
from noisydqn.flat import Flat
from noisydqn.training.core import Core, Probe, TrainingState
from noisydqn.training.report import Chunk, Episode, seed_chunk
from noisydqn.types import TimeStep


class _Program(NamedTuple):
    """The core and its functions, compiled at their first call.

    Their states hold the key as raw data: a call takes some 5 us to wrap a typed one that it takes
    and gives back.
    """

    core: Core
    init: Callable[[PRNGKeyArray], TrainingState]
    act: Callable[[TrainingState, TimeStep, np.int32], tuple[TrainingState, Array]]
    learn: Callable[
        [TrainingState, np.int32, np.int32, Flat[Metrics]], tuple[TrainingState, Flat[Metrics]]
    ]
    probe: Callable[[TrainingState], tuple[TrainingState, Probe]]


@lru_cache(maxsize=8)
def _program(config: Config, env: HostEnvironment) -> _Program:
    """Kept, so that training again in one process, with another seed, compiles nothing."""
    core = Core.create(config, env.spec)

    def typed(state: TrainingState) -> TrainingState:
        return state._replace(key=jax.random.wrap_key_data(state.key))

    def raw(state: TrainingState) -> TrainingState:
        return state._replace(key=jax.random.key_data(state.key))

    def init(key: PRNGKeyArray) -> TrainingState:
        return raw(core.init(key))

    def act(state: TrainingState, time_step: TimeStep, step: Array) -> tuple[TrainingState, Array]:
        state, actions = core.act(core.observe(typed(state), time_step), step)
        return raw(state), actions

    def learn(
        state: TrainingState, due: Array, allowed: Array, sums: Flat[Metrics]
    ) -> tuple[TrainingState, Flat[Metrics]]:
        state, sums = core.learn(typed(state), due, allowed, sums)
        return raw(state), sums

    def probe(state: TrainingState) -> tuple[TrainingState, Probe]:
        state, probed = core.probe(typed(state))
        return raw(state), probed

    return _Program(
        core=core,
        init=jax.jit(init),
        act=jax.jit(act, donate_argnums=0),
        learn=jax.jit(learn, donate_argnums=(0, 3)),
        probe=jax.jit(probe, donate_argnums=0),
    )


class _Episodes:
    """Returns and lengths of the episodes under way."""

    def __init__(self, num_envs: int) -> None:
        self._returns, self._lengths = np.zeros(num_envs), np.zeros(num_envs, int)
        self._started = np.zeros(num_envs, bool)

    def take(self, time_step: TimeStep, step: int, stats: dict[str, np.ndarray]) -> list[Episode]:
        """Count a time step, reached after `step` steps; returns the episodes that it ends.

        `stats` [envs] are those that the environments report of these episodes; NaN is none.
        """
        self._returns += time_step.reward
        self._lengths += 1
        if self._started.any():  # a reset's reward is none, and it is no step
            self._returns[self._started] = self._lengths[self._started] = 0
        self._started = last = np.asarray(time_step.last)
        if not last.any():
            return []
        return [
            Episode(
                step,
                float(self._returns[i]),
                int(self._lengths[i]),
                {name: float(x[i]) for name, x in stats.items() if not np.isnan(x[i])},
            )
            for i in np.flatnonzero(last)
        ]

    @property
    def counts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns and lengths so far, and where an episode starts next."""
        return self._returns, self._lengths, self._started

    @counts.setter
    def counts(self, counts: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
        self._returns, self._lengths, self._started = map(np.array, counts)

    def cut(self, envs: np.ndarray) -> None:
        """Let episodes start next where `envs`; those under way are not reported."""
        self._started = self._started | envs


def run(
    config: Config,
    env: HostEnvironment,
    key: PRNGKeyArray,
    checkpoint: Checkpoint | None = None,
    warn: Callable[[str], None] = warnings.warn,
) -> Generator[Chunk]:
    """Train, and yield after each chunk of steps until the steps or updates are used up.

    Args:
        config: the options. Its `seed` is not used here: `key` stands for it.
        env: the environment to train on.
        key: of everything random.
        checkpoint: where to go on from; None starts anew.
        warn: told of environments that could not be put back to where they were.

    Raises:
        EnvironmentFailedError: an environment raised, or gave what it did not declare. A last chunk
            of what was trained until then is yielded before.
        UserError: the checkpoint does not fit the config.
    """
    program = _program(config.of_program, env)
    env_key, training_key = jax.random.split(key)
    if checkpoint is not None:
        checkpoint.check_rows(jax.eval_shape(program.init, training_key).replay.rows, 0)
    vector = env.vector(config.num_envs, processes=True)
    try:
        vector.remember()
        first = vector.reset(int(jax.random.bits(env_key)))
        run = _Run(config, program, vector, program.init(training_key), first)
        if checkpoint is not None:
            run.restore(checkpoint, warn)
        yield from run.chunks()
    finally:
        vector.close()


class _Run:
    """A run under way."""

    def __init__(
        self,
        config: Config,
        program: _Program,
        vector: HostVector,
        state: TrainingState,
        first: TimeStep,
    ) -> None:
        self.config, self.program, self.vector = config, program, vector
        self.state, self.time_step = state, first
        self.episodes = _Episodes(config.num_envs)
        self.steps = self.updates = 0
        self.due = 0  # updates that belong to the newest step and are not made yet
        self.sums = Agent.no_metrics()

    def chunks(self) -> Iterator[Chunk]:
        """Train to the end of the budget."""
        config, num_envs = self.config, self.config.num_envs
        total = config.total_steps
        size = max(config.chunk_steps // num_envs, 1) * num_envs
        failure: EnvironmentFailedError | None = None
        while self.steps < total and self._allowed(1) and failure is None:
            ended: list[Episode] = []
            updates_before = self.updates
            self.sums = Agent.no_metrics()
            end = min(self.steps + size, total)
            try:
                while self.steps < end:
                    ended += self._step()
            except EnvironmentFailedError as error:
                failure = error
            if self.steps == total:
                self._learn()
            yield self._chunk(ended, self.updates - updates_before)
        if failure is not None:
            raise failure

    def _step(self) -> list[Episode]:
        """One step of all environments; returns the episodes that it ends."""
        step = np.int32(self.steps)
        self.state, actions = self.program.act(self.state, self.time_step, step)
        self._learn()  # goes on while the environments take their step
        self.time_step = self.vector.step(np.asarray(actions))
        ended = self.time_step.last
        self.due = self.program.core.updates_due(self.steps, int(ended.sum()))
        self.steps += self.config.num_envs
        return self.episodes.take(self.time_step, self.steps, self.vector.stats)

    def _allowed(self, due: int) -> int:
        """How many of the updates due may be made."""
        limit = self.config.max_updates
        return due if limit is None else min(due, limit - self.updates)

    def _learn(self) -> None:
        """Start the updates that are due, and a new draw of noise if it is due."""
        due, self.due = self.due, 0
        if due == 0 and self.config.acting_noise == "update":
            return
        learning = self.steps >= self.config.first_learning_step
        number = self._allowed(due) if learning else 0
        self.state, self.sums = self.program.learn(
            self.state, np.int32(due), np.int32(number), self.sums
        )
        self.updates += number

    def _chunk(self, ended: list[Episode], made: int) -> Chunk:
        self.state, probe = self.program.probe(self.state)
        core, state = self.program.core, self.state
        network = state.learner.online.tree
        report = seed_chunk(self.updates, made, ended, self.sums, probe, network)
        return Chunk(
            steps=self.steps,
            seeds=[report],
            state=state,
            policy=lambda _: jax.tree.map(jnp.copy, core.policy(state)),
            snapshot=self.snapshot,
        )

    # Stopping and going on

    def snapshot(self) -> Snapshot:
        """All that is needed to go on after this chunk."""
        state, history = self.state, self.vector.history
        arrays = {
            "counts": np.array([self.steps, self.updates, self.due, len(history.actions)]),
            "state": state.with_rows(None),
            "time_step": jax.tree.map(np.asarray, self.time_step),
            "episodes": self.episodes.counts,
            "history": history,
        }
        return Snapshot(arrays, state.replay.rows, 0, self.steps // self.config.num_envs)

    def restore(self, checkpoint: Checkpoint, warn: Callable[[str], None]) -> None:
        """Go on from a checkpoint; the environments were just reset with the run's own seed."""
        counts = checkpoint.read("counts", np.zeros(4, np.int64))
        self.steps, self.updates, self.due, length = (int(x) for x in counts)
        saved = self.vector.history
        most = self.steps // self.config.num_envs
        saved = saved._replace(
            actions=np.zeros((min(length, most), *saved.actions.shape[1:]), np.int32)
        )
        saved: SavedHistory = jax.tree.map(np.asarray, checkpoint.read("history", saved))
        self.episodes.counts = checkpoint.read("episodes", self.episodes.counts)
        rows = self.state.replay.rows
        like = structs(self.state.with_rows(None))
        state = checkpoint.read("state", like)
        rows = checkpoint.read_rows(rows, 0)
        self.state = state.with_rows(rows)
        newest = checkpoint.read("time_step", self.time_step)
        self.time_step = self._play_again(saved, jax.tree.map(np.array, newest), warn)

    def _play_again(
        self, saved: SavedHistory, newest: TimeStep, warn: Callable[[str], None]
    ) -> TimeStep:
        """Put the environments back; where that fails, cut the episode under way."""
        differs = self.vector.restore(saved, newest)
        if not differs.any():
            return newest
        names = ", ".join(map(str, np.flatnonzero(differs)))
        warn(
            f"environment {names} did not play again as before: it is not deterministic. Its "
            "episode is cut and another begins; from here on the run differs from one that was "
            "not interrupted"
        )
        self.episodes.cut(differs)
        return newest._replace(truncated=newest.truncated | (differs & ~newest.terminated))
