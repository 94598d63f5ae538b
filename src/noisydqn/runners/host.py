"""The host runner: any environment of Gymnasium, driving the same learner and replay buffer.

Each step of all environments is one compiled call: take in what they show, act, store. Where
updates are due a second call makes them, and is not waited for: while it runs, the environments
take their step. On a single core one call does both (`host_programs`). What a run computes does
not depend on how fast anything is.

`run(programs, env, key, steps)` is a generator of chunks.
"""

import warnings
from collections.abc import Callable, Generator
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from noisydqn.checkpoint.reader import Checkpoint
from noisydqn.checkpoint.snapshot import Snapshot
from noisydqn.compilation import Compiler
from noisydqn.envs.history import SavedHistory
from noisydqn.envs.host import HostEnvironment
from noisydqn.envs.vectors import HostVector, truncated_where
from noisydqn.errors import StoppedError
from noisydqn.runners.core import Beginning
from noisydqn.runners.episodes import Episodes
from noisydqn.runners.host_programs import HostPrograms, Work
from noisydqn.runners.report import Chunk, SeedChunk
from noisydqn.runners.stepped import SteppedRun
from noisydqn.runners.stop import Stop
from noisydqn.trees import structs
from noisydqn.types import TimeStep


def run(
    made: HostPrograms,
    env: HostEnvironment,
    key: PRNGKeyArray,
    total_steps: int,
    checkpoint: Checkpoint | None = None,
    warn: Callable[[str], None] = warnings.warn,
    *,
    begin: Beginning | None = None,
    stop: Stop | None = None,
    compiler: Compiler | None = None,
) -> Generator[Chunk]:
    """Train, and yield after each chunk of steps until the steps or updates are used up.

    Args:
        made: the programs, for environments with this interface.
        env: the environment to train on.
        key: of everything random.
        total_steps: environment steps of the whole run, a multiple of the environments.
        checkpoint: where to resume; None starts anew.
        warn: told of environments that could not be put back to where they were.
        begin: what a run starts from that is not resumed; None starts from new weights.
        stop: if it is asked for, an unfinished chunk is yielded and training ends.
        compiler: compiles the programs; None compiles them here.

    Raises:
        EnvironmentFailedError: an environment raised, or gave what it did not declare. The
            unfinished chunk is yielded before.
        UserError: the checkpoint does not fit the options.
        StoppedError: a stop was asked for before the first step.
    """
    env_key, training_key = jax.random.split(key)
    if checkpoint is not None:
        checkpoint.check_rows(made.core.rows(made.init.shapes), 0)
    stop = stop or Stop()
    vector = env.vector(made.core.acting.num_envs, processes=True, check=stop.check)
    try:
        vector.remember()
        first = vector.reset(int(jax.random.bits(env_key)))
        if compiler is not None:  # environments and keys are ready by then
            compiler.wait(made.init)
        state = made.init(training_key)
        if compiler is not None:
            compiler.wait(*made.calls.programs)
        training = _Run(made, vector, (state, first), total_steps, stop)
        if checkpoint is not None:
            training.restore(checkpoint, warn)
        elif begin is not None:
            training.state, training.inherited = begin.change(training.state), begin.rows
        yield from training.chunks()
    finally:
        vector.close()


