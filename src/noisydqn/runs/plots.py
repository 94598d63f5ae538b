"""Plots of a run, made from its CSV files."""

import math
from io import BytesIO, TextIOWrapper
from typing import TYPE_CHECKING, Any

from noisydqn.errors import UserError, in_one_line, printable
from noisydqn.folders import File
from noisydqn.report.csv_table import MAX_CSV_BYTES, read_csv
from noisydqn.report.records import EVALUATION_COLUMNS
from noisydqn.runs.folder import RunFolder
from noisydqn.runs.tables import OLD_NAMES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Columns = dict[str, list[float]]

MAX_WINDOW = 20
"""Largest number of episodes that the curve of training episodes averages."""

MAX_LAYERS, MAX_LABEL = 32, 60
"""The most layers and the longest name that are drawn."""


DPI = 110
BLUE, GREEN = "tab:blue", "tab:green"
TRAINING = "training, exploring"
EVALUATION = "evaluation, greedy"


def read_columns(file: File, *needed: str) -> Columns:
    """Read the columns of a run's CSV file, by their present names.

    A field that is empty, or too large to be drawn, is NaN.

    Return {} if the file is missing or has no rows.

    Raises:
        UserError: the file is damaged, or lacks its steps or a column of `needed`.
    """
    try:
        if file.size() > MAX_CSV_BYTES:
            raise ValueError(f"it has more than {MAX_CSV_BYTES:,} bytes")
        with TextIOWrapper(file.reading(), encoding="utf-8", newline="") as text:
            columns = read_csv(text, renamed=OLD_NAMES)
        if columns and (missing := {"step", *needed}.difference(columns)):
            raise ValueError(f"it has no column {min(missing)}")
        return columns
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(
            f"{file} is damaged ({in_one_line(error)}): restore it from a copy, or remove it"
        ) from error


def running_mean(values: list[float], window: int) -> list[float]:
    """Average each value and the `window` - 1 values before it, or fewer at the start."""
    spans = (values[max(0, i - window + 1) : i + 1] for i in range(len(values)))
    return [sum(span) / len(span) for span in spans]


def draw_curves(folder: RunFolder) -> "Figure":
    """Draw the curves of a run over its environment steps.

    There are three plots. The left one shows returns of training episodes and of evaluations. The
    middle one shows successes, else a statistic of evaluations, else the loss. The right one shows
    the size of the noise in each layer.

    Raises:
        UserError: a file of the run is damaged.
    """
    # matplotlib is slow to import; pyplot would interfere with a notebook's own plots.
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    class Curves(Figure):
        """A figure that a notebook shows, whatever its settings."""

        def _repr_png_(self) -> bytes:
            png = BytesIO()
            self.savefig(png, dpi=DPI)
            return png.getvalue()

    figure: Any = Curves(figsize=(12, 3.9), layout="constrained")
    with rc_context({"text.parse_math": False, "text.usetex": False}):  # names come from a file
        _draw(figure, folder)
    return figure


def _draw(figure: Any, folder: RunFolder) -> None:
    metrics = read_columns(folder.metrics)
    episodes = read_columns(folder.episodes, "return")
    evaluations = read_columns(folder.evaluations, "mean_return")
    left, middle, right = figure.subplots(1, 3)
    _draw_returns(left, episodes, evaluations)
    statistics = [x for x in evaluations if x not in EVALUATION_COLUMNS and _known(evaluations, x)]
    if _known(episodes, "success"):
        _draw_successes(middle, episodes)
    elif statistics:
        _draw_statistic(middle, evaluations, statistics[0])
    else:
        _draw_loss(middle, metrics)
    _draw_noise(right, metrics)
    steps = [*metrics.get("step", []), *episodes.get("step", [])]
    end = max([1, *(x for x in steps if not math.isnan(x))])
    for axes in (left, middle, right):
        axes.set(xlabel="environment steps", xlim=(0, 1.03 * end))
        axes.xaxis.set_major_formatter(_thousands)
        axes.locator_params(axis="x", nbins=6)


def save_curves(folder: RunFolder) -> None:
    """Draw the run's curves to `curves.png`."""
    with folder.curves.replacing() as file:
        draw_curves(folder).savefig(file, dpi=DPI, format="png")


def _known(columns: Columns, name: str) -> bool:
    """Tell whether a column has a value in any row."""
    return not all(map(math.isnan, columns.get(name, [])))


