"""A training session, which drives a runner and performs the effects that `Progress` decides."""

import hashlib
import math
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing
from typing import Any

import jax.numpy as jnp
import msgspec

from noisydqn.checkpoint.origin import Origin
from noisydqn.checkpoint.reader import Checkpoint
from noisydqn.checkpoint.writer import CheckpointWriter
from noisydqn.compilation import Background, Program
from noisydqn.config.config import Config
from noisydqn.config.stored import to_stored
from noisydqn.envs.device import DeviceEnvironment
from noisydqn.envs.host import HostEnvironment
from noisydqn.errors import EnvironmentFailedError, UserError
from noisydqn.folders import Folder
from noisydqn.play.evaluate import Evaluation, evaluation_programs
from noisydqn.play.video import film_programs
from noisydqn.runners import device, host, host_programs
from noisydqn.runners.actors import runner
from noisydqn.runners.actors.learning import learner_programs
from noisydqn.runners.build import policy_like
from noisydqn.runners.report import Chunk
from noisydqn.runs.callbacks import Training
from noisydqn.runs.folder import RunFolder, config_bytes
from noisydqn.runs.health import check_finite
from noisydqn.runs.progress import FileSizes, Goals, Progress, StoredRun
from noisydqn.runs.seed import Context, SeedSession
from noisydqn.runs.start import Begun
from noisydqn.runs.walls import Wall


