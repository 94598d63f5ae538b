"""The trials of a tuning while it runs: which come next, what they came to, which are pruned."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from noisydqn.errors import UserError
from noisydqn.report.statistics import interquartile_mean
from noisydqn.runs.folder import RunFolder
from noisydqn.runs.plots import read_columns
from noisydqn.study.board import Board
from noisydqn.study.grid import Variant, as_text
from noisydqn.study.jobs import Job
from noisydqn.study.journal import Journal
from noisydqn.study.ledger import Ledger
from noisydqn.study.space import Space, suggest

if TYPE_CHECKING:
    from optuna.trial import Trial

Curve = Mapping[int, float]
"""Returns of evaluations, by the number of the evaluation."""


@dataclass
class _Open:
    """A trial that has not ended, and its jobs."""

    trial: "Trial"
    jobs: Sequence[Job]


class Trials:
    """The trials of a tuning, as the guide of its performance.

    Args:
        journal: has the trials.
        ledger: has their runs.
        board: says what they came to.
        space: the dimensions.
        variants: names of the base's variants by section.
        number: trials in all.
        jobs_of: makes the jobs of a trial, seed after seed.
    """

    def __init__(
        self,
        journal: Journal,
        ledger: Ledger,
        board: Board,
        space: Space,
        variants: Mapping[str, Any],
        number: int,
        jobs_of: Callable[[Variant], Sequence[Job]],
    ) -> None:
        self._journal, self._ledger, self._board = journal, ledger, board
        self._space, self._variants = space, variants
        self._number, self._jobs_of = number, jobs_of
        self._open: list[_Open] = []
        self._runs = 1  # of a trial, as jobs

    # The guide

    @property
    def to_come(self) -> int:
        """The number of jobs that may still come."""
        return max(self._number - self._journal.begun, 0) * self._runs

    def more(self) -> Sequence[Job]:
        """Begin the next trial that is trained, and return its jobs; none if all have begun."""
        while self._journal.begun < self._number:
            if jobs := self._admit(self._journal.ask()):
                return jobs
        return []

    def unwanted(self) -> Sequence[Job]:
        """Note what the open trials came to; return the jobs of those that are over."""
        found: list[Job] = []
        for each in list(self._open):
            if self._is_over(each):
                self._open.remove(each)
                states = ((job, self._ledger.status(job)) for job in each.jobs)
                found += [job for job, status in states if status in ("waiting", "running")]
        return found

    # Trials that begin

    def revive(self) -> list[Job]:
        """Return the jobs of the trials that a stop or a kill has left, which then continue."""
        running = self._journal.running()
        names = {variant_name(trial.number) for trial in running}
        for entry in self._ledger.stored.jobs:
            if entry.status in ("waiting", "running"):
                entry.status = "waiting" if entry.variant in names else "pruned"
        jobs: list[Job] = []
        for trial in running:
            self._journal.revive(trial)
            jobs += self._admit(trial)
        return jobs

    def _admit(self, trial: "Trial") -> Sequence[Job]:
        """Let a trial propose options; return its jobs, none if it needs no training."""
        options = suggest(self._space, trial, self._variants)
        variant = Variant(variant_name(trial.number), options)
        listed = any(x.name == variant.name for x in self._ledger.stored.variants)
        if not listed and self._is_repeated(trial, options):
            return []
        try:
            jobs = self._jobs_of(variant)
        except UserError as error:
            self._journal.fail(trial)
            self._board.warn(f"{variant.name} is not trained: {error}")
            return []
        if not listed:
            self._ledger.add(variant, jobs)
        self._runs = len(jobs)
        self._open.append(_Open(trial, jobs))
        return jobs

    def _is_repeated(self, trial: "Trial", options: Mapping[str, Any]) -> bool:
        """Let a trial end like an earlier one with its options: its seeds would do the same."""
        values = {x.number: x.value for x in self._journal.best()}
        for earlier in self._ledger.stored.variants:
            number = number_of(earlier.name)
            if as_texts(earlier.options) != as_texts(options) or self._journal.state(number) in (
                "RUNNING",
                "FAIL",
            ):
                continue
            if number in values:
                self._journal.complete(trial, values[number])
            else:
                self._journal.prune(trial)
            self._board.say(f"{variant_name(trial.number)} proposes what {earlier.name} has tried")
            return True
        return False

    # Trials that end

    def _is_over(self, each: _Open) -> bool:
        """Note what a trial came to so far; tell whether it has ended or is pruned."""
        trial, name = each.trial, variant_name(each.trial.number)
        statuses = [self._ledger.entry(run).status for job in each.jobs for run in job.runs]
        finished = [status == "finished" for status in statuses]
        if "failed" in statuses:
            self._journal.fail(trial)
            return True
        every, budget = self._spacing(each.jobs[0])
        curves = [self._curve(job, i) for job in each.jobs for i in range(len(job.runs))]
        points = curve_points([numbered(x, every) for x in curves], finished, budget // every)
        prune = self._journal.report(trial, points)
        if "diverged" in statuses:
            self._journal.prune(trial)
            self._board.say(f"{name} is over, as a run of it diverged")
            return True
        if all(finished):
            self._conclude(trial, curves)
            return True
        if prune:
            self._journal.prune(trial)
            self._board.say(f"{name} is pruned at a return of {points[max(points)]:.1f}")
        return prune

    def _spacing(self, job: Job) -> tuple[int, int]:
        """Return the steps between evaluations, and of a run."""
        run = job.cell.config.run
        return run.evaluation_every or run.steps, run.steps

    def _curve(self, job: Job, place: int) -> list[tuple[int, float]]:
        """Return the steps and returns of a run's evaluations; [] while they cannot be read."""
        folder = RunFolder.at(self._ledger.folder.path / job.runs[place].folder)
        try:
            columns = read_columns(folder.evaluations, "mean_return")
        except UserError:  # a row is half written
            return []
        rows = zip(columns.get("step", ()), columns.get("mean_return", ()), strict=True)
        return [(int(step), value) for step, value in rows if math.isfinite(value)]

    def _conclude(self, trial: "Trial", curves: Sequence[Sequence[tuple[int, float]]]) -> None:
        """Note the value of a trial whose runs have finished."""
        name = variant_name(trial.number)
        finals = [curve[-1][1] for curve in curves if curve]
        if len(finals) < len(curves):
            self._journal.fail(trial)
            self._board.warn(f"failed: {name}: a run of it has no evaluation")
            return
        value = objective(finals)
        self._journal.complete(trial, value)
        options = next(x.options for x in self._ledger.stored.variants if x.name == name)
        self._board.say(f"{name} returns {value:.1f} ({in_words(options)})")


