"""The loop around a runner: what it reports goes to trackers, evaluations and checkpoints."""

import math
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, closing, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import msgspec

from noisydqn.checkpoint.reader import Checkpoint
from noisydqn.checkpoint.writer import CheckpointWriter
from noisydqn.compilation import Background, Compiler, Program, wait
from noisydqn.config.config import Config
from noisydqn.envs.device import DeviceEnvironment
from noisydqn.envs.host import HostEnvironment
from noisydqn.envs.registry import environment_spec
from noisydqn.errors import EnvironmentFailedError, StoppedError, UserError
from noisydqn.files import write_json
from noisydqn.learner.policy import Policy
from noisydqn.options import MAX_COUNT
from noisydqn.play.evaluate import Evaluation, evaluate, evaluation_programs
from noisydqn.play.video import film_programs, save_film, video_problem
from noisydqn.runners import device, host
from noisydqn.runners.report import Chunk, SeedChunk
from noisydqn.runners.stop import Stop
from noisydqn.runs.folder import RunFolder, read_summary
from noisydqn.runs.health import check
from noisydqn.runs.plots import save_curves
from noisydqn.runs.record import RunRecord, SeedRecord
from noisydqn.runs.trackers import FileTracker, TensorBoardTracker, Terminal, Tracker
from noisydqn.runs.weights import policy_like, save_policy


class SeedKeys(NamedTuple):
    """The independent keys of one seed."""

    training: jax.Array
    selection: jax.Array  # of the evaluations that choose the best weights
    report: jax.Array  # of the evaluation that is reported: other episodes than those
    film: jax.Array


def seed_keys(seed: int) -> SeedKeys:
    """Everything random comes from these."""
    return SeedKeys(*jax.random.split(jax.random.key(seed), len(SeedKeys._fields)))


class _Pending(NamedTuple):
    """An evaluation that was asked for."""

    steps: int
    seconds: float
    policy: Policy
    future: Future[Evaluation] | None  # None: only when the run resumes


