"""The tables of a report."""

from collections.abc import Sequence

import numpy as np

from noisydqn.report import statistics
from noisydqn.report.comparison import (
    Comparison,
    compare,
    improvements,
    normalized,
    resampling,
)
from noisydqn.report.records import Run
from noisydqn.report.results import Cell, Results, Scene
from noisydqn.report.statistics import MIN_SEEDS, Interval
from noisydqn.report.tables import Table, Value
from noisydqn.report.variants import differences

SEED_COLUMNS = (
    *("variant", "env", "seed", "steps", "seconds"),
    *("final_return", "auc", "solved_at_step"),
)
"""The columns of `report.csv`, on which others rely."""


def seed_rows(results: Results) -> list[tuple[Value, ...]]:
    """Return a row of `SEED_COLUMNS` for each run; of one without returns, little is known."""
    rows: dict[int, tuple[Value, ...]] = {}
    for cell in results.cells:
        for i, run in enumerate(cell.runs):
            solved = int(cell.solved_steps[i]) if cell.solved[i] else None
            rows[id(run)] = (float(cell.finals[i]), float(cell.areas[i]), solved)
    return [
        (
            *(run.variant, run.env, run.seed, run.steps, run.seconds),
            *rows.get(id(run), (None, None, None)),
        )
        for run in results.runs
    ]


def seed_table(results: Results) -> Table:
    """Return the table of every seed."""
    rows = [
        (*row, status_of(run)) for row, run in zip(seed_rows(results), results.runs, strict=True)
    ]
    header = (
        *("variant", "environment", "seed", "steps", "seconds"),
        *("final return", "area", "solved at step", "status"),
    )
    return Table("Every seed", header, tuple(rows), _final_note(results))


def status_of(run: Run) -> str:
    """Say in words how a run ended."""
    words = "stopped before its end" if run.status == "unfinished" else run.status
    return f"{words}: {run.reason}" if run.reason else words


def _final_note(results: Results) -> str:
    finals = {scene.final for scene in results.scenes}
    parts = []
    if "evaluations" in finals:
        parts.append("The final return is that of the last evaluation, without exploration.")
    if "episodes" in finals:
        where = "" if len(finals) == 1 else " Where runs have no evaluations, it"
        where = where or "The final return"
        parts.append(f"{where} is the mean of the newest 20 training episodes.".strip())
    parts.append(
        "The area is that under the learning curve, divided by its steps: the mean return over "
        "training."
    )
    return " ".join(parts)


def return_table(results: Results) -> Table:
    """Return the final returns and areas of each variant in each environment."""
    rows: list[tuple[Value, ...]] = []
    for cell in results.cells:
        finals = cell.finals
        tolerance = tolerance_words(cell)
        rows.append(
            (
                cell.env,
                cell.variant,
                len(cell.runs),
                statistics.aggregate([finals], resampling()),
                float(np.median(finals)),
                statistics.aggregate([cell.areas], resampling()),
                tolerance,
            )
        )
    header = (
        *("environment", "variant", "seeds", "final return, IQM", "median"),
        *("area, IQM", "tolerance interval of the final return"),
    )
    note = (
        "IQM is the interquartile mean. Brackets hold 95% intervals of a percentile bootstrap, "
        f"with {statistics.RESAMPLES:,} resamples of the seeds; none below {MIN_SEEDS} seeds. The "
        "tolerance interval contains, with 95% confidence, at least the given share of all runs "
        "that there could be."
    )
    return Table("Returns", header, tuple(rows), note)


def tolerance_words(cell: Cell) -> str:
    """Show the tolerance interval of the final returns of a cell."""
    if len(cell.runs) < MIN_SEEDS:
        return "too few seeds"
    low, high, share = statistics.tolerance_interval(cell.finals)
    return f"[{low:.4g}, {high:.4g}] for {share:.0%}"


def time_table(results: Results) -> Table | None:
    """Return the times to the threshold; None if no environment has one."""
    rows = [
        row
        for scene in results.scenes
        if scene.threshold is not None
        for cell in scene.cells.values()
        for row in [_times(scene, cell, scene.threshold.words)]
    ]
    if not rows:
        return None
    header = (
        *("environment", "solved means", "variant", "solved", "median steps"),
        *("mean steps up to the horizon", "median seconds"),
    )
    note = (
        "A seed that was not solved counts as running until it ended (Kaplan-Meier); ∞ says that "
        "fewer than half were solved. The mean counts no seed with more than the horizon, the "
        "longest run of the environment."
    )
    return Table("Time to solve", header, tuple(rows), note)