class _Run(SteppedRun):
    """A run under way."""

    def __init__(
        self,
        made: HostPrograms,
        vector: HostVector,
        start: tuple[Any, TimeStep],
        total_steps: int,
        stop: Stop,
    ) -> None:
        super().__init__(made.core, made.probe, made.vector_steps, total_steps, vector.counts, stop)
        self.made, self.vector = made, vector
        self.state, self.time_step = start
        self.explorer = made.core.acting.explorer
        self.episodes = Episodes(self.num_envs)
        self.scheduled = 0  # updates that belong to the newest step and are not made yet
        self.actions: np.ndarray | None = None  # chosen, but not taken yet

    @property
    def training(self) -> Any:
        """The core's part of the state: all of it."""
        return self.state

    def _step(self) -> None:
        """Step all environments once; after a failure or a stop, with the actions then chosen."""
        if self.actions is None:
            actions = self._call(acts=True)  # it may learn on while the environments step
            self.actions = np.asarray(actions)
        try:
            self.time_step = self.vector.step(self.actions)
        except StoppedError:
            return
        except KeyboardInterrupt:  # of an environment, or in a thread: no signal is handled there
            self.stop.request()
            return
        self.actions = None
        ended = self.time_step.last
        self.scheduled = self.schedule.scheduled(self.steps, int(ended.sum()))
        self.steps += self.num_envs
        self.ended += self.episodes.take(self.time_step, self.steps, self.vector.stats)

    def _call(self, *, acts: bool) -> Array | None:
        """Choose actions if asked for, and make the updates of the newest step."""
        scheduled, self.scheduled = self.scheduled, 0
        due = self.schedule.due(scheduled, self.steps - self.num_envs, self.updates)
        learns = scheduled > 0 or self.explorer.resamples_every_step
        work = Work(self.steps, acts, learns, scheduled, due)
        self.state, actions, self.sums = self.made.calls(
            self.state, self.time_step, work, self.sums
        )
        self.updates += due
        return actions

    def _end(self) -> SeedChunk:
        """Close the chunk, after the last updates of the run if it is the last one."""
        if self.steps == self.total_steps:
            self._call(acts=False)
        return super()._end()

    # Stopping and resuming

    def snapshot(self) -> Snapshot:
        """Collect all that is needed to resume here, even in the middle of a chunk or a step."""
        state, history = self.state, self.vector.history
        acted = self.actions is not None
        none = np.full((self.num_envs, *self.vector.spec.action_shape), -1, np.int32)
        counts = [self.steps, self.updates, self.scheduled, self.steps_before, self.updates_before]
        arrays = {
            "counts": np.array([*counts, len(history.actions), len(self.ended)]),
            "state": self.made.core.with_rows(state, None),
            "time_step": jax.tree.map(np.asarray, self.time_step),
            "actions": none if self.actions is None else self.actions.astype(np.int32),
            "episodes": self.episodes.counts,
            **self._reported,
            "history": history,
        }
        written = self.inherited + self.steps // self.num_envs + acted
        return Snapshot(arrays, self.made.core.rows(state), 0, written)

    def restore(self, checkpoint: Checkpoint, warn: Callable[[str], None]) -> None:
        """Resume from a checkpoint; the environments were just reset with the run's own seed."""
        *counts, length, ended = map(int, checkpoint.read("counts", np.zeros(7, np.int64)))
        self.steps, self.updates, self.scheduled, self.steps_before, self.updates_before = counts
        if not self._is_possible(length, ended):
            raise checkpoint.unfit("its counts are impossible")
        saved = self.vector.history
        actions = np.broadcast_to(np.int32(0), (length, *saved.actions.shape[1:]))
        saved: SavedHistory = jax.tree.map(
            np.asarray, checkpoint.read("history", saved._replace(actions=actions))
        )
        spec = self.vector.spec
        if not (saved.is_possible() and spec.has_actions(saved.actions)):
            raise checkpoint.unfit("the history of its environments is impossible")
        self.episodes.counts = checkpoint.read("episodes", self.episodes.counts)
        self._restore_reported(checkpoint, ended)
        blank = np.zeros((self.num_envs, *spec.action_shape), np.int32)
        actions = np.array(checkpoint.read("actions", blank))
        acted = bool((actions >= 0).any())
        if acted and not spec.has_actions(actions):
            raise checkpoint.unfit("it holds actions that the environment does not have")
        self.actions = actions if acted else None
        self.inherited = checkpoint.inherited(self.steps // self.num_envs + acted)
        core, rows = self.made.core, self.made.core.rows(self.state)
        state = checkpoint.read("state", structs(core.with_rows(self.state, None)))
        self.state = core.with_rows(state, checkpoint.read_rows(rows, 0))
        newest = checkpoint.read("time_step", self.time_step)
        self.time_step = self._play_again(saved, jax.tree.map(np.array, newest), warn)

    def _is_possible(self, length: int, ended: int) -> bool:
        """Tell whether counts that were read can be those of a run with these options."""
        return (
            self._counts_are_possible(ended)
            and 0 <= self.scheduled <= self.schedule.most
            and 0 <= length <= self.steps // self.num_envs
        )

    def _play_again(
        self, saved: SavedHistory, newest: TimeStep, warn: Callable[[str], None]
    ) -> TimeStep:
        """Put the environments back; where that fails, truncate the episode under way."""
        differs = self.vector.restore(saved, newest)
        self.episodes.truncate(differs)
        newest, lines = truncated_where(differs, newest)
        for line in lines:
            warn(line)
        return newest