class SeedRun:
    """One seed's side of a run: its trackers, its evaluations and its best weights."""

    def __init__(
        self,
        config: Config,
        env: DeviceEnvironment | HostEnvironment,
        folder: RunFolder,
        terminal: Terminal | None,
        stop: Stop,
        warn: Callable[[str], None],
    ) -> None:
        self.config, self.env, self.folder, self.stop = config, env, folder, stop
        self.warn = warn
        self.keys = seed_keys(config.seed)
        self.terminal = terminal
        self.trackers: list[Tracker] = []
        self.files: FileTracker | None = None
        self.final: Policy | None = None
        self.best: Policy | None = None
        self.best_return = self.newest_return = -math.inf  # of evaluations
        self.episodes = self.updates = 0
        self.recent: deque[float] = deque(maxlen=config.window)  # returns
        self.solved_at: tuple[int, float] | None = None
        self.pending: list[_Pending] = []
        self.summary: dict[str, Any] = {}

    def start(self, steps: int, sizes: tuple[int, int, int]) -> None:
        """Open the trackers, to go on after `steps`, with files that had these `sizes`."""
        self.files = FileTracker(self.folder, sizes)
        self.trackers = [self.files, TensorBoardTracker(self.folder, self.config, steps)]
        if self.terminal is not None:
            self.trackers.append(self.terminal)

    @property
    def best_policy(self) -> Policy:
        """The best in an evaluation, or the last if there was none."""
        best = self.final if self.best is None else self.best
        if best is None:
            raise RuntimeError("nothing was trained yet")
        return best

    def chunk(
        self, steps: tuple[int, int], seconds: float, speed: float, chunk: SeedChunk, policy: Policy
    ) -> None:
        """Take in a chunk, from and to `steps`, and the policy after it.

        Raises:
            DivergedError: it is not made of finite numbers.
        """
        before, self.updates = self.updates, chunk.updates
        self.episodes += len(chunk.episodes)
        for episode in chunk.episodes:
            self.recent.append(episode.episode_return)
            if self.solved_at is None and self.reached_return:
                self.solved_at = episode.step, seconds
        for tracker in self.trackers:
            tracker.chunk(steps[1], seconds, speed, chunk)
        check(chunk, policy, before, steps)
        self.final = policy

    @property
    def reached_return(self) -> bool:
        """Whether the mean return of the newest episodes is what training is to stop at."""
        goal = self.config.stop_at_return
        if goal is None or len(self.recent) < self.config.window:
            return False
        return sum(self.recent) / self.config.window >= goal

    # Evaluations on the way

    def start_evaluation(self, pool: Background | None, steps: int, seconds: float) -> None:
        """Evaluate the newest policy in another thread; without a pool, when the run resumes."""
        assert self.final is not None  # noqa: S101 - a chunk came before
        self.pending.append(self._started(pool, _Pending(steps, seconds, self.final, None)))

    def restart_evaluations(self, pool: Background) -> None:
        """Make those that were left when the run was saved."""
        self.pending = [self._started(pool, pending) for pending in self.pending]

    def _started(self, pool: Background | None, pending: _Pending) -> _Pending:
        if pool is None:
            return pending
        if self.terminal is not None:
            self.terminal.evaluating(pending.steps)
        key = jax.random.fold_in(self.keys.selection, pending.steps)
        return pending._replace(
            future=pool.submit(partial(self._evaluate, pending.policy, key)),
        )

    def _evaluate(self, policy: Policy, key: jax.Array) -> Evaluation:
        config = self.config
        return evaluate(
            self.env,
            policy,
            episodes=config.evaluation_episodes,
            key=key,
            max_steps=config.evaluation_max_steps,
            check=self.stop.check,
        )

    def collect(self, *, all_of_them: bool) -> None:
        """Take in the evaluations that are done, or wait for all that were started, in order.

        Those that a stop ends are left for when the run resumes.
        """
        while self.pending:
            steps, seconds, policy, future = self.pending[0]
            if future is None or not (all_of_them or future.done()):
                return
            try:
                evaluation = wait(future, self.stop.check)
            except StoppedError:
                return
            except EnvironmentFailedError:
                raise
            except UserError as error:  # no environment could be made beside those that train
                self.pending.pop(0)
                self.warn(f"not evaluated after {steps:,} steps: {error}")
                continue
            self.pending.pop(0)
            self.newest_return = evaluation.mean_return
            if evaluation.mean_return >= self.best_return:
                self.best, self.best_return = policy, evaluation.mean_return
                save_policy(self.folder.best, policy)
            goal = self.config.stop_at_return
            if goal is None and evaluation.solved and self.solved_at is None:
                self.solved_at = steps, seconds
            for tracker in self.trackers:
                tracker.evaluation(steps, seconds, evaluation)

    # Stopping and resuming

    def record(self) -> SeedRecord:
        """What a checkpoint holds of this, beside the policies."""
        assert self.files is not None  # noqa: S101 - it was started
        return SeedRecord(
            episodes=self.episodes,
            updates=self.updates,
            recent=list(self.recent),
            best_return=None if self.best is None else self.best_return,
            newest_return=None if self.best is None else self.newest_return,
            solved_at=self.solved_at,
            pending=[(pending.steps, pending.seconds) for pending in self.pending],
            sizes=self.files.sizes(),
        )

    @property
    def policies(self) -> dict[str, Any]:
        """The policies that a checkpoint holds."""
        pending = [pending.policy for pending in self.pending]
        return {"final": self.final, "best": self.best, "pending": pending}

    def restore(self, record: SeedRecord, checkpoint: Checkpoint, name: str) -> None:
        """Go on from a checkpoint, whose policies are under `name`."""
        spec = environment_spec(self.env)
        like = policy_like(self.config, spec)
        best = None if record.best_return is None else like
        policies = {"final": like, "best": best, "pending": [like] * len(record.pending)}
        policies: dict[str, Any] = checkpoint.read(name, policies)
        self.final, self.best = policies["final"], policies["best"]
        if record.best_return is not None and record.newest_return is not None:
            self.best_return, self.newest_return = record.best_return, record.newest_return
        self.pending = [
            _Pending(*when, policy, None)
            for when, policy in zip(record.pending, policies["pending"], strict=True)
        ]
        self.episodes, self.updates = record.episodes, record.updates
        self.recent.extend(record.recent)
        self.solved_at = record.solved_at

    def save(self, steps: int, seconds: float) -> None:
        """Close the trackers, and write weights and summary."""
        assert self.final is not None  # noqa: S101 - a chunk came before
        self.close()
        save_policy(self.folder.final, self.final)
        save_policy(self.folder.best, self.best_policy)
        solved_step, solved_seconds = self.solved_at or (None, None)
        before = read_summary(self.folder)
        reported = before if before.get("steps") == steps else {}
        self.summary = {
            "preset": self.config.preset,
            "env": self.config.env,
            "seed": self.config.seed,
            "steps": steps,
            "updates": self.updates,
            "episodes": self.episodes,
            "train_seconds": round(seconds, 2),
            "steps_per_second": round(steps / seconds, 1),
            "solved_at_step": solved_step,
            "solved_at_seconds": None if solved_seconds is None else round(solved_seconds, 2),
            "evaluation": reported.get("evaluation"),
        }
        write_json(self.folder.summary, self.summary)

    def close(self) -> None:
        """Close the trackers."""
        with ExitStack() as stack:  # all of them, even if one fails
            for tracker in self.trackers:
                stack.callback(tracker.close)
            self.trackers = []

    @property
    def films(self) -> bool:
        """Whether the report is to record a video."""
        filmed = self.summary["evaluation"] is not None and self.folder.film.exists()
        return self.config.film_seconds > 0 and not filmed and video_problem(self.env) is None

    def report(self, terminal: Terminal) -> None:
        """Evaluate the best weights in episodes of their own, and record their video.

        What was done already, before the run was resumed, is not done again.

        Raises:
            StoppedError: a stop was asked for.
        """
        policy, films = self.best_policy, self.films
        with Background(1, "evaluation") as pool:
            future = None
            if self.summary["evaluation"] is None:
                future = pool.submit(partial(self._evaluate, policy, self.keys.report))
            save_curves(self.folder)

            def take() -> None:
                if future is not None and self.summary["evaluation"] is None and future.done():
                    self.summary["evaluation"] = future.result().summary()
                    write_json(self.folder.summary, self.summary)
                self.stop.check()

            if future is not None and isinstance(self.env, HostEnvironment):
                wait(future, take)  # of some environments only one can be made
            if films:
                self._film(policy, terminal, take)
            if future is not None:
                wait(future, take)
            take()

    def _film(self, policy: Policy, terminal: Terminal, check: Callable[[], None]) -> None:
        try:
            seconds = self.config.film_seconds
            save_film(self.folder.film, self.env, policy, seconds, self.keys.film, check=check)
        except UserError as error:
            terminal.warn(str(error))


