"""Figures of the noise lens: what noise did over training, and how to read them."""

from collections.abc import Iterable, Mapping

from noisydqn.report.figures import Figure, Group, column, from_zero, lines, measured
from noisydqn.report.results import Cell, Kind, Results, Scene, curve_of

MAX_LAYERS = 32
"""The most layers in a figure."""

CHANGE_NOTE = (
    "Near 0, noise has died and the agent acts greedily. Near the share of random actions (0.5 for "
    "2 actions, 0.75 for 4), noise dominates."
)
ENTROPY_NOTE = (
    "At 0, noise has died. At the logarithm of the number of actions (0.69 for 2, 1.39 for 4), "
    "noise dominates and actions are random."
)
SPREAD_NOTE = (
    "Far below the gap, noise has died: it cannot change the order of actions. Far above it, noise "
    "dominates."
)
RETURN_NOTE = (
    "Far lower under noise: noise dominates. Equal: noise has died, or does no harm. Training "
    "episodes lag behind, because weights still learn."
)
SIGMA_NOTE = "A line at 0 is a layer whose noise has died."


def noise_figures(results: Results, colors: Mapping[str, int]) -> list[Figure]:
    """Return what the runs recorded of their noise; nothing of variants without noisy layers.

    Variants share the figures of what is comparable between them. Each has its own for the spread
    of values, for returns and for sigma. The first figure of each kind says how to read it.
    """
    noisy = [cell for cell in results.cells if sigmas(cell) is not None]
    envs = {cell.env for cell in noisy}
    scenes = [scene for scene in results.scenes if scene.env in envs]
    return [
        *_noted([change(scene, colors) for scene in scenes], CHANGE_NOTE),
        *_noted([entropy(scene, colors) for scene in scenes], ENTROPY_NOTE),
        *_noted(map(spread, noisy), SPREAD_NOTE),
        *_noted(map(returns, noisy), RETURN_NOTE),
        *_noted(map(sigmas, noisy), SIGMA_NOTE),
    ]


def change(scene: Scene, colors: Mapping[str, int]) -> Figure | None:
    """Return how often noise changes the greedy action."""
    words = "share of observations on which noise changes the greedy action"
    return measured(scene, colors, "metrics", "action_change", words)


def entropy(scene: Scene, colors: Mapping[str, int]) -> Figure | None:
    """Return the entropy of the greedy action under noise."""
    words = "entropy of the greedy action under noise, nats"
    return measured(scene, colors, "metrics", "noise.action_entropy", words)


def spread(cell: Cell) -> Figure | None:
    """Return the spread of values under noise, beside the gap that it competes with."""
    columns = {
        "spread of Q": "noise.q_spread",
        "gap between the two best actions": "noise.action_gap",
    }
    return _of_cell(cell, "spread of Q: standard deviation over noise samples", columns)


def sigmas(cell: Cell) -> Figure | None:
    """Return sigma of each noisy layer of a variant, averaged over its seeds."""
    names = dict.fromkeys(
        name
        for run in cell.runs
        for name in run.tables.get("metrics", {})
        if name.startswith("sigma.")
    )
    columns = {name.removeprefix("sigma."): name for name in list(names)[:MAX_LAYERS]}
    return _of_cell(cell, "mean |sigma| of each layer", columns)


def returns(cell: Cell) -> Figure | None:
    """Return the returns of evaluations beside those of training episodes; None without either.

    Evaluations are played with mean weights and training episodes under noise.
    """
    kinds: dict[str, Kind] = {"mean weights": "evaluations", "under noise": "episodes"}
    groups = [
        Group(name, color, [(str(run.seed), curve_of(run, kind)) for run in cell.runs], False)
        for color, (name, kind) in enumerate(kinds.items())
    ]
    if not all(any(len(series) for _, series in group.lines) for group in groups):
        return None
    words = "return with mean weights (evaluations) and under noise (training episodes)"
    return lines(_title(cell), words, groups, seeds=False, band=False)


def _of_cell(cell: Cell, words: str, columns: Mapping[str, str]) -> Figure | None:
    """Return columns of the metrics of a variant by name, averaged over its seeds, from 0 on."""
    groups = [
        Group(name, color, [(str(run.seed), column(run, "metrics", x)) for run in cell.runs], False)
        for color, (name, x) in enumerate(columns.items())
    ]
    return from_zero(lines(_title(cell), words, groups, seeds=False, band=False))


def _title(cell: Cell) -> str:
    return f"{cell.variant} on {cell.env}"


def _noted(made: Iterable[Figure | None], note: str) -> list[Figure]:
    """Return the figures that there are, the first with a sentence that says how to read it."""
    drawn = [figure for figure in made if figure is not None]
    return [drawn[0] | {"note": note}, *drawn[1:]] if drawn else []
