"""The first lines of a report: what the runs show, and what is to be known before believing it."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from noisydqn.errors import counted
from noisydqn.report import statistics
from noisydqn.report.comparison import compare_first, compare_overall, resampling
from noisydqn.report.records import Run
from noisydqn.report.results import KINDS, Cell, Results
from noisydqn.report.statistics import MIN_SEEDS
from noisydqn.report.tables import show


class Verdict(NamedTuple):
    """A line of the verdict: the claim, the numbers behind it, and its kind, for its color."""

    claim: str
    numbers: str
    outcome: str = ""


def verdicts(results: Results) -> list[Verdict]:
    """Say what the runs show: comparisons of the first variant, or how its only variant does."""
    if len(results.variants) == 1:
        return [_alone(cell) for cell in results.cells]
    lines = [Verdict(x.claim, x.numbers, x.outcome) for x in compare_overall(results)]
    for scene in results.scenes:
        lines += [Verdict(x.claim, x.numbers, x.outcome) for x in compare_first(scene)]
        if len(scene.cells) == 1:
            lines += map(_alone, scene.cells.values())
    return lines


def _alone(cell: Cell) -> Verdict:
    if len(cell.runs) == 1:
        run = cell.runs[0]
        trained = f"{run.steps:,} steps"
        trained += f" in {run.seconds:,.0f} s" if run.seconds == run.seconds else ""
        return Verdict(
            f"{cell.variant} on {cell.env}, seed {run.seed}",
            f"final return {show(float(cell.finals[0]))} after {trained}{_best(run)}",
        )
    interval = statistics.aggregate([cell.finals], resampling())
    few = "" if interval.known else f" (no interval below {MIN_SEEDS} seeds)"
    low, high = float(np.min(cell.finals)), float(np.max(cell.finals))
    return Verdict(
        f"{cell.variant} on {cell.env}",
        f"final return {show(interval)}{few}, from {show(low)} to {show(high)}, "
        f"{counted(len(cell.runs), 'seed')}",
    )


def _best(run: Run) -> str:
    if run.best_return is None:
        return ""
    return f"; the best weights return {show(run.best_return)} in a separate evaluation"


def warnings(results: Results, tuned: Sequence[int] | None = None) -> list[str]:
    """Say what is to be known before the verdict is believed.

    Args:
        results: the runs.
        tuned: seeds on which options were tuned, besides those that runs name themselves.
    """
    lines = [*_ended(results), *_kinds(results)]
    if len(results.variants) == 1 < len(results.runs):
        lines.append("There is one variant: nothing to compare.")
    if any(len(cell.runs) == 1 for cell in results.cells):
        lines.append(
            "One seed says little about a method: the next may do otherwise. Train more with "
            "--num-seeds or noisydqn compare."
        )
    both = sorted(
        {
            run.seed
            for run in results.runs
            if run.seed in {*(tuned or ()), *run.options.get("tuned_seeds", ())}
        }
    )
    if both:
        lines.append(
            f"Options were tuned on {_listed('seed', both)}, which {_is_are(both)} reported here: "
            "returns on them are too high. Report seeds of their own."
        )
    lacking = [scene.env for scene in results.scenes if len(scene.cells) < len(results.variants)]
    if lacking:
        lines.append(
            f"Some variants have no returns on {', '.join(lacking)}: left out of what is said over "
            "environments."
        )
    return lines


def _listed(noun: str, numbers: Sequence[int]) -> str:
    return f"{noun}{'' if len(numbers) == 1 else 's'} {', '.join(map(str, numbers))}"


def _is_are(several: Sequence[object]) -> str:
    return "is" if len(several) == 1 else "are"


def _ended(results: Results) -> list[str]:
    """Say which runs did not come to their end."""
    lines: list[str] = []
    words = {
        "failed": "failed",
        "diverged": "diverged",
        "pruned": "pruned",
        "unfinished": "stopped before the end",
        "running": "still running",
        "waiting": "not begun",
    }
    for status, said in words.items():
        runs = [run for run in results.runs if run.status == status]
        if not runs:
            continue
        without = [run for run in runs if not run.counts]
        counts = len(runs) - len(without)
        line = f"{counted(len(runs), 'run')} {said}: {_named(runs)}."
        line += f" Counted with the last return: {counts}." if counts else ""
        line += f" Not counted: {len(without)}." if without else ""
        lines.append(line)
    return lines


def _named(runs: Sequence[Run], most: int = 4) -> str:
    named = [f"{run.variant} on {run.env}, seed {run.seed}" for run in runs[:most]]
    more = f"; and {len(runs) - most} more" if len(runs) > most else ""
    return "; ".join(named) + more


def _kinds(results: Results) -> list[str]:
    """Say where returns are those of exploring agents, or where runs have other returns."""
    counted_runs = {id(run) for cell in results.cells for run in cell.runs}
    left = [run for run in results.runs if run.counts and id(run) not in counted_runs]
    lines = [
        f"{counted(len(left), 'run')} left out, as the others have returns of another kind: "
        f"{_named(left)}."
    ] * bool(left)
    exploring = [scene.env for scene in results.scenes if scene.final == "episodes"]
    if not exploring:
        return lines
    return [
        *lines,
        f"Not all runs on {', '.join(exploring)} have evaluations: compared is the "
        f"{KINDS['episodes']}, which exploration lowers.",
    ]
