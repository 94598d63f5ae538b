"""Figures of a report, as plain values that the page's script draws.

A figure of lines has named *groups*. A group has a color and, over each axis, the middle of its
seeds with a band, and the line of each seed.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from noisydqn.report import statistics
from noisydqn.report.comparison import normalized, resampling
from noisydqn.report.records import AXES, EMPTY, EVALUATION_COLUMNS, Columns, Run, Series
from noisydqn.report.results import KINDS, Cell, Kind, Results, Scene, curve_of
from noisydqn.report.statistics import MIN_SEEDS

Figure = dict[str, Any]

MAX_POINTS = 100
"""Points of a drawn line."""
GRID = 80
"""Places over which seeds are averaged, if they were not measured at the same ones."""
MAX_STATISTICS = 8
"""The most statistics of an environment that get a figure."""
DIGITS = 5
"""Significant digits of a number in a figure."""
THRESHOLDS = np.linspace(0, 1, 101)
"""Scores at which a performance profile is drawn."""


class Group(NamedTuple):
    """Lines of one color: a variant, or a layer."""

    name: str
    color: int  # its place among the colors of the page
    lines: Sequence[tuple[str, Series]]  # of each seed, with its name
    variant: bool = True  # whether it is shown and hidden with the variant of that color


def numbers(values: Iterable[float]) -> list[float | None]:
    """Return numbers with few digits, as JSON has them; None where they are not finite."""
    return [float(f"{x:.{DIGITS}g}") if math.isfinite(x) else None for x in map(float, values)]


def lines(
    title: str, y: str, groups: Sequence[Group], *, seeds: bool = True, band: bool = True
) -> Figure | None:
    """Return a figure of lines over the axes that are known of all; None if there are none.

    Args:
        title: what the figure is about.
        y: what is drawn, in words.
        groups: the lines.
        seeds: whether each seed is drawn, too.
        band: whether the middle has an interval.
    """
    groups = [
        Group(name, color, [line for line in drawn if len(line[1])], variant)
        for name, color, drawn, variant in groups
    ]
    groups = [group for group in groups if group.lines]
    axes = [axis for axis in AXES if all(s.knows(axis) for g in groups for _, s in g.lines)]
    if not groups or not axes:
        return None
    return {
        "kind": "lines",
        "title": title,
        "y": y,
        "axes": {axis: AXES[axis] for axis in axes},
        "groups": [
            {
                "name": group.name,
                "color": group.color,
                "variant": group.variant,
                "middle": {axis: middle(group, axis, band=band) for axis in axes},
                "seeds": _seeds(group, axes) if seeds and len(group.lines) > 1 else [],
            }
            for group in groups
        ],
    }


def _seeds(group: Group, axes: Sequence[str]) -> list[dict[str, Any]]:
    drawn: list[dict[str, Any]] = []
    for name, series in group.lines:
        places = _places(len(series))
        drawn.append(
            {
                "name": name,
                "x": {axis: numbers(series.over(axis)[places]) for axis in axes},
                "y": numbers(series.values[places]),
            }
        )
    return drawn


def _places(number: int) -> np.ndarray:
    """Return at most `MAX_POINTS` evenly spaced places, the first and the last included."""
    return np.unique(np.linspace(0, number - 1, min(number, MAX_POINTS)).round().astype(int))


def middle(group: Group, axis: str, *, band: bool = True) -> dict[str, Any]:
    """Return the interquartile mean over the seeds of a group, and its interval."""
    grid, values = on_grid([series for _, series in group.lines], axis)
    if not band or len(values) < MIN_SEEDS:
        return {"x": numbers(grid), "y": numbers(statistics.interquartile_mean(values, 0))}
    mid, low, high = statistics.bootstrap(
        [values], lambda samples: statistics.interquartile_mean(samples[0], 1), resampling()
    )
    return {"x": numbers(grid), "y": numbers(mid), "low": numbers(low), "high": numbers(high)}


def on_grid(series: Sequence[Series], axis: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of several seeds at the same places.

    Places at which all were measured are kept. Otherwise they are evenly spaced, from where all
    have begun to where the last one ends, and values between two measurements are interpolated. A
    seed that has ended keeps its last value.

    Returns:
        Places [P] and values [seeds, P].
    """
    places = [one.over(axis) for one in series]
    first = places[0]
    if all(len(x) == len(first) and np.array_equal(x, first) for x in places):
        kept = _places(len(first))
        return first[kept], np.stack([one.values[kept] for one in series])
    grid = np.linspace(max(x[0] for x in places), max(x[-1] for x in places), GRID)
    pairs = zip(places, series, strict=True)
    return grid, np.stack([np.interp(grid, x, one.values) for x, one in pairs])


# The figures


def curves(scene: Scene, colors: Mapping[str, int]) -> Figure | None:
    """Return the learning curves of an environment."""
    groups = [_group(cell, colors, cell.curves) for cell in scene.cells.values()]
    figure = lines(scene.env, KINDS[scene.curve], groups)
    if figure is not None and scene.threshold is not None and scene.threshold.value is not None:
        figure["level"] = scene.threshold.value
    return figure