def _times(scene: Scene, cell: Cell, words: str) -> tuple[Value, ...]:
    horizon = max(float(x.solved_steps.max()) for x in scene.cells.values())
    steps, mean = statistics.time_intervals(cell.solved_steps, cell.solved, horizon, resampling())
    known = bool(np.isfinite(cell.solved_seconds).all())
    seconds: Value = None
    if known:
        seconds, _ = statistics.time_intervals(
            cell.solved_seconds, cell.solved, float(cell.solved_seconds.max()), resampling()
        )
    solved = f"{int(cell.solved.sum())} of {len(cell.runs)}"
    return cell.env, words, cell.variant, solved, steps, mean, seconds


def comparison_table(results: Results) -> Table | None:
    """Return all pairs of variants in each environment; None if there is one variant."""
    pairs = [
        compare(one, other)
        for scene in results.scenes
        for i, one in enumerate(scene.cells.values())
        for other in list(scene.cells.values())[i + 1 :]
    ]
    if not pairs:
        return None
    header = (
        *("environment", "variant", "against", "verdict", "probability of improvement"),
        *("difference of medians", "seeds", "p"),
    )
    note = (
        "The probability of improvement is that of a run of the variant having a higher final "
        "return than a run of the other; ties count one half. p is that of Mann and Whitney's "
        "rank test. Above and below need both intervals and p < 0.05. Each line is judged by "
        "itself: of twenty comparisons of equal variants, one would mislead."
    )
    return Table("Comparisons", header, tuple(map(_comparison_row, pairs)), note)


def _comparison_row(pair: Comparison) -> tuple[Value, ...]:
    one, other = pair.runs
    seeds = f"{one}, paired" if pair.paired else f"{one} and {other}"
    return (
        *(pair.env, pair.variant, pair.other, pair.outcome),
        *(pair.improvement, pair.difference, seeds, pair.p_value),
    )


NORMALIZER = (
    "In each environment, 0 is the lowest final return of all runs in this report and 1 the "
    "highest. So a score depends on what it is compared with."
)


def aggregate_table(results: Results) -> Table | None:
    """Return the normalized scores over environments; None unless there are several."""
    if len(results.complete) < 2:
        return None
    scores = normalized(results)
    rows = [
        (
            variant,
            statistics.aggregate(strata, resampling()),
            float(np.mean([stratum.mean() for stratum in strata])),
            sum(map(len, strata)),
        )
        for variant, strata in scores.items()
    ]
    header = ("variant", "score, IQM", "mean", "runs")
    number, left = len(results.complete), len(results.scenes) - len(results.complete)
    out = f" {left} without runs of every variant are left out." if left else ""
    note = f"Final returns over {number} environments, normalized.{out} {NORMALIZER}"
    return Table("Over environments", header, tuple(rows), note)


def improvement_matrix(results: Results) -> dict[tuple[str, str], Interval]:
    """Return the probabilities of improvement over all environments that are complete.

    There are none where the comparisons say the same: of two variants in one environment.
    """
    more = len(results.variants) > 2 or len(results.complete) > 1
    return improvements(results) if more and results.complete else {}


def difference_table(results: Results) -> Table | None:
    """Return the options in which variants differ; None if in none."""
    rows = differences(results.runs)
    if not rows:
        return None
    variants = list(rows[0][1])
    return Table(
        "Options that differ",
        ("option", *variants),
        tuple((name, *(values[variant] or None for variant in variants)) for name, values in rows),
    )


def about_table(runs: Sequence[Run]) -> Table | None:
    """Return machine, versions and commands, each with the number of runs that it is of."""
    found: dict[tuple[str, str], int] = {}
    for run in runs:
        known = {"recorded by": run.recorder, **run.about}
        for name, text in known.items():
            if name != "steps per second":
                found[name, text] = found.get((name, text), 0) + 1
    rows = tuple((name, text, number) for (name, text), number in sorted(found.items()))
    speeds = sorted(
        float(run.about["steps per second"]) for run in runs if "steps per second" in run.about
    )
    if speeds:
        median = speeds[len(speeds) // 2]
        rows = (*rows, ("steps per second, median", median, len(speeds)))
    return Table("Machine, versions and commands", ("", "", "runs"), rows) if rows else None