class Loop:
    """Drives a runner and hands what it reports to the seeds' trackers.

    Args:
        seeds: a config for each seed.
        env: the environment.
        folders: a folder for each seed.
        checkpoints: where the checkpoints of all of them are.
        checkpoint: where to resume; None begins anew.
        terminal: the live view.
        stop: whether to stop.
        compiler: compiles the programs.

    Raises:
        UserError: the checkpoint does not fit the configs.
    """

    def __init__(
        self,
        seeds: list[Config],
        env: DeviceEnvironment | HostEnvironment,
        folders: list[RunFolder],
        checkpoints: Path,
        checkpoint: Checkpoint | None,
        terminal: Terminal,
        stop: Stop,
        compiler: Compiler,
    ) -> None:
        self.config, self.env, self.terminal = seeds[0], env, terminal
        self.stop, self.compiler = stop, compiler
        self.runs = [
            SeedRun(seed, env, folder, terminal if i == 0 else None, stop, terminal.warn)
            for i, (seed, folder) in enumerate(zip(seeds, folders, strict=True))
        ]
        self.steps = self.evaluated = 0
        self.seconds = 0.0
        self.checkpoint = checkpoint
        sizes = [(0, 0, 0)] * len(seeds)
        if checkpoint is not None:
            sizes = self._restore(checkpoint)
        for run, size in zip(self.runs, sizes, strict=True):
            run.start(self.steps, size)
        before = None if checkpoint is None else checkpoint.manifest
        self.writer = CheckpointWriter(checkpoints, self.config.keep, before, terminal.warn)

    def _restore(self, checkpoint: Checkpoint) -> list[tuple[int, int, int]]:
        """Go on from a checkpoint; returns the sizes of each seed's files."""
        try:
            record = msgspec.convert(checkpoint.manifest.run, RunRecord)
        except msgspec.ValidationError as error:
            raise UserError(
                f"{checkpoint.path} does not fit this version of noisydqn ({error}): use the "
                "version that wrote it"
            ) from error
        if len(record.seeds) != len(self.runs):
            raise UserError(
                f"{checkpoint.path} holds {len(record.seeds)} seeds, expected {len(self.runs)}: "
                "restore the folders of the others"
            )
        if record.steps > self.config.total_steps:
            raise UserError(
                f"--steps {self.config.steps} is less than the {record.steps} that are trained "
                "already: raise it"
            )
        self.steps, self.seconds, self.evaluated = record.steps, record.seconds, record.evaluated
        for i, (run, seed) in enumerate(zip(self.runs, record.seeds, strict=True)):
            run.restore(seed, checkpoint, f"seed{i}")
        self.terminal.say(f"going on after {self.steps:,} steps, from {checkpoint.path}")
        return [seed.sizes for seed in record.seeds]

    def train(self) -> None:
        """Train until the budget is used up, it is solved, or it is asked to stop.

        Evaluates and saves on the way. At the end, too, the checkpoint comes first: what follows
        can be done again.
        """
        start = time.perf_counter() - self.seconds
        try:
            with Background(1, "evaluation") as pool:
                for run in self.runs:
                    run.restart_evaluations(pool)
                    if isinstance(self.env, HostEnvironment):
                        # Before training takes the environment, of which there may be only one.
                        run.collect(all_of_them=True)
                self._confirm()
                chunk = None if self._finished else self._train(pool, start)
                if not self.stop.asked and self.evaluated < self.steps:
                    self._evaluate(pool)
                if chunk is not None:
                    self._save(chunk)
                for run in self.runs:
                    run.collect(all_of_them=True)
        except Exception:
            self.writer.wait()
            raise
        self.writer.wait()
        self.seconds = time.perf_counter() - start

    def _train(self, pool: Background, start: float) -> Chunk | None:
        """Returns the last chunk, None if there was none or it is saved already."""
        every = self.config.evaluation_every or MAX_COUNT
        chunk, last, saved = None, time.perf_counter(), time.perf_counter()
        interval = self.config.checkpoint_seconds or math.inf
        with closing(self._chunks()) as chunks, suppress(StoppedError):
            for chunk in chunks:
                now = time.perf_counter()
                if not chunk.seeds:
                    self._take_unfinished(chunk, now - start)
                    continue
                self._take(chunk, now - start, (chunk.steps - self.steps) / (now - last))
                last = now
                if self._to_confirm or chunk.steps // every > self.evaluated // every:
                    self._evaluate(None if self.stop.asked else pool)
                try:
                    self._collect()
                    self._confirm()
                except Exception:  # of an evaluation: training is sound
                    self._save(chunk)
                    raise
                if self.stop.asked or self._finished:
                    return chunk
                if now - saved >= interval and not self.writer.busy:
                    self._save(chunk)
                    saved = time.perf_counter()
        return chunk if chunk is not None and chunk.seeds else None

    def _chunks(self) -> Generator[Chunk]:
        """Start all compilation, what training needs first, and the runner."""
        keys = [run.keys.training for run in self.runs]
        config, env, stop, compiler = self.config, self.env, self.stop, self.compiler
        if isinstance(env, HostEnvironment):
            longest = host.programs(config.of_program, env.spec).start(compiler)
            chunks = host.run(
                *(config, env, keys[0], self.checkpoint, self.terminal.warn),
                stop=stop,
                compiler=compiler,
            )
        else:
            longest = device.programs(config.of_program, env, len(keys)).start(compiler)
            chunks = device.run(
                config, env, jnp.stack(keys), self.checkpoint, stop=stop, compiler=compiler
            )
        compiler.start_after(longest, self._evaluation_programs)
        return chunks

    def _evaluation_programs(self) -> Sequence[Program[Any]]:
        policy = policy_like(self.config, environment_spec(self.env))
        made = evaluation_programs(self.env, policy, self.config.evaluation_episodes)
        films = self.config.film_seconds > 0
        return [*made, *(film_programs(self.env, policy) if films else ())]

    def _take(self, chunk: Chunk, seconds: float, speed: float) -> None:
        for i, run in enumerate(self.runs):
            steps = self.steps, chunk.steps
            run.chunk(steps, seconds, speed, chunk.seeds[i], chunk.policy(i))
        self.steps, self.seconds = chunk.steps, seconds

    def _collect(self) -> None:
        for run in self.runs:
            run.collect(all_of_them=False)

    def _take_unfinished(self, chunk: Chunk, seconds: float) -> None:
        """Save where a chunk was left; nobody else sees it, as the resumed run finishes it."""
        if chunk.steps == 0:
            return
        for i, run in enumerate(self.runs):
            run.final = chunk.policy(i)
        self.steps, self.seconds = chunk.steps, seconds
        self._save(chunk)

    @property
    def _finished(self) -> bool:
        """Whether the time is used up, or every seed has reached the returns to stop at."""
        limit = self.config.max_seconds
        if limit is not None and self.seconds >= limit:
            return True
        if self.config.stop_at_return is None or any(run.solved_at is None for run in self.runs):
            return False
        goal = self.config.stop_at_evaluation
        return goal is None or (
            self._to_confirm and all(r.newest_return >= goal for r in self.runs)
        )

    @property
    def _to_confirm(self) -> bool:
        """Whether an evaluation may end it: the newest episodes of a seed are good enough."""
        goal = self.config.stop_at_evaluation
        return goal is not None and any(run.reached_return for run in self.runs)

    def _confirm(self) -> None:
        """Wait for the evaluations that say whether it is over.

        It must not depend on the speed of a thread after which chunk a run ends.
        """
        if self._to_confirm:
            for run in self.runs:
                run.collect(all_of_them=True)

    def _evaluate(self, pool: Background | None) -> None:
        self.evaluated = self.steps
        for run in self.runs:
            run.start_evaluation(pool, self.steps, self.seconds)

    def _save(self, chunk: Chunk) -> None:
        """Save a checkpoint after a chunk."""
        snapshot = chunk.snapshot()
        policies = {f"seed{i}": run.policies for i, run in enumerate(self.runs)}
        snapshot = snapshot._replace(arrays=snapshot.arrays | policies)
        seeds = [run.record() for run in self.runs]
        record = RunRecord(self.steps, self.seconds, self.evaluated, seeds)
        self.writer.save(snapshot, msgspec.to_builtins(record))

    def save(self) -> None:
        """Write the weights of all seeds, before anything else can go wrong."""
        for run in self.runs:
            run.save(self.steps, self.seconds)

    def report(self, terminal: Terminal) -> None:
        """Report on every seed."""
        for run in self.runs:
            run.report(terminal)

    def close(self) -> None:
        """Close what watches."""
        for run in self.runs:
            run.close()
