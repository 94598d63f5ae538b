"""The progress of a run: a value with pure transitions, which a checkpoint stores unchanged.

`Session` performs the effects: trackers, evaluations, checkpoints and weights.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import msgspec
from msgspec.structs import replace

from noisydqn.checkpoint.origin import Origin
from noisydqn.config.config import Config
from noisydqn.options import MAX_COUNT
from noisydqn.play.evaluate import Evaluation
from noisydqn.runners.report import SeedChunk

Size = Annotated[int, msgspec.Meta(ge=0, lt=2**62)]
FileSizes = tuple[Size, Size, Size]
"""Bytes of `metrics.csv`, `episodes.csv` and `evaluations.csv`."""
Count = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e12)]


@dataclasses.dataclass(frozen=True)
class Goals:
    """The options that decide when a run evaluates and when it stops."""

    budget: int  # environment steps
    window: int = 1  # training episodes over which returns are averaged
    evaluation_every: int = MAX_COUNT  # environment steps
    stop_at_return: float | None = None  # mean of the newest training episodes
    stop_at_evaluation: float | None = None  # mean of an evaluation
    max_seconds: float | None = None

    @classmethod
    def of(cls, config: Config) -> "Goals":
        """Read the goals from a config."""
        return cls(
            budget=config.total_steps,
            window=config.run.window,
            evaluation_every=config.run.evaluation_every or MAX_COUNT,
            stop_at_return=config.run.stop_at_return,
            stop_at_evaluation=config.run.stop_at_evaluation,
            max_seconds=config.run.max_seconds,
        )


class SeedProgress(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The progress of one seed."""

    num_updates: Count = 0
    num_episodes: Count = 0
    recent_returns: tuple[float, ...] = ()  # of at most `window` training episodes
    best_return: float | None = None  # of an evaluation; None before the first
    newest_return: float | None = None  # of an evaluation; None before the first
    solved_at: tuple[Count, Seconds] | None = None  # steps and seconds
    pending: tuple[tuple[Count, Seconds], ...] = ()
    """Steps and seconds of the evaluations whose outcome is not known yet, oldest first."""

    def reached_return(self, goals: Goals) -> bool:
        """Compare the mean return of the newest training episodes with the goal."""
        if goals.stop_at_return is None or len(self.recent_returns) < goals.window:
            return False
        return sum(self.recent_returns) / goals.window >= goals.stop_at_return

    def is_best(self, evaluation: Evaluation) -> bool:
        """Tell whether no earlier evaluation had a higher mean return."""
        return self.best_return is None or evaluation.mean_return >= self.best_return

    def after_chunk(self, chunk: SeedChunk, seconds: float, goals: Goals) -> "SeedProgress":
        """Count a chunk's updates and episodes; note the episode that reaches the goal."""
        after = replace(self, num_updates=chunk.updates)
        for episode in chunk.episodes:
            returns = (*after.recent_returns, episode.episode_return)[-goals.window :]
            after = replace(after, num_episodes=after.num_episodes + 1, recent_returns=returns)
            if after.solved_at is None and after.reached_return(goals):
                after = replace(after, solved_at=(episode.step, seconds))
        return after

    def after_evaluation_started(self, steps: int, seconds: float) -> "SeedProgress":
        """Queue an evaluation of the weights reached after `steps` and `seconds`."""
        return replace(self, pending=(*self.pending, (steps, seconds)))

    def after_evaluation(self, evaluation: Evaluation, goals: Goals) -> "SeedProgress":
        """Record the outcome of the oldest pending evaluation."""
        when, *pending = self.pending
        solved = goals.stop_at_return is None and evaluation.solved
        return replace(
            self,
            best_return=evaluation.mean_return if self.is_best(evaluation) else self.best_return,
            newest_return=evaluation.mean_return,
            solved_at=when if self.solved_at is None and solved else self.solved_at,
            pending=tuple(pending),
        )

    def after_failed_evaluation(self) -> "SeedProgress":
        """Drop the oldest pending evaluation."""
        return replace(self, pending=self.pending[1:])


