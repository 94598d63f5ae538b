"""One seed's part of a session: its trackers, evaluations, weights and report."""

import dataclasses
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import jax

from noisydqn.checkpoint.reader import Checkpoint
from noisydqn.compilation import Background, Compiler, wait
from noisydqn.config.config import Config
from noisydqn.envs.protocol import Environment
from noisydqn.errors import UserError
from noisydqn.learner.policy import Policy
from noisydqn.play.evaluate import Evaluation
from noisydqn.play.video import save_film
from noisydqn.runners.build import policy_like
from noisydqn.runners.report import SeedChunk
from noisydqn.runners.stop import Stop
from noisydqn.runs.callbacks import Training
from noisydqn.runs.evaluations import Evaluations
from noisydqn.runs.extensions import Extensions, Watchers
from noisydqn.runs.folder import RunFolder
from noisydqn.runs.keys import seed_keys
from noisydqn.runs.plots import save_curves
from noisydqn.runs.progress import FileSizes, Progress, SeedProgress
from noisydqn.runs.summary import read_summary
from noisydqn.runs.trackers import FileTracker, TensorBoardTracker, Terminal, Tracker
from noisydqn.runs.weights import save_policy


@dataclasses.dataclass(frozen=True)
class Context:
    """The environment and the services that all seeds of a run share."""

    env: Environment
    terminal: Terminal
    stop: Stop
    compiler: Compiler
    extensions: Extensions


