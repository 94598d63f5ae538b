"""Scores of agents in bsuite's experiments, by bsuite's own functions, and their radar plot.

DeepSea alone is scored here, as bsuite's function needs a pandas older than 2.
"""

import contextlib
import dataclasses
import importlib
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from noisydqn.envs.bsuite import DEEP_SEAS, sweep
from noisydqn.envs.deep_sea import solved_after
from noisydqn.runs.bsuite import agents_in

FORGIVENESS = 100
"""Episodes beyond 2^N that bsuite allows for solving DeepSea of size N."""

DPI = 110


@dataclasses.dataclass(frozen=True)
class Score:
    """An agent's scores in one experiment or, by tag, in several: from 0 to 1, one of each seed."""

    seeds: tuple[float, ...]
    finished: bool
    """Whether all settings were played for as many episodes as bsuite asks for."""

    @property
    def mean(self) -> float:
        """The mean over seeds."""
        return float(np.mean(self.seeds))

    def __str__(self) -> str:
        spread = f" ± {np.std(self.seeds):.2f}" if len(self.seeds) > 1 else ""
        return f"{self.mean:.2f}{spread}{'' if self.finished else ' *'}"


@dataclasses.dataclass(frozen=True)
class Scores:
    """An agent's scores, by experiment and by tag."""

    experiments: dict[str, Score]
    tags: dict[str, Score]

    @staticmethod
    def of(experiments: dict[str, Score]) -> "Scores":
        """Average the scores of experiments by tag.

        Raises:
            MissingExtraError: bsuite is not installed.
        """
        tags: dict[str, list[Score]] = {}
        for name, score in experiments.items():
            for tag in _experiments()[name].tags:
                tags.setdefault(tag, []).append(score)
        return Scores(experiments, {tag: _averaged(tags[tag]) for tag in sorted(tags)})

    def summary(self) -> dict[str, Any]:
        """Return the scores as they are written to `summary.json`."""
        return {
            kind: {name: dataclasses.asdict(score) for name, score in scores.items()}
            for kind, scores in (("experiments", self.experiments), ("tags", self.tags))
        }


def scores_in(out: Path) -> dict[str, Scores]:
    """Return the scores of the agents whose results are in a folder, by name.

    Raises:
        MissingExtraError: bsuite is not installed.
    """
    found = {folder.name: _scores(folder) for folder in agents_in(out)}
    return {name: scores for name, scores in found.items() if scores.experiments}


def _scores(folder: Path) -> Scores:
    """Score one agent; experiments that not all of its seeds have records of are left out."""
    seeds = [_of_seed(path) for path in sorted(folder.glob("seed*"))]
    known = [name for name in _experiments() if seeds and all(name in seed for seed in seeds)]
    return Scores.of({name: _joined([seed[name] for seed in seeds]) for name in known})


def _joined(scores: Sequence[Score]) -> Score:
    seeds = tuple(x for score in scores for x in score.seeds)
    return Score(seeds, all(score.finished for score in scores))


def _averaged(scores: Sequence[Score]) -> Score:
    seeds = np.mean([score.seeds for score in scores], axis=0)
    return Score(tuple(seeds.tolist()), all(score.finished for score in scores))


def _of_seed(folder: Path) -> dict[str, Score]:
    """Score the records in a folder by experiment."""
    if not any(folder.glob("bsuite_id_-_*.csv")):
        return {}
    load: Any = importlib.import_module("bsuite.logging.csv_load")
    records: Any = load.load_one_result_set(str(folder))
    settings, scores = sweep().SETTINGS, dict[str, Score]()
    for name, of_experiment in records.groupby("bsuite_env"):
        wanted = {known for known in settings if known.partition("/")[0] == name}
        ends = of_experiment.groupby("bsuite_id")["episode"].max()
        finished = set(ends.index) == wanted and ends.min() >= _experiments()[name].episode
        if name in DEEP_SEAS:
            score = score_deep_sea(of_experiment, deterministic=DEEP_SEAS[name])
        else:
            score = _experiments()[name].score(of_experiment)
        scores[name] = Score((float(score),), bool(finished))
    return scores


def score_deep_sea(records: Any, *, deterministic: bool) -> float:
    """Return the share of sizes that were solved sooner than random play finds the treasure.

    Args:
        records: a data frame of bsuite's records.
        deterministic: the variant.
    """
    beaten: list[bool] = []
    for size, rows in records.sort_values("episode").groupby("size"):
        episodes, bad = (rows[name].to_numpy() for name in ("episode", "total_bad_episodes"))
        solved = solved_after(episodes, bad, deterministic=deterministic)
        beaten.append(solved is not None and solved < 2**size + FORGIVENESS)
    return float(np.mean(beaten))


def _experiments() -> Mapping[str, Any]:
    """Return bsuite's `score`, `tags` and `episode` of each experiment, in its order."""
    from matplotlib import rc_context

    with rc_context():  # bsuite chooses a style for all plots of the program
        analysis: Any = importlib.import_module("bsuite.experiments.summary_analysis")
    return analysis.BSUITE_INFO


def table(scores: Mapping[str, Scores]) -> Iterator[str]:
    """Yield the lines of a table of scores: experiments, then tags, by agent."""
    for kind in ("experiments", "tags"):
        of_agents = [getattr(x, kind) for x in scores.values()]
        names = dict.fromkeys(name for of_agent in of_agents for name in of_agent)
        rows = [[kind, *scores]]
        rows += [[x, *(str(of_agent.get(x, "-")) for of_agent in of_agents)] for x in names]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            yield "  ".join(f"{x:{n}}" for x, n in zip(row, widths, strict=True)).rstrip()
        yield ""
    if not all(x.finished for y in scores.values() for x in y.experiments.values()):
        yield "* settings or episodes are missing"


def draw_radar(scores: Mapping[str, Scores]) -> bytes:
    """Draw the scores of agents by tag, each tag on a spoke; returns a PNG."""
    from matplotlib.figure import Figure

    tags = sorted({tag for x in scores.values() for tag in x.tags})
    angles = np.linspace(0, 2 * np.pi, len(tags), endpoint=False)
    figure = Figure(figsize=(7, 6), layout="constrained")
    axes: Any = figure.add_subplot(projection="polar")
    for name, of_agent in scores.items():
        means = [of_agent.tags[tag].mean if tag in of_agent.tags else 0.0 for tag in tags]
        closed = [*angles, angles[0]], [*means, means[0]]
        (line,) = axes.plot(*closed, "o-", label=name, clip_on=False)
        axes.fill(*closed, alpha=0.15, color=line.get_color())
    axes.set_xticks(angles, [tag.replace("_", " ") for tag in tags])
    axes.set(ylim=(0, 1), yticks=[0.25, 0.5, 0.75, 1], title="bsuite: score by tag")
    axes.tick_params(axis="x", pad=12)
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    png = io.BytesIO()
    with contextlib.closing(png):
        figure.savefig(png, dpi=DPI)
        return png.getvalue()
