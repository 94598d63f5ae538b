"""Plots of a run, drawn from its CSV files."""

import csv
from pathlib import Path

from noisydqn.training.folder import RunFolder

SMOOTHING = 20
"""Episodes in the running mean of the return."""


def _columns(path: Path) -> dict[str, list[float]]:
    """The columns of a CSV file of numbers; none if the file is empty."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows] for name in (rows[0] if rows else {})}


def save_curves(folder: RunFolder) -> None:
    """Draw return, evaluations and noise over environment steps to `curves.png`."""
    # Imported here, as it takes a while; and not pyplot, which would touch a notebook's own plots.
    from matplotlib.figure import Figure

    metrics, episodes, evaluations = (
        _columns(path) for path in (folder.metrics, folder.episodes, folder.evaluations)
    )
    figure = Figure(figsize=(12, 3.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    if episodes:
        returns = episodes["return"]
        smooth = [
            sum(returns[max(0, i - SMOOTHING + 1) : i + 1]) / min(i + 1, SMOOTHING)
            for i in range(len(returns))
        ]
        left.plot(episodes["step"], returns, ".", markersize=4, alpha=0.5, label="episode")
        left.plot(episodes["step"], smooth, label=f"mean of {SMOOTHING}")
        left.legend()
    left.set(title="Return of training episodes, with noise", xlabel="steps")
    fruit = "caught_fraction" in evaluations
    if evaluations:
        caught = [100 * x for x in evaluations.get("caught_fraction", [])]
        shown = caught if fruit else evaluations["mean_return"]
        middle.plot(evaluations["steps"], shown, "o-", color="tab:green")
    what = "Fruit caught in evaluation, without noise (%)"
    middle.set(title=what if fruit else "Mean return of evaluations, without noise", xlabel="steps")
    if fruit:
        middle.set(ylim=(0, 105))
    for name, values in metrics.items():
        if name.startswith("sigma."):
            right.plot(metrics["steps"], values, label=name.removeprefix("sigma."))
    right.set(title="Mean |sigma| of each noisy layer", xlabel="steps", ylim=(0, None))
    if right.lines:
        right.legend()
    figure.savefig(folder.curves, dpi=110)