class Session:
    """A training session of all seeds that share a runner.

    Its life cycle: `train`, `save`, `report`, `end`; `close` at any point. None of them raises:
    what goes wrong is noted in the context's `ending`.

    Args:
        configs: a config for each seed.
        folders: a folder for each seed.
        checkpoints: the folder of the checkpoints, which hold all seeds.
        checkpoint: the checkpoint to resume; None starts from the beginning.
        context: services shared by all seeds of the run.

    Raises:
        UserError: the checkpoint does not fit the configs.
    """

    def __init__(
        self,
        configs: list[Config],
        folders: list[RunFolder],
        checkpoints: Folder,
        checkpoint: Checkpoint | None,
        context: Context,
    ) -> None:
        self.config, self.goals = configs[0], Goals.of(configs[0])
        self.context, self.checkpoint = context, checkpoint
        self._folder_wall = Wall("the folder of the run", context.terminal.warn)
        sha256 = hashlib.sha256(config_bytes(configs[0])).hexdigest()
        self._record = (to_stored(configs[0]), sha256, Origin.here())
        self.seeds = [
            SeedSession(config, folder, context, shown=i == 0)
            for i, (config, folder) in enumerate(zip(configs, folders, strict=True))
        ]
        self.progress = Progress.start(len(configs))
        self._save_requested = False  # by a callback
        sizes: Sequence[FileSizes] = [(0, 0, 0)] * len(configs)
        self._begun: Begun | None = None
        if checkpoint is not None:
            sizes = self._restore(checkpoint)
        else:
            like = policy_like(configs[0].program, context.env.spec)
            self._begun = Begun.of(folders, like)
        self._start = time.perf_counter() - self.progress.seconds
        context.keeper.restore()
        with ExitStack() as opened:
            for seed, size in zip(self.seeds, sizes, strict=True):
                seed.open(self.progress.steps, size)
                opened.callback(seed.close)
            before = None if checkpoint is None else checkpoint.manifest
            warn = context.terminal.warn
            self.writer = CheckpointWriter(checkpoints, self.config.run.keep, before, warn)
            opened.pop_all()

    def _restore(self, checkpoint: Checkpoint) -> Sequence[FileSizes]:
        """Read progress and policies; returns the sizes of each seed's files."""
        try:
            stored = StoredRun.decode(checkpoint.manifest.run)
        except msgspec.ValidationError as error:
            raise UserError(
                f"{checkpoint.path} does not fit this version of noisydqn ({error}): use the "
                "version that wrote it"
            ) from error
        progress = stored.progress
        if not len(progress.seeds) == len(stored.file_sizes) == len(self.seeds):
            raise UserError(
                f"{checkpoint.path} holds {len(progress.seeds)} seeds, expected "
                f"{len(self.seeds)}: restore the folders of the others"
            )
        if progress.steps > self.goals.budget:
            raise UserError(
                f"--steps {self.config.run.steps} is less than the {progress.steps} that are "
                "trained already: raise it"
            )
        for i, seed in enumerate(self.seeds):
            seed.restore(progress.seeds[i], checkpoint, f"seed{i}")
        self.progress = progress
        here, terminal = self._record[-1], self.context.terminal
        if stored.origin is not None and (changed := stored.origin.differences(here)):
            terminal.warn(
                f"{checkpoint.path} was made elsewhere, with {changed}: the run resumes, but may "
                "not end with the bits of an uninterrupted one"
            )
        terminal.say(f"resuming after {progress.steps:,} steps, {checkpoint.path}")
        return stored.file_sizes

    # Training

    def train(self) -> None:
        """Train until the run is to end, for whatever reason: it is noted in the run's `Ending`.

        Evaluates and saves checkpoints on the way. All is saved while the environments are still
        open, as closing them may take long, and before the last evaluations are waited for, so
        that a resumed run can repeat those.
        """
        with self.context.ending.noting("training"), Background(1, "evaluation") as pool:
            for i, seed in enumerate(self.seeds):
                seed.callbacks.start(self._training(i))
            self._resume_evaluations(pool)
            if self.progress.should_stop(self.goals):
                self._queue_last_evaluations()
            else:
                with closing(self._chunks()) as chunks:
                    chunk = self._train(chunks, pool)
                    self._queue_last_evaluations()
                    self._keep(chunk)
            if not self.context.ending.near:
                self._start_evaluations(pool)
                self._take_evaluations(block=True)

    def _train(self, chunks: Generator[Chunk], pool: Background) -> Chunk | None:
        """Train chunk by chunk; returns the last one, None if it is not to be saved."""
        ending, newest, sound = self.context.ending, None, None
        last = saved = time.perf_counter()
        lost = False  # what was saved
        interval = self.config.run.checkpoint_seconds or math.inf
        with ending.noting("training"):
            for chunk in chunks:
                now = time.perf_counter()
                if not chunk.seeds:
                    newest = sound = self._take_unfinished(chunk, now - self._start)
                    continue
                speed = (chunk.steps - self.progress.steps) / (now - last)
                last = now
                self._take(chunk, now - self._start, speed)
                sound = chunk
                self._watch(chunk, pool)
                if ending.near or self.progress.should_stop(self.goals):
                    return sound
                lost = self._folder_wall.finish("", self.context.keeper.restore) or lost
                due = lost or self._save_requested or now - saved >= interval
                if due and not self.writer.busy:
                    self._save_checkpoint(chunk)
                    saved, lost, self._save_requested = time.perf_counter(), False, False
                newest, sound = chunk, None  # its arrays are the next chunk's, if there is one
            return newest
        return sound

    def _keep(self, chunk: Chunk | None) -> None:
        """Save a last chunk, and the weights."""
        if chunk is not None:
            with self.context.ending.noting("saving the last checkpoint", saves=True):
                self.context.keeper.restore()
                self._save_checkpoint(chunk)
        self._save_weights()

    def _chunks(self) -> Generator[Chunk]:
        """Start all compilation, first of what training needs; returns the chunks to come."""
        env, compiler = self.context.env, self.context.compiler
        longest, chunks = env.by_kind(device=self._on_device, host=self._on_host)
        compiler.start_after(longest, self._evaluation_programs)
        return chunks

    def _on_device(self, env: DeviceEnvironment) -> tuple[Program[Any], Generator[Chunk]]:
        """Start to compile; returns the program that compiles longest and the chunks to come."""
        keys = jnp.stack([seed.keys.training for seed in self.seeds])
        made = device.programs(self.config.program, env, len(keys))
        chunks = device.run(
            made,
            keys,
            self.config.total_steps,
            self.checkpoint,
            begin=None if self._begun is None else self._begun.on_device(made.runner.core),
            stop=self.context.stop,
            compiler=self.context.compiler,
        )
        return made.start(self.context.compiler), chunks

    def _on_host(self, env: HostEnvironment) -> tuple[Program[Any], Generator[Chunk]]:
        """Start to compile; returns the program that compiles longest and the chunks to come."""
        if self.config.actors.actors > 0:
            return self._with_actors(env)
        made = host_programs.programs(self.config.program, env.spec)
        chunks = host.run(
            made,
            env,
            self.seeds[0].keys.training,
            self.config.total_steps,
            self.checkpoint,
            self.context.terminal.warn,
            begin=None if self._begun is None else self._begun.on_host(made.core),
            stop=self.context.stop,
            compiler=self.context.compiler,
        )
        return made.start(self.context.compiler), chunks

    def _with_actors(self, env: HostEnvironment) -> tuple[Program[Any], Generator[Chunk]]:
        """Start to compile; returns the program that compiles longest and the chunks to come."""
        options, actors = self.config.program, self.config.actors
        share = options.runner.num_envs // (actors.actors if actors.asynchronous else 1)
        made = learner_programs(options, env.spec, share, actors.actor_steps)
        chunks = runner.run(
            made,
            env,
            options,
            actors,
            self.context.place.make_pool,
            self.seeds[0].keys.training,
            self.config.total_steps,
            self.checkpoint,
            self.context.terminal.warn,
            begin=None if self._begun is None else self._begun.on_host(made.learner.core),
            stop=self.context.stop,
            compiler=self.context.compiler,
        )
        return made.start(self.context.compiler), chunks

    def _evaluation_programs(self) -> Sequence[Program[Any]]:
        env = self.context.env
        policy = policy_like(self.config.program, env.spec)
        programs = evaluation_programs(env, policy, self.config.run.evaluation_episodes)
        with_video = self.config.run.video_seconds > 0
        return [*programs, *(film_programs(env, policy) if with_video else ())]

    def _take(self, chunk: Chunk, seconds: float, speed: float) -> None:
        """Record a chunk.

        Raises:
            DivergedError: the chunk or its weights are not finite.
        """
        before = self.progress
        policies = [chunk.policy(i) for i in range(len(self.seeds))]
        for i, seed in enumerate(self.seeds):
            seed.record_chunk(chunk.steps, seconds, speed, chunk.seeds[i])
            updates, span = before.seeds[i].num_updates, (before.steps, chunk.steps)
            check_finite(chunk.seeds[i], policies[i], updates, span)
        for seed, policy in zip(self.seeds, policies, strict=True):
            seed.final = policy
        self.progress = before.after_chunk(chunk.steps, seconds, chunk.seeds, self.goals)

    def _take_unfinished(self, chunk: Chunk, seconds: float) -> Chunk | None:
        """Note where a stop left a chunk; no tracker sees it, as the resumed run finishes it.

        Returns the chunk, None if nothing was trained.
        """
        if chunk.steps == 0:
            return None
        for i, seed in enumerate(self.seeds):
            seed.final = chunk.policy(i)
        self.progress = self.progress.after_unfinished_chunk(chunk.steps, seconds)
        return chunk

    def _watch(self, chunk: Chunk, pool: Background) -> None:
        """Start evaluations, call the user's callbacks, and record evaluations that are done."""
        if self.progress.should_evaluate(self.goals):
            self._queue_evaluations()
            if not self.context.ending.near:
                self._start_evaluations(pool)
        for i, seed in enumerate(self.seeds):
            seed.callbacks.chunk(self._training(i), chunk.seeds[i])
        # The chunk after which a run ends must not depend on the speed of a thread: where an
        # evaluation decides, training waits for it.
        self._take_evaluations(block=self.progress.needs_confirmation(self.goals))

    def _training(self, index: int) -> Training:
        seed, stop = self.seeds[index], self._request_stop
        return seed.training(self.progress, index, stop, self._request_save)

    def _request_stop(self) -> None:
        self.progress = self.progress.after_stop_request(self.goals)

    def _request_save(self) -> None:
        self._save_requested = True

    # Evaluations

    def _queue_evaluations(self) -> None:
        """Let the newest weights wait for their evaluation."""
        self.progress = self.progress.after_evaluations_started()
        for seed in self.seeds:
            seed.queue_evaluation(self.progress.steps)

    def _queue_last_evaluations(self) -> None:
        """Let the last weights wait for their evaluation, if training ends as it should."""
        if not self.context.ending.near and self.progress.evaluated_at < self.progress.steps:
            self._queue_evaluations()

    def _start_evaluations(self, pool: Background) -> None:
        """Start the evaluations that wait."""
        for seed, progress in zip(self.seeds, self.progress.seeds, strict=True):
            for steps, _ in progress.pending:
                seed.start_evaluation(steps, pool)

    def _resume_evaluations(self, pool: Background) -> None:
        """Start the evaluations that were pending when the run was saved."""
        self._start_evaluations(pool)
        # Training may take the only instance of an environment, so evaluations go first.
        block = self.context.env.plays_one_at_a_time
        self._take_evaluations(block=block or self.progress.needs_confirmation(self.goals))

    def _take_evaluations(self, *, block: bool) -> None:
        """Record the evaluations that are done, in order; wait for all of them if `block`."""
        for i, seed in enumerate(self.seeds):
            while self.progress.seeds[i].pending:
                steps, seconds = self.progress.seeds[i].pending[0]
                try:
                    evaluation = seed.evaluations.outcome(steps, block=block)
                except EnvironmentFailedError:
                    raise
                except UserError as error:  # no second environment could be made
                    self.progress = self.progress.after_failed_evaluation(i)
                    seed.evaluations.remove(steps)
                    self.context.terminal.warn(f"no evaluation after {steps:,} steps: {error}")
                    continue
                if evaluation is None:
                    break
                self._take_evaluation(i, steps, seconds, evaluation)

    def _take_evaluation(
        self, index: int, steps: int, seconds: float, evaluation: Evaluation
    ) -> None:
        seed, best = self.seeds[index], self.progress.seeds[index].is_best(evaluation)
        self.progress = self.progress.after_evaluation(index, evaluation, self.goals)
        seed.take_evaluation(steps, seconds, evaluation, best=best)
        seed.callbacks.evaluation(self._training(index), steps, evaluation)

    # Saving

    def _save_checkpoint(self, chunk: Chunk) -> None:
        """Save a checkpoint after a chunk."""
        snapshot = chunk.snapshot()
        policies = {
            f"seed{i}": seed.policies(self.progress.seeds[i]) for i, seed in enumerate(self.seeds)
        }
        snapshot = snapshot._replace(arrays=snapshot.arrays | policies)
        sizes = tuple(seed.file_sizes() for seed in self.seeds)
        stored = StoredRun(self.progress, sizes, *self._record)
        self.writer.save(snapshot, stored.encode())

    def save(self) -> None:
        """Wait for the last checkpoint, write weights and summaries, and close the tables."""
        self.writer.wait()
        self.progress = self.progress.after_training(time.perf_counter() - self._start)
        if not self.context.ending.lost:
            self._save_weights()
        for seed in self.seeds:
            seed.close_watchers()

    def _save_weights(self) -> None:
        if self.progress.steps == 0:
            return
        self.context.ending.trained = True
        for seed, progress in zip(self.seeds, self.progress.seeds, strict=True):
            with self.context.ending.noting("saving the weights", saves=True):
                seed.save(self.progress.steps, self.progress.seconds, progress)

    def report(self) -> None:
        """Evaluate every seed's best weights in separate episodes, and record videos."""
        with self.context.ending.noting("the evaluation of the best weights"):
            for seed in self.seeds:
                seed.report()

    def end(self) -> None:
        """Announce the end to the callbacks."""
        with self.context.ending.noting("a callback"):
            for i, seed in enumerate(self.seeds):
                seed.callbacks.end(self._training(i), seed.summary)

    def close(self) -> None:
        """Close the trackers; a second call does nothing."""
        for seed in self.seeds:
            seed.close()