def _group(cell: Cell, colors: Mapping[str, int], series: Iterable[Series]) -> Group:
    names = [f"seed {run.seed}" for run in cell.runs]
    return Group(cell.variant, colors[cell.variant], list(zip(names, series, strict=True)))


def other_curves(scene: Scene, colors: Mapping[str, int]) -> Figure | None:
    """Return the curves of the other kind of returns."""
    kind: Kind = "episodes" if scene.curve == "evaluations" else "evaluations"
    groups = [
        _group(cell, colors, [curve_of(run, kind) for run in cell.runs])
        for cell in scene.cells.values()
    ]
    return lines(scene.env, KINDS[kind], groups)


def finals(scene: Scene, colors: Mapping[str, int]) -> Figure:
    """Return the final returns of an environment: every seed, and the middle of each variant."""
    rows: list[dict[str, Any]] = []
    for cell in scene.cells.values():
        interval = statistics.aggregate([cell.finals], resampling())
        pairs = zip(cell.runs, cell.finals, strict=True)
        rows.append(
            {
                "name": cell.variant,
                "color": colors[cell.variant],
                "middle": numbers(interval),
                "seeds": [[f"seed {run.seed}", *numbers([x])] for run, x in pairs],
            }
        )
    return {"kind": "dots", "title": scene.env, "x": "final return", "rows": rows}


def solved(scene: Scene, colors: Mapping[str, int]) -> Figure | None:
    """Return the share of seeds that are solved, over steps and seconds (Kaplan-Meier).

    None if there is no threshold, or no seed reached it.
    """
    if scene.threshold is None or not any(cell.solved.any() for cell in scene.cells.values()):
        return None
    groups: list[dict[str, Any]] = []
    has_seconds = all(np.isfinite(cell.solved_seconds).all() for cell in scene.cells.values())
    axes = ["steps", "seconds"] if has_seconds else ["steps"]
    for cell in scene.cells.values():
        times = {"steps": cell.solved_steps, "seconds": cell.solved_seconds}
        groups.append(
            {
                "name": cell.variant,
                "color": colors[cell.variant],
                "variant": True,
                "middle": {axis: _solved_share(times[axis], cell.solved) for axis in axes},
                "seeds": [],
            }
        )
    return {
        "kind": "lines",
        "steps": True,
        "title": scene.env,
        "y": f"share of seeds solved: {scene.threshold.words}",
        "range": [0, 1],
        "axes": {axis: AXES[axis] for axis in axes},
        "groups": groups,
    }


def _solved_share(times: np.ndarray, reached: np.ndarray) -> dict[str, Any]:
    ordered, share = statistics.survival(times, reached)
    x, y = np.concatenate([[0.0], ordered]), np.concatenate([[0.0], 1 - share])
    return {"x": numbers(x), "y": numbers(y)}


def profile(results: Results, colors: Mapping[str, int]) -> Figure | None:
    """Return the performance profile over environments; None unless there are several."""
    if len(results.complete) < 2:
        return None
    groups: list[dict[str, Any]] = []
    for variant, strata in normalized(results).items():
        estimate, low, high = statistics.bootstrap(
            strata,
            lambda samples: statistics.profile(np.concatenate(samples, 1), THRESHOLDS),
            resampling(),
        )
        drawn: dict[str, Any] = {"x": numbers(THRESHOLDS), "y": numbers(estimate)}
        if min(map(len, strata)) >= MIN_SEEDS:
            drawn |= {"low": numbers(low), "high": numbers(high)}
        groups.append(
            {
                "name": variant,
                "color": colors[variant],
                "variant": True,
                "middle": {"score": drawn},
                "seeds": [],
            }
        )
    return {
        "kind": "lines",
        "title": f"{len(results.complete)} environments",
        "y": "share of runs above the score",
        "range": [0, 1],
        "axes": {"score": "normalized score"},
        "groups": groups,
    }


# Other measurements


def column(run: Run, table: str, name: str) -> Series:
    """Return a column of a run's table as a series; an empty one if the run has none."""
    columns: Columns = run.tables.get(table, {})
    if not {"step", name} <= columns.keys():
        return EMPTY
    metrics = run.tables.get("metrics", {})
    updates = columns.get("updates", metrics.get("updates") if table == "metrics" else None)
    return Series.of(columns["step"], columns[name], updates, columns.get("seconds"))


def from_zero(figure: Figure | None) -> Figure | None:
    """Let the vertical axis include 0."""
    return figure and figure | {"floor": 0}


def measured(
    scene: Scene, colors: Mapping[str, int], table: str, name: str, words: str
) -> Figure | None:
    """Return a column of the runs' tables over training, from 0 on; None if no run has it."""
    groups = [
        _group(cell, colors, [column(run, table, name) for run in cell.runs])
        for cell in scene.cells.values()
    ]
    return from_zero(lines(scene.env, words, groups, seeds=False, band=False))


def statistics_of(scene: Scene) -> list[str]:
    """List the statistics that evaluations of an environment report beside the return."""
    names = dict.fromkeys(
        name
        for cell in scene.cells.values()
        for run in cell.runs
        for name in run.tables.get("evaluations", {})
        if name not in EVALUATION_COLUMNS
    )
    return list(names)[:MAX_STATISTICS]
