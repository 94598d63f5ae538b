"""Results: runs in order, by environment and variant, each with the numbers that are compared."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from noisydqn.errors import UserError
from noisydqn.report import statistics
from noisydqn.report.records import NEWEST, Run, Series

Kind = Literal["evaluations", "episodes"]

KINDS: dict[Kind, str] = {
    "evaluations": "mean return of an evaluation without exploration",
    "episodes": "return of training episodes, exploring",
}
"""What a return is the return of, in words."""

BINS = 60
"""Points of the curve of a run's training episodes."""


class Threshold:
    """What counts as solved in an environment, and where that comes from."""

    def __init__(self, value: float | None, source: str) -> None:
        self.value, self.source = value, source

    @property
    def words(self) -> str:
        """The threshold in words."""
        if self.value is None:
            return "the goal of the run or of its environment"
        return f"a return of {self.value:g} ({self.source})"


@dataclasses.dataclass(frozen=True)
class Cell:
    """The runs of one variant in one environment, by seed; all arrays are [n]."""

    env: str
    variant: str
    runs: tuple[Run, ...]
    curves: tuple[Series, ...]
    finals: np.ndarray  # the final return
    areas: np.ndarray  # the area under the learning curve, divided by its steps
    solved_steps: np.ndarray  # when the threshold was reached, else where the run ended
    solved_seconds: np.ndarray
    solved: np.ndarray  # whether the threshold was reached

    @property
    def seeds(self) -> list[int]:
        """The seeds of the runs."""
        return [run.seed for run in self.runs]

    def median_run(self) -> Run:
        """Return the run with the median final return, of an even number the lower one."""
        return self.runs[np.argsort(self.finals, kind="stable")[(len(self.runs) - 1) // 2]]


@dataclasses.dataclass(frozen=True)
class Scene:
    """What runs show in one environment."""

    env: str
    curve: Kind  # what the learning curves are made of
    final: Kind  # what the final returns are made of
    threshold: Threshold | None
    cells: Mapping[str, Cell]  # by variant


@dataclasses.dataclass(frozen=True)
class Results:
    """All runs, and what they show."""

    runs: tuple[Run, ...]
    variants: tuple[str, ...]
    scenes: tuple[Scene, ...]

    @property
    def cells(self) -> list[Cell]:
        """All cells, by environment and variant."""
        return [cell for scene in self.scenes for cell in scene.cells.values()]

    @property
    def complete(self) -> list[Scene]:
        """The environments in which every variant has runs."""
        return [scene for scene in self.scenes if len(scene.cells) == len(self.variants)]


def make_results(runs: Sequence[Run], threshold: float | None = None) -> Results:
    """Order runs that have names of variants.

    Args:
        runs: at least one.
        threshold: the return that counts as solved, in every environment. None takes the one that
            Gymnasium registers or, if there is none, the goals of the runs.

    Raises:
        UserError: a run is there twice, or no run has a return.
    """
    _refuse_twins(runs)
    if not any(run.counts for run in runs):
        places = runs[0].place if len(runs) == 1 else f"{runs[0].place} and others"
        raise UserError(
            f"nothing to report of {places}: no run that has ended has an evaluation or a training "
            "episode; train for longer"
        )
    variants = tuple(dict.fromkeys(run.variant for run in runs))
    scenes = [
        _scene(env, [run for run in runs if run.env == env and run.counts], threshold)
        for env in dict.fromkeys(run.env for run in runs)
    ]
    return Results(tuple(runs), variants, tuple(scene for scene in scenes if scene.cells))


def _refuse_twins(runs: Sequence[Run]) -> None:
    places: dict[tuple[str, str, int], str] = {}
    for run in runs:
        key = run.env, run.variant, run.seed
        if key in places:
            raise UserError(
                f"{places[key]} and {run.place} are the same run: seed {run.seed} of "
                f"{run.variant} on {run.env}; name one of them, or name variants: NAME=DIR"
            )
        places[key] = run.place


def _scene(env: str, runs: Sequence[Run], given: float | None) -> Scene:
    def all_have(kind: Kind, number: int) -> bool:
        return all(len(getattr(run, kind)) >= number for run in runs)

    curve: Kind = "evaluations" if all_have("evaluations", 2) else "episodes"
    if not all_have("episodes", 1):
        curve = "evaluations"
    final: Kind = "evaluations" if all_have("evaluations", 1) else curve
    threshold = _threshold(runs, given)
    kept = [run for run in runs if len(getattr(run, curve)) and len(getattr(run, final))]
    variants = dict.fromkeys(run.variant for run in kept)
    cells = {
        variant: _cell([run for run in kept if run.variant == variant], curve, final, threshold)
        for variant in variants
    }
    return Scene(env, curve, final, threshold, cells)


def _threshold(runs: Sequence[Run], given: float | None) -> Threshold | None:
    import gymnasium

    if given is not None:
        return Threshold(given, "given")
    for run in runs:
        registered = gymnasium.registry.get(str(run.options.get("env", run.env)))
        if registered is not None and registered.reward_threshold is not None:
            return Threshold(float(registered.reward_threshold), "registered with Gymnasium")
    return Threshold(None, "") if any(run.solved_at is not None for run in runs) else None


def _cell(runs: Sequence[Run], curve: Kind, final: Kind, threshold: Threshold | None) -> Cell:
    runs = sorted(runs, key=lambda run: run.seed)
    curves = [curve_of(run, curve) for run in runs]
    times = [_time(run, curve, threshold) for run in runs]
    return Cell(
        env=runs[0].env,
        variant=runs[0].variant,
        runs=tuple(runs),
        curves=tuple(curves),
        finals=np.array([final_return(run, final) for run in runs]),
        areas=np.array([statistics.mean_over_time(x.steps, x.values) for x in curves]),
        solved_steps=np.array([steps for steps, _, _ in times], float),
        solved_seconds=np.array([seconds for _, seconds, _ in times], float),
        solved=np.array([solved for _, _, solved in times], bool),
    )


def curve_of(run: Run, kind: Kind) -> Series:
    """Return what is drawn of a run: its evaluations, or means of its training episodes."""
    return run.evaluations if kind == "evaluations" else run.episodes.binned(BINS)


def final_return(run: Run, kind: Kind) -> float:
    """Return the last evaluation of a run, or the mean of its newest training episodes."""
    if kind == "evaluations":
        return float(run.evaluations.values[-1])
    return float(run.episodes.values[-NEWEST:].mean())


def _time(run: Run, kind: Kind, threshold: Threshold | None) -> tuple[float, float, bool]:
    """Return when a run reached the threshold in steps and seconds, else where it ended."""
    series: Series = getattr(run, kind)
    end = max(float(run.steps), float(series.steps[-1]))
    if threshold is None:
        return end, run.seconds, False
    if threshold.value is None:
        solved = run.solved_at
        return (end, run.seconds, False) if solved is None else (*solved, True)
    values = series.values if kind == "evaluations" else newest_means(series.values)
    reached = np.flatnonzero(values >= threshold.value)
    if not len(reached):
        return end, run.seconds, False
    return float(series.steps[reached[0]]), float(series.seconds[reached[0]]), True


def newest_means(values: np.ndarray) -> np.ndarray:
    """Return the mean of each value and those before it, `NEWEST` in all; NaN where they are fewer.

    Args:
        values: [n].

    Returns:
        [n].
    """
    sums = np.cumsum(np.concatenate([[0.0], values]))
    means = np.full(len(values), math.nan)
    means[NEWEST - 1 :] = (sums[NEWEST:] - sums[:-NEWEST]) / NEWEST
    return means
