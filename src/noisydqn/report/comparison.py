"""Comparisons of variants, with a verdict in words that claims no more than the runs allow."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from noisydqn.errors import counted
from noisydqn.report import statistics
from noisydqn.report.results import Cell, Results, Scene
from noisydqn.report.statistics import LEVEL, MIN_SEEDS, Interval

Outcome = Literal["above", "below", "level", "not told apart", "too few"]

SEED = 0
"""Seed of the resamples, so that a page has the same numbers each time it is made."""


def resampling() -> np.random.Generator:
    """Return the generator of one estimate's resamples: each estimate starts it anew."""
    return np.random.default_rng(SEED)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One variant against another in one environment."""

    env: str
    variant: str
    other: str
    improvement: Interval  # probability that a run of `variant` is better than one of `other`
    difference: Interval  # median of `variant` minus that of `other`
    paired: bool  # whether the difference is between runs of the same seeds
    runs: tuple[int, int]  # of each
    p_value: float  # of the rank test

    @property
    def outcome(self) -> Outcome:
        """The verdict. A difference is claimed only if both intervals and the test agree."""
        if not self.improvement.known:
            return "too few"
        if self.difference == (0, 0, 0) and self.improvement.estimate == 0.5:
            return "level"
        apart = self.improvement.excludes(0.5) and self.difference.excludes(0)
        agree = (self.improvement.estimate > 0.5) == (self.difference.estimate > 0)
        if not (apart and agree and self.p_value < 1 - LEVEL):
            return "not told apart"
        return "above" if self.difference.estimate > 0 else "below"

    @property
    def claim(self) -> str:
        """The verdict in words."""
        return _claim(self.outcome, self.variant, self.other, f"on {self.env}")

    @property
    def numbers(self) -> str:
        """The numbers behind the verdict."""
        few = "" if self.improvement.known else f", no intervals below {MIN_SEEDS} seeds"
        one, two = self.runs
        seeds = counted(one, "seed") if one == two else f"{one} and {two} seeds"
        paired = "paired difference" if self.paired else "difference"
        return (
            f"probability of improvement {_shown(self.improvement, '.2f')}, {paired} of medians "
            f"{_shown(self.difference, '+.3g')}, {seeds}{few}"
        )


def _claim(outcome: Outcome, one: str, other: str, where: str) -> str:
    match outcome:
        case "above" | "below":
            return f"{one} {outcome} {other} {where}"
        case "level":
            return f"{one} level with {other} {where}"
        case "not told apart":
            return f"{one} and {other} not told apart {where}"
        case "too few":
            return f"{one} and {other} {where}, too few seeds to judge"


def _shown(interval: Interval, form: str) -> str:
    if not interval.known:
        return f"{interval.estimate:{form}}"
    plain = form.replace("+", "")
    return f"{interval.estimate:{form}} [{interval.low:{plain}}, {interval.high:{plain}}]"


def compare(cell: Cell, other: Cell) -> Comparison:
    """Compare the final returns of two variants in one environment."""
    paired = cell.seeds == other.seeds
    return Comparison(
        env=cell.env,
        variant=cell.variant,
        other=other.variant,
        improvement=statistics.probability_of_improvement(
            [cell.finals], [other.finals], resampling()
        ),
        difference=statistics.difference_of_medians(
            cell.finals, other.finals, resampling(), paired=paired
        ),
        paired=paired,
        runs=(len(cell.runs), len(other.runs)),
        p_value=statistics.rank_test(cell.finals, other.finals),
    )


def compare_first(scene: Scene) -> list[Comparison]:
    """Compare the first variant of an environment with each of the others."""
    first, *others = scene.cells.values()
    return [compare(first, other) for other in others]


# Over environments


@dataclasses.dataclass(frozen=True)
class Overall:
    """One variant against another over several environments."""

    variant: str
    other: str
    improvement: Interval
    envs: int

    @property
    def outcome(self) -> Outcome:
        """The verdict."""
        if not self.improvement.known:
            return "too few"
        if not self.improvement.excludes(0.5):
            return "not told apart"
        return "above" if self.improvement.estimate > 0.5 else "below"

    @property
    def claim(self) -> str:
        """The verdict in words."""
        return _claim(self.outcome, self.variant, self.other, f"over {self.envs} environments")

    @property
    def numbers(self) -> str:
        """The numbers behind the verdict."""
        return f"probability of improvement {_shown(self.improvement, '.2f')}"


def compare_overall(results: Results) -> list[Overall]:
    """Compare the first variant with each of the others over the environments that all have."""
    first, *others = results.variants
    scenes = results.complete
    if len(scenes) < 2:
        return []
    return [
        Overall(first, other, _improvement(scenes, first, other), len(scenes)) for other in others
    ]


def _improvement(scenes: Sequence[Scene], one: str, other: str) -> Interval:
    return statistics.probability_of_improvement(
        [scene.cells[one].finals for scene in scenes],
        [scene.cells[other].finals for scene in scenes],
        resampling(),
    )


def improvements(results: Results) -> dict[tuple[str, str], Interval]:
    """Return the probability of improvement of each variant over each other one."""
    pairs = [(one, other) for one in results.variants for other in results.variants if one != other]
    return {(one, other): _improvement(results.complete, one, other) for one, other in pairs}


def normalized(results: Results) -> dict[str, list[np.ndarray]]:
    """Return the final returns of each variant, one array for each environment that all have.

    In each environment, 0 is the lowest final return of all runs and 1 the highest.
    """
    scores: dict[str, list[np.ndarray]] = {variant: [] for variant in results.variants}
    for scene in results.complete:
        returns = np.concatenate([cell.finals for cell in scene.cells.values()])
        low, span = returns.min(), float(np.ptp(returns))
        for variant in results.variants:
            finals = scene.cells[variant].finals
            scores[variant].append((finals - low) / span if span > 0 else np.ones_like(finals))
    return scores
