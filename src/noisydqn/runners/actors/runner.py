"""The runner with actors: environments of Gymnasium played by other processes, learned from here.

The learner takes in segments that actors played, makes the updates that their steps bring, and
sends the new weights out. `run(programs, ...)` is a generator of chunks, as that of other runners.
"""

import dataclasses
from collections.abc import Callable, Generator
from typing import Any

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from noisydqn.checkpoint.reader import Checkpoint
from noisydqn.checkpoint.snapshot import Snapshot
from noisydqn.compilation import Compiler
from noisydqn.envs.history import SavedHistory
from noisydqn.envs.host import HostEnvironment
from noisydqn.program_cache import current_cache
from noisydqn.runners.actors.crew import Crew, Member
from noisydqn.runners.actors.learning import LearnerPrograms
from noisydqn.runners.actors.messages import Setup, Share, Stand, Weights
from noisydqn.runners.actors.modes import Asynchronous, Block, Synchronous
from noisydqn.runners.actors.pool import MakeActorPool
from noisydqn.runners.actors.view import View
from noisydqn.runners.core import Beginning
from noisydqn.runners.episodes import Episodes
from noisydqn.runners.options import ActorOptions, AnyProgram
from noisydqn.runners.report import Chunk, SeedChunk
from noisydqn.runners.stepped import SteppedRun
from noisydqn.runners.stop import Stop
from noisydqn.trees import structs

RESTARTED = 2**20
"""What the key of acting is folded with, plus a count, for actors whose environments begin anew."""


def run(
    made: LearnerPrograms,
    env: HostEnvironment,
    options: AnyProgram,
    actors: ActorOptions,
    make_pool: MakeActorPool,
    key: PRNGKeyArray,
    total_steps: int,
    checkpoint: Checkpoint | None,
    warn: Callable[[str], None],
    *,
    begin: Beginning | None = None,
    stop: Stop,
    compiler: Compiler,
) -> Generator[Chunk]:
    """Train, and yield after each chunk of steps until the steps or updates are used up.

    Args:
        made: the programs, for environments with this interface.
        env: the environment to train on.
        options: of the programs.
        actors: the options of actors, at least one.
        make_pool: makes the place where actors run.
        key: of everything random.
        total_steps: environment steps of the whole run, a multiple of those of a segment of all
            environments.
        checkpoint: where to resume; None starts anew.
        warn: told of what happens to actors, and of environments that could not be put back.
        begin: what a run starts from that is not resumed; None starts from new weights.
        stop: if it is asked for, an unfinished chunk is yielded and training ends.
        compiler: compiles the programs.

    Raises:
        EnvironmentFailedError: an environment failed, or an actor died too often. The unfinished
            chunk is yielded before.
        UserError: the checkpoint does not fit the options, or the environment cannot be sent to
            actors.
        StoppedError: a stop was asked for before the first step.
    """
    env_key, training_key, acting_key = jax.random.split(key, 3)
    if checkpoint is not None:
        rows = made.learner.core.rows(made.init.shapes.training)
        checkpoint.check_rows(rows, 0)
    seed = int(jax.random.bits(env_key))
    cache = current_cache()
    size = options.runner.num_envs // actors.actors
    folder = "" if cache is None else str(cache.folder.parent)
    setups = [
        Setup(env, env.spec, options, actors, Share(i, i * size, size), seed, folder)
        for i in range(actors.actors)
    ]
    compiler.wait(made.init, made.start_acting, made.publish)
    pool = make_pool(warn)
    try:
        crew = Crew(pool, setups, env.step_timeout, warn, stop)
        training = _Run(made, crew, actors, acting_key, total_steps, stop)
        training.prepare(made.init(training_key), checkpoint, begin)
        compiler.wait(made.ingest)  # actors are started and compile meanwhile
        yield from training.chunks()
    finally:
        pool.close()