class Progress(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The progress of all seeds that are trained together."""

    seeds: tuple[SeedProgress, ...]
    steps: Count = 0  # environment steps
    seconds: Seconds = 0.0
    evaluated_at: Count = 0  # steps at which the newest evaluations were started
    stopped_budget: Count = 0
    """The budget of steps that a callback ended early; 0 if none did. A run that is resumed with a
    larger budget continues."""

    @classmethod
    def start(cls, num_seeds: int) -> "Progress":
        """Return the progress of a run that has not begun."""
        return cls(seeds=(SeedProgress(),) * num_seeds)

    # Transitions

    def after_chunk(
        self, steps: int, seconds: float, chunks: Sequence[SeedChunk], goals: Goals
    ) -> "Progress":
        """Record a chunk of every seed, which ended after `steps` and `seconds`."""
        seeds = [
            seed.after_chunk(chunk, seconds, goals)
            for seed, chunk in zip(self.seeds, chunks, strict=True)
        ]
        return replace(self, steps=steps, seconds=seconds, seeds=tuple(seeds))

    def after_unfinished_chunk(self, steps: int, seconds: float) -> "Progress":
        """Record where a stop left a chunk, which the resumed run finishes and counts."""
        return replace(self, steps=steps, seconds=seconds)

    def after_evaluations_started(self) -> "Progress":
        """Queue an evaluation of every seed's newest weights."""
        seeds = [seed.after_evaluation_started(self.steps, self.seconds) for seed in self.seeds]
        return replace(self, evaluated_at=self.steps, seeds=tuple(seeds))

    def after_evaluation(self, index: int, evaluation: Evaluation, goals: Goals) -> "Progress":
        """Record the oldest pending evaluation of the seed at `index`."""
        return self._with_seed(index, self.seeds[index].after_evaluation(evaluation, goals))

    def after_failed_evaluation(self, index: int) -> "Progress":
        """Drop the oldest pending evaluation of the seed at `index`."""
        return self._with_seed(index, self.seeds[index].after_failed_evaluation())

    def after_stop_request(self, goals: Goals) -> "Progress":
        """End the budget early, as a callback requested."""
        return replace(self, stopped_budget=goals.budget)

    def after_training(self, seconds: float) -> "Progress":
        """Count the seconds that the last evaluations and the checkpoint took."""
        return replace(self, seconds=seconds)

    def _with_seed(self, index: int, seed: SeedProgress) -> "Progress":
        return replace(self, seeds=(*self.seeds[:index], seed, *self.seeds[index + 1 :]))

    # Decisions

    def needs_confirmation(self, goals: Goals) -> bool:
        """Tell whether an evaluation may end training: a seed's training returns reach the goal."""
        if goals.stop_at_evaluation is None:
            return False
        return any(seed.reached_return(goals) for seed in self.seeds)

    def should_evaluate(self, goals: Goals) -> bool:
        """Tell whether to evaluate now, after a chunk."""
        every = goals.evaluation_every
        scheduled = self.steps // every > self.evaluated_at // every
        return scheduled or self.needs_confirmation(goals)

    def should_stop(self, goals: Goals) -> bool:
        """Tell whether to end training before the budget is used up.

        The reason is that the time is used up, a callback requested it, or every seed has reached
        the goals.
        """
        if self.steps == 0:
            return False
        if goals.max_seconds is not None and self.seconds >= goals.max_seconds:
            return True
        return self.stopped_budget >= goals.budget or self._reached(goals)

    def _reached(self, goals: Goals) -> bool:
        if goals.stop_at_return is None or any(seed.solved_at is None for seed in self.seeds):
            return False
        goal = goals.stop_at_evaluation
        if goal is None:
            return True
        returns = [seed.newest_return for seed in self.seeds]
        confirmed = all(x is not None and x >= goal for x in returns)
        return confirmed and self.needs_confirmation(goals)


# In checkpoints


class StoredRun(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The part of a checkpoint that does not belong to the runner.

    Checkpoints that are older than a field lack it.
    """

    progress: Progress
    file_sizes: tuple[FileSizes, ...]  # of each seed
    config: dict[str, Any] | None = None  # config.json of the first seed
    config_sha256: str | None = None  # of that file
    origin: Origin | None = None

    def encode(self) -> dict[str, Any]:
        """Return plain values that JSON can hold, as a manifest does."""
        stored = msgspec.to_builtins(self)
        return {**stored, "progress": _finite(stored["progress"])}

    @classmethod
    def decode(cls, stored: dict[str, Any]) -> "StoredRun":
        """Read what `encode` returned, or what format 1 stored.

        Raises:
            msgspec.ValidationError: the values have neither form, or contradict each other.
        """
        stored = stored if "progress" in stored else _upgraded(stored)
        try:
            progress = _numbers(stored["progress"])
        except RecursionError as error:
            raise msgspec.ValidationError("its progress is nested too deeply") from error
        run = msgspec.convert({**stored, "progress": progress}, cls)
        for seed in run.progress.seeds:
            steps = [step for step, _ in seed.pending]
            if steps != sorted(set(steps)) or max(steps, default=0) > run.progress.steps:
                raise msgspec.ValidationError("its pending evaluations are impossible")
        return run


NOT_FINITE = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}
"""Numbers that JSON lacks, by the text that stands for them. No progress holds any other text."""


def _finite(value: Any) -> Any:
    """Replace numbers that are not finite by text, in lists and objects of plain values."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return _mapped(_finite, value)


def _numbers(value: Any) -> Any:
    """Undo `_finite`."""
    if isinstance(value, str):
        return NOT_FINITE.get(value, value)
    return _mapped(_numbers, value)


def _mapped(change: Callable[[Any], Any], value: Any) -> Any:
    match value:
        case dict() as items:
            return {name: change(item) for name, item in items.items()}
        case list() | tuple() as items:
            return [change(item) for item in items]
        case _:
            return value


class _SeedOfFormat1(msgspec.Struct, forbid_unknown_fields=True):
    episodes: int
    updates: int
    recent: tuple[float, ...]
    best_return: float | None
    newest_return: float | None
    solved_at: tuple[int, float] | None
    pending: tuple[tuple[int, float], ...]
    sizes: FileSizes


class _RunOfFormat1(msgspec.Struct, forbid_unknown_fields=True):
    steps: int
    seconds: float
    evaluated: int
    seeds: list[_SeedOfFormat1]


def _upgraded(stored: dict[str, Any]) -> dict[str, Any]:
    """Convert what a checkpoint of format 1 stores of a run to the present form."""
    run = msgspec.convert(stored, _RunOfFormat1)
    seeds = [
        SeedProgress(
            num_updates=seed.updates,
            num_episodes=seed.episodes,
            recent_returns=seed.recent,
            best_return=seed.best_return,
            newest_return=seed.newest_return,
            solved_at=seed.solved_at,
            pending=seed.pending,
        )
        for seed in run.seeds
    ]
    progress = Progress(tuple(seeds), run.steps, run.seconds, run.evaluated)
    return StoredRun(progress, tuple(seed.sizes for seed in run.seeds)).encode()