class SeedSession:
    """One seed's part of a session.

    Its life cycle: `restore` if the run is resumed; `open`; `record_chunk` and `take_evaluation`
    while training; `save`; `close`; `report`. All counts are in the session's `Progress`.

    Args:
        config: config of this seed.
        folder: folder of this seed.
        context: services shared by all seeds of the run.
        shown: whether the terminal shows this seed.
    """

    def __init__(self, config: Config, folder: RunFolder, context: Context, *, shown: bool) -> None:
        self.config, self.folder, self.context = config, folder, context
        self.keys = seed_keys(config.run.seed)
        self.evaluations = Evaluations(config, context.env, self.keys.selection, context.stop.check)
        self.final: Policy | None = None  # the newest weights; None before the first chunk
        self.best: Policy | None = None  # of all evaluations; None before the first
        self.summary: dict[str, Any] = {}
        self._terminal = context.terminal if shown else None
        self._trackers: list[Tracker] = []

    def restore(self, progress: SeedProgress, checkpoint: Checkpoint, name: str) -> None:
        """Read the policies that a checkpoint holds under `name`.

        Raises:
            UserError: the stored policies are not those of the config.
        """
        like = policy_like(self.config.program, self.context.env.spec)
        leaves = len(jax.tree.leaves(like))
        if leaves * len(progress.pending) > len(checkpoint.manifest.arrays):
            raise checkpoint.unfit("weights of pending evaluations are not there")
        best = None if progress.best_return is None else like
        expected = {"final": like, "best": best, "pending": [like] * len(progress.pending)}
        policies: dict[str, Any] = checkpoint.read(name, expected)
        self.final, self.best = policies["final"], policies["best"]
        for (steps, _), policy in zip(progress.pending, policies["pending"], strict=True):
            self.evaluations.policies[steps] = policy

    def open(self, steps: int, sizes: FileSizes) -> None:
        """Open the trackers after `steps`; rows beyond `sizes` are removed from the files.

        Raises:
            ExtensionFailedError: a tracker of the user's cannot be made.
        """
        config, folder, context = self.config, self.folder, self.context
        self.watchers = Watchers(context.extensions, folder.path, config, context.terminal.warn)
        self._files = FileTracker(folder, sizes)
        self._trackers = [self._files, TensorBoardTracker(folder, config, steps)]
        if self._terminal is not None:
            self._trackers.append(self._terminal)

    # Training

    def record_chunk(self, steps: int, seconds: float, speed: float, chunk: SeedChunk) -> None:
        """Record a chunk, which ended after `steps`."""
        for tracker in self._trackers:
            tracker.chunk(steps, seconds, speed, chunk)

    def queue_evaluation(self, steps: int) -> None:
        """Keep the newest weights until they are evaluated."""
        assert self.final is not None  # noqa: S101 - a chunk came before
        self.evaluations.policies[steps] = self.final

    def start_evaluation(self, steps: int, pool: Background) -> None:
        """Start an evaluation that was queued after `steps`."""
        if self._terminal is not None:
            self._terminal.evaluating(steps)
        self.evaluations.start(steps, pool)

    def take_evaluation(
        self, steps: int, seconds: float, evaluation: Evaluation, *, best: bool
    ) -> None:
        """Record an outcome, and keep the weights if they are the best so far."""
        policy = self.evaluations.remove(steps)
        if best:
            self.best = policy
            save_policy(self.folder.best, policy)
        for tracker in self._trackers:
            tracker.evaluation(steps, seconds, evaluation)

    def training(self, progress: Progress, index: int, stop: Callable[[], None]) -> Training:
        """Return what callbacks see of this seed, whose index in `progress` is `index`."""
        seed = progress.seeds[index]
        return Training(
            config=self.config,
            folder=self.folder.path,
            steps=progress.steps,
            seconds=progress.seconds,
            num_updates=seed.num_updates,
            num_episodes=seed.num_episodes,
            _weights=self.final,
            _spec=self.context.env.spec,
            _stop=stop,
        )

    # Saving

    @property
    def best_policy(self) -> Policy:
        """The best policy of all evaluations, or the newest if there was none."""
        best = self.final if self.best is None else self.best
        if best is None:
            raise RuntimeError("nothing was trained yet")
        return best

    def policies(self, progress: SeedProgress) -> dict[str, Any]:
        """Return the policies that a checkpoint holds."""
        pending = [self.evaluations.policies[steps] for steps, _ in progress.pending]
        return {"final": self.final, "best": self.best, "pending": pending}

    def file_sizes(self) -> FileSizes:
        """Return the current sizes of the CSV files."""
        return self._files.sizes()

    def save(self, steps: int, seconds: float, progress: SeedProgress) -> None:
        """Write weights and summary. The summary's evaluation stays if no step was added."""
        assert self.final is not None  # noqa: S101 - a chunk came before
        save_policy(self.folder.final, self.final)
        save_policy(self.folder.best, self.best_policy)
        solved_step, solved_seconds = progress.solved_at or (None, None)
        before = read_summary(self.folder)
        reported = before if before.get("steps") == steps else {}
        self.summary = {
            "preset": self.config.preset,
            "env": self.config.environment.env,
            "seed": self.config.run.seed,
            "steps": steps,
            "updates": progress.num_updates,
            "episodes": progress.num_episodes,
            "train_seconds": round(seconds, 2),
            "steps_per_second": round(steps / seconds, 1),
            "solved_at_step": solved_step,
            "solved_at_seconds": None if solved_seconds is None else round(solved_seconds, 2),
            "evaluation": reported.get("evaluation"),
        }
        self.folder.summary.write_json(self.summary)

    def close(self) -> None:
        """Close the trackers, all of them even if one fails; a second call does nothing."""
        with ExitStack() as stack:
            stack.callback(self.watchers.close)
            for tracker in self._trackers:
                stack.callback(tracker.close)
            self._trackers = []

    # The report

    @property
    def records_video(self) -> bool:
        """Whether the report records a video: it is requested, possible and not yet recorded."""
        recorded = self.summary["evaluation"] is not None and self.folder.video.exists()
        possible = self.context.env.video_problem is None
        return self.config.run.video_seconds > 0 and not recorded and possible

    def report(self) -> None:
        """Evaluate the best weights in separate episodes, and record a video of them.

        A resumed run does not repeat what was reported already.

        Raises:
            StoppedError: a stop was requested.
        """
        policy, records_video = self.best_policy, self.records_video
        with Background(1, "evaluation") as pool:
            future = None
            if self.summary["evaluation"] is None:
                future = pool.submit(partial(self.evaluations.play, policy, self.keys.report))
            save_curves(self.folder)

            def take() -> None:
                if future is not None and self.summary["evaluation"] is None and future.done():
                    self.summary["evaluation"] = future.result().summary()
                    self.folder.summary.write_json(self.summary)
                self.context.stop.check()

            if future is not None and self.context.env.plays_one_at_a_time:
                wait(future, take)  # some environments can be made only once
            if records_video:
                self._record_video(policy, take)
            if future is not None:
                wait(future, take)
            take()

    def _record_video(self, policy: Policy, check: Callable[[], None]) -> None:
        file, seconds = self.folder.video, self.config.run.video_seconds
        try:
            save_film(file, self.context.env, policy, seconds, self.keys.video, check=check)
        except UserError as error:
            self.context.terminal.warn(str(error))