class _Run(SteppedRun):
    """A run under way."""

    def __init__(
        self,
        made: LearnerPrograms,
        crew: Crew,
        actors: ActorOptions,
        acting_key: PRNGKeyArray,
        total_steps: int,
        stop: Stop,
    ) -> None:
        core, counts = made.learner.core, crew.members[0].setup.env.episode_counts
        super().__init__(core, made.probe, made.vector_steps, total_steps, counts, stop)
        self.made, self.crew, self.actors = made, crew, actors
        self._acting_key = acting_key
        self.schedule = dataclasses.replace(core.schedule, num_envs=made.share)
        sources = self.num_envs // made.share
        self.episodes = [Episodes(made.share) for _ in range(sources)]
        self.blocks = 0  # taken in since the start
        self.saves = 0  # snapshots so far
        self.exploration: list[dict[str, np.ndarray]] = [{}] * sources  # newest of each source
        self.published: tuple[int, np.ndarray] | None = None  # newest weights, after these updates
        self.view = View(crew)
        self.mode: Synchronous | Asynchronous

    @property
    def training(self) -> Any:
        """The core's part of the state."""
        return self.state.training

    # Starting

    def prepare(self, state: Any, checkpoint: Checkpoint | None, begin: Beginning | None) -> None:
        """Set up the state before the first step, or that of a checkpoint."""
        self.state = state
        if checkpoint is not None:
            self._restore(checkpoint)
        elif begin is not None:
            self.state = state._replace(training=begin.change(state.training))
            self.inherited = begin.rows
        if self.actors.asynchronous:
            lives = np.zeros(self.actors.actors, np.int64)
            if checkpoint is not None:
                lives = checkpoint.read("lives", lives) + 1
            number = self.steps // (self.actors.actor_steps * self.num_envs)
            self.mode = Asynchronous(
                self.crew,
                self._fresh,
                list(map(int, lives)),
                number,
                self.actors.actor_lag,
                self._weights(),
            )
        else:
            self.mode = self._synchronous(checkpoint)
        self.mode.begin()

    def _synchronous(self, checkpoint: Checkpoint | None) -> Synchronous:
        acting, lag = self._acting(0), self.actors.actor_lag
        stand, weights = Stand(acting, None, None), [self._weights()]
        if checkpoint is not None:
            stand = self._saved_stand(checkpoint, acting)
            number = min(lag, self.blocks) + 1
            like = structs(jax.tree.map(np.asarray, weights[0]))
            saved = checkpoint.read("weights", [like] * number)
            weights = [Weights(int(x.version), int(x.updates), *x[2:]) for x in saved]
        return Synchronous(self.crew, stand, self.blocks, lag, weights, self._note_differing)

    def _acting(self, restarts: int) -> list[np.ndarray]:
        """Return the leaves of the states of all environments' acting at their start."""
        key = self._acting_key
        if restarts:
            key = jax.random.fold_in(key, RESTARTED + restarts)
        return list(map(np.array, jax.tree.leaves(self.made.start_acting(self.state, key))))

    def _fresh(self, member: Member) -> list[np.ndarray]:
        """Seed an actor's environments anew; return the leaves of their states at their start."""
        life, share = member.life, member.share
        if life:
            sequence = np.random.SeedSequence([self.crew.seed, life])
            seed = int(sequence.generate_state(1)[0])
            member.setup = member.setup._replace(seed=seed)
        return [x[share.first : share.first + share.size] for x in self._acting(life)]

    def _note_differing(self, envs: np.ndarray) -> None:
        self.episodes[0].truncate(envs)

    def _weights(self) -> Weights:
        """Return the newest weights; their vector is the same object until an update was made."""
        published = self.made.publish(self.state)
        if self.published is None or self.published[0] != self.updates:
            self.published = self.updates, np.array(published.vector)
        return Weights(
            version=self.blocks,
            updates=self.updates,
            vector=self.published[1],
            moments=jax.tree.map(np.array, published.moments),
            reward_factor=np.array(published.reward_factor),
        )

    # Training

    def _step(self) -> None:
        """Take in a block and let actors continue."""
        try:
            with self.view.waiting():
                block = self.mode.block()
            if block is not None:
                self._take_in(block)
                self.mode.learned(self._weights())
        except KeyboardInterrupt:  # in a thread: no signal is handled there
            self.stop.request()

    def _take_in(self, block: Block) -> None:
        """Take in a block and make the updates that its steps bring."""
        segment, first = block.segment, np.int32(block.first)
        episodes = self.episodes[block.source]
        if block.starts_anew:
            episodes.begin_anew()
            self.state = self.made.restart(self.state, first)
        self.view.add(segment, self.updates)
        due: list[int] = []
        reached = segment.reached
        for i in range(len(segment.actions)):
            step = jax.tree.map(lambda x, i=i: x[i], reached)
            scheduled = self.schedule.scheduled(self.steps, int(step.last.sum()))
            due.append(self.schedule.due(scheduled, self.steps, self.updates))
            self.updates += due[-1]
            self.steps += self.made.share
            self.ended += episodes.take(step, self.steps, segment.stats.get(i, {}))
        self.state, self.sums = self.made.ingest(
            self.state,
            segment.time_steps,
            segment.actions,
            segment.errors,
            first,
            np.array(due, np.int32),
            self.sums,
        )
        self.blocks += 1
        self.exploration[block.source] = segment.exploration

    def _end(self) -> SeedChunk:
        """Close the chunk; return the report on it, with what explorers and actors tell."""
        replay = self.made.learner.core.replay
        filled = min((self.inherited + self.steps / self.num_envs) / replay.slots, 1.0)
        return dataclasses.replace(
            super()._end(), exploration=self._explored(), actors=self.view.end(filled)
        )

    def _explored(self) -> dict[str, float]:
        """Average the explorer's newest metrics over all environments."""
        known = [x for x in self.exploration if x]
        names = known[0] if known else {}
        return {name: float(np.mean(np.concatenate([x[name] for x in known]))) for name in names}

    # Stopping and resuming

    def snapshot(self) -> Snapshot:
        """Collect all that is needed to resume here.

        Asynchronous actors are not part of it: their environments begin anew, and what they play
        now is lost. The rows of their shares are at different places, so all are written.
        """
        self.saves += 1
        state, training = self.state, self.state.training
        counts = [self.steps, self.updates, self.steps_before, self.updates_before, self.blocks]
        arrays: dict[str, Any] = {
            "state": state._replace(training=self.core.with_rows(training, None)),
            "episodes": [episodes.counts for episodes in self.episodes],
            **self._reported,
        }
        written, length = self.inherited + self.steps // self.num_envs, 0
        if isinstance(self.mode, Synchronous):
            history = self.mode.history
            length = len(history.actions)
            arrays["acting"], arrays["newest"] = self.mode.stand.acting, self.mode.stand.newest
            arrays["history"] = history
            arrays["weights"] = jax.tree.map(np.asarray, self.mode.weights)
        else:
            arrays["lives"] = np.array(self.mode.lives, np.int64)
            written = (self.saves + 1) * self.made.learner.core.replay.slots
        arrays["counts"] = np.array([*counts, self.saves, length, len(self.ended)])
        return Snapshot(arrays, self.core.rows(training), 0, written)

    def _restore(self, checkpoint: Checkpoint) -> None:
        """Read what both ways of playing save."""
        *counts, _, ended = map(int, checkpoint.read("counts", np.zeros(8, np.int64)))
        self.steps, self.updates, self.steps_before, self.updates_before = counts[:4]
        self.blocks, self.saves = counts[4:]
        block = self.actors.actor_steps * self.made.share
        possible = self._counts_are_possible(ended, self.chunk_steps)
        if not (possible and self.blocks * block == self.steps):
            raise checkpoint.unfit("its counts are impossible")
        saved = checkpoint.read("episodes", [x.counts for x in self.episodes])
        for episodes, counted in zip(self.episodes, saved, strict=True):
            episodes.counts = counted
        self._restore_reported(checkpoint, ended)
        if not self.actors.asynchronous:
            self.inherited = checkpoint.inherited(self.steps // self.num_envs)
        training = self.state.training
        rows = checkpoint.read_rows(self.core.rows(training), 0)
        bare = self.state._replace(training=self.core.with_rows(training, None))
        state = checkpoint.read("state", structs(bare))
        self.state = state._replace(training=self.core.with_rows(state.training, rows))

    def _saved_stand(self, checkpoint: Checkpoint, acting: list[np.ndarray]) -> Stand:
        """Read where synchronous actors stood."""
        length = int(checkpoint.read("counts", np.zeros(8, np.int64))[6])
        spec = self.core.acting.spec
        newest = jax.tree.map(np.array, checkpoint.read("newest", spec.time_steps(self.num_envs)))
        if not 0 <= length <= self.steps // self.num_envs:
            raise checkpoint.unfit("its counts are impossible")
        counts, flags = np.zeros(self.num_envs, np.int64), np.zeros(self.num_envs, bool)
        shape = length, self.num_envs, *spec.action_shape
        actions = np.broadcast_to(np.int32(0), shape)
        like = SavedHistory(counts, counts, counts, np.zeros(self.num_envs), flags, actions)
        saved: SavedHistory = jax.tree.map(np.asarray, checkpoint.read("history", like))
        if not (saved.is_possible() and spec.has_actions(saved.actions)):
            raise checkpoint.unfit("the history of its environments is impossible")
        states = list(map(np.array, checkpoint.read("acting", acting)))
        return Stand(states, newest, saved)
