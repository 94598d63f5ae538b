"""One seed's part of a session: its trackers, evaluations, weights and report."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax

from noisydqn.checkpoint.reader import Checkpoint
from noisydqn.compilation import Background, Compiler, wait
from noisydqn.config.config import Config
from noisydqn.envs.protocol import Environment
from noisydqn.learner.policy import Policy
from noisydqn.play.evaluate import Evaluation
from noisydqn.play.video import save_film
from noisydqn.runners.build import policy_like
from noisydqn.runners.report import SeedChunk
from noisydqn.runners.stop import Stop
from noisydqn.runs.actors import Place
from noisydqn.runs.callbacks import Training
from noisydqn.runs.ending import Ending
from noisydqn.runs.evaluations import Evaluations
from noisydqn.runs.extensions import Callbacks, Extensions, Watchers
from noisydqn.runs.folder import RunFolder, read_summary
from noisydqn.runs.keeper import Keeper
from noisydqn.runs.keys import seed_keys
from noisydqn.runs.pages import write_page
from noisydqn.runs.plots import save_curves
from noisydqn.runs.progress import FileSizes, Progress, SeedProgress
from noisydqn.runs.start import read_record
from noisydqn.runs.trackers import FileTracker, TensorBoardTracker, Terminal
from noisydqn.runs.tracking import SERVICES, open_tracker
from noisydqn.runs.walls import Wall
from noisydqn.runs.weights import save_policy


@dataclasses.dataclass(frozen=True)
class Context:
    """The environment and the services that all seeds of a run share."""

    env: Environment
    terminal: Terminal
    ending: Ending
    compiler: Compiler
    extensions: Extensions
    keeper: Keeper
    place: Place

    @property
    def stop(self) -> Stop:
        """The requests to stop."""
        return self.ending.stop


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
        self.callbacks = Callbacks(context.extensions.callbacks)
        self._terminal = context.terminal if shown else None
        self._watchers = Watchers(context.terminal.warn)
        self._services = Watchers(context.terminal.warn)  # which also get the result
        self._best_wall = Wall(str(folder.best), context.terminal.warn)

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
        """Open the trackers after `steps`; rows beyond `sizes` are removed from the files."""
        config, folder, watchers = self.config, self.folder, self._watchers
        self._files = files = FileTracker(folder, sizes, self.context.terminal.warn)
        watchers.add("the tables", lambda: files)
        watchers.add("TensorBoard", partial(TensorBoardTracker, folder, config, steps))
        if (terminal := self._terminal) is not None:
            watchers.add("the live view", lambda: terminal)
        watchers.add_given(self.context.extensions, folder.path, config)
        say = self.context.terminal.say
        for name in config.run.track:
            make = partial(open_tracker, name, folder, config, say)
            self._services.add(f"tracking with {SERVICES[name].title}", make)

    # Training

    def record_chunk(self, steps: int, seconds: float, speed: float, chunk: SeedChunk) -> None:
        """Record a chunk, which ended after `steps`."""
        for watchers in (self._watchers, self._services):
            watchers.chunk(steps, seconds, speed, chunk)

    def queue_evaluation(self, steps: int) -> None:
        """Keep the newest weights until they are evaluated."""
        assert self.final is not None  # noqa: S101 - a chunk came before
        self.evaluations.policies[steps] = self.final

    def start_evaluation(self, steps: int, pool: Background) -> None:
        """Start the evaluation that was queued after `steps`, unless that was done."""
        if self.evaluations.start(steps, pool) and self._terminal is not None:
            self._terminal.evaluating(steps)

    def take_evaluation(
        self, steps: int, seconds: float, evaluation: Evaluation, *, best: bool
    ) -> None:
        """Record an outcome, and keep the weights if they are the best so far.

        If those cannot be written now, they may be at the end.
        """
        policy = self.evaluations.remove(steps)
        if best:
            self.best = policy
            self._best_wall.finish("", self._save_best, policy)
        for watchers in (self._watchers, self._services):
            watchers.evaluation(steps, seconds, evaluation)

    def _save_best(self, policy: Policy) -> None:
        self.context.keeper.restore()
        save_policy(self.folder.best, policy)

    def _log(self, steps: int, values: Mapping[str, float]) -> None:
        for watchers in (self._watchers, self._services):
            watchers.values(steps, values)

    def training(
        self, progress: Progress, index: int, stop: Callable[[], None], save: Callable[[], None]
    ) -> Training:
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
            _save=save,
            _log=self._log,
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
        self.context.keeper.restore()
        self._write_weights(self.final)
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
        if (record := read_record(self.folder)) is not None:
            self.summary |= {"started_from": record.words, "started_from_sha256": record.sha256}
        self.folder.summary.write_json(self.summary)

    def _write_weights(self, final: Policy) -> None:
        save_policy(self.folder.final, final)
        save_policy(self.folder.best, self.best_policy)

    def close_watchers(self) -> None:
        """Close all trackers but those that get the result; a second call does nothing."""
        self._watchers.close()

    def close(self) -> None:
        """Close the trackers; a second call does nothing."""
        self._watchers.close()
        self._services.close()

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
            UserError: the environment failed, or cannot be made.
        """
        policy, records_video = self.best_policy, self.records_video
        with Background(1, "evaluation") as pool:
            future = None
            if self.summary["evaluation"] is None:
                future = self.evaluations.submit(policy, self.keys.report, pool)
            warn = self.context.terminal.warn
            Wall("drawing the curves", warn).call("", save_curves, self.folder)

            def take() -> None:
                if future is not None and future.done() and future.exception() is None:
                    self._take_report(future.result())
                self.evaluations.check(future)

            if future is not None and self.context.env.plays_one_at_a_time:
                wait(future, take)  # some environments can be made only once
            if records_video:
                Wall("recording a video", warn).call("", self._record_video, policy, take)
            if future is not None:
                wait(future, take)
            take()
        Wall("writing the page", warn).call("", write_page, self.folder)
        if (evaluation := self.summary["evaluation"]) is not None:
            video = self.folder.video if records_video and self.folder.video.exists() else None
            self._services.result(self.summary["steps"], evaluation, video)

    def _take_report(self, evaluation: Evaluation) -> None:
        if self.summary["evaluation"] is None:
            summary = self.summary | {"evaluation": evaluation.summary()}
            self.context.keeper.restore()
            if self.final is not None and not self.folder.final.exists():  # it was removed
                self._write_weights(self.final)
            self.folder.summary.write_json(summary)
            self.summary = summary

    def _record_video(self, policy: Policy, check: Callable[[], None]) -> None:
        file, seconds = self.folder.video, self.config.run.video_seconds
        save_film(file, self.context.env, policy, seconds, self.keys.video, check=check)