def _thousands(x: float, position: int | None = None) -> str:
    del position
    return f"{x / 1000:,g}k" if x >= 1000 else f"{x:g}"


def _window(number: int) -> int:
    """Return the number of episodes to average: a tenth of all, at most `MAX_WINDOW`."""
    return min(max(number // 10, 1), MAX_WINDOW)


def _draw_episodes(axes: "Axes", steps: list[float], values: list[float]) -> None:
    """Draw a dot for each training episode, and their running mean if there are enough."""
    axes.plot(steps, values, ".", color=BLUE, markersize=4, alpha=0.35, label=TRAINING)
    window = _window(len(values))
    if window > 1:
        mean = running_mean(values, window)
        axes.plot(steps, mean, color=BLUE, label=f"mean of the newest {window}")


def _draw_returns(axes: "Axes", episodes: Columns, evaluations: Columns) -> None:
    axes.set(title="Return of an episode", ylabel="sum of rewards")
    if episodes:
        _draw_episodes(axes, episodes["step"], episodes["return"])
    else:
        _say(axes, "no training episode ended")
    if evaluations:
        style: dict[str, Any] = {"color": GREEN, "markersize": 4, "label": EVALUATION}
        axes.plot(evaluations["step"], evaluations["mean_return"], "D-", **style)
    if axes.lines:
        _legend(axes)


def _draw_statistic(axes: "Axes", evaluations: Columns, name: str) -> None:
    """Draw a statistic of the evaluations, in percent if all its values are shares."""
    words = _label(name.replace("_", " "))
    values = evaluations[name]
    axes.set(title=f"{words.capitalize()} in evaluations", ylabel=words)
    if all(math.isnan(x) or 0 <= x <= 1 for x in values):
        values = [100 * x for x in values]
        axes.set(ylabel=f"{words}, %", ylim=(0, 105))
    axes.plot(evaluations["step"], values, "D-", color=GREEN, markersize=4)


def _draw_successes(axes: "Axes", episodes: Columns) -> None:
    both = zip(episodes["step"], episodes["success"], strict=True)
    steps, successes = zip(*[(x, 100 * y) for x, y in both if not math.isnan(y)], strict=True)
    _draw_episodes(axes, list(steps), list(successes))
    axes.set(title="Success of training episodes", ylabel="% of episodes", ylim=(-5, 105))
    _legend(axes)


def _draw_loss(axes: "Axes", metrics: Columns) -> None:
    axes.set(title="Loss", ylabel="mean over a chunk's updates")
    if not _known(metrics, "loss"):
        _say(axes, "no updates")
        return
    axes.plot(metrics["step"], metrics["loss"], color="tab:orange")
    axes.set_ylim(bottom=0)


def _draw_noise(axes: "Axes", metrics: Columns) -> None:
    axes.set(title="Noise in each layer", ylabel="mean |sigma|")
    for name in [name for name in metrics if name.startswith("sigma.")][:MAX_LAYERS]:
        label = _label(name.removeprefix("sigma."))
        axes.plot(metrics["step"], metrics[name], label=label)
    if not axes.lines:
        _say(axes, "no layer is noisy")
        return
    axes.set_ylim(bottom=0)
    _legend(axes)
    if _known(metrics, "exploration.changed_actions"):
        _draw_goal(axes.twinx(), metrics)


def _draw_goal(axes: "Axes", metrics: Columns) -> None:
    """Draw how many actions the noise changes beside how many it is to change."""
    axes.set(ylabel="greedy actions changed, %", ylim=(0, 105))
    for name, style in {"changed_actions": "-", "noise_goal": ":"}.items():
        values = [100 * x for x in metrics[f"exploration.{name}"]]
        axes.plot(metrics["step"], values, style, color="black", linewidth=1)


def _label(name: str) -> str:
    """Return a name that can be drawn."""
    return printable(name[:MAX_LABEL])


def _legend(axes: "Axes") -> None:
    """Put the legend below the plot, where it hides no line."""
    style: dict[str, Any] = {"fontsize": "small", "frameon": False, "ncols": 2}
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), **style)


def _say(axes: "Axes", line: str) -> None:
    place: dict[str, Any] = {"transform": axes.transAxes, "ha": "center", "va": "center"}
    axes.text(0.5, 0.5, line, **place)
    axes.set_yticks([])