def variant_name(number: int) -> str:
    """Name the variant of a trial."""
    return f"trial-{number}"


def number_of(name: str) -> int:
    """Return the number of the trial that a variant is."""
    return int(name.removeprefix("trial-"))


def as_texts(options: Mapping[str, Any]) -> dict[str, str]:
    """Return options as the command line takes them, which a file does not change."""
    return {name: as_text(value) for name, value in options.items()}


def in_words(options: Mapping[str, Any]) -> str:
    """Write options in a line: `n_step=3, double=true`."""
    return ", ".join(f"{name}={text}" for name, text in as_texts(options).items())


def objective(finals: Sequence[float]) -> float:
    """Return the interquartile mean of the last evaluations of a trial's seeds."""
    return float(interquartile_mean(np.asarray(finals, float)))


def numbered(curve: Sequence[tuple[int, float]], every: int) -> Curve:
    """Number evaluations by the multiple of `every` steps that they follow."""
    return {step // every: value for step, value in curve}


def curve_points(
    curves: Sequence[Curve], finished: Sequence[bool], points: int
) -> dict[int, float]:
    """Join the curves of a trial's seeds to one, in which trials are compared point by point.

    The first seed's curve comes first. The next seed's points follow: each is the interquartile
    mean over the seeds so far, at the same number of steps. A seed's curve begins where the one
    before it has finished, so the points do not depend on how many runs train at a time.

    Args:
        curves: of each seed, in order.
        finished: whether each seed has finished.
        points: evaluations of a whole run.
    """
    joined: dict[int, float] = {}
    for place, (curve, whole) in enumerate(zip(curves, finished, strict=True)):
        for number in curve:
            values = [x[number] for x in curves[: place + 1] if number in x]
            if len(values) == place + 1:
                joined[place * points + number] = objective(values)
        if not whole:
            break
    return joined
