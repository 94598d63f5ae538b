"""The page of a report: one HTML file that holds all it shows and asks for nothing else.

The page forbids its own requests by a content security policy, which also lets no script run but
its own: text that runs bring, such as names, cannot become code.
"""

import base64
import dataclasses
import hashlib
import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from noisydqn.errors import counted
from noisydqn.report import figures, summaries
from noisydqn.report.figures import Figure
from noisydqn.report.noise import noise_figures
from noisydqn.report.records import AXES, Run
from noisydqn.report.results import Results
from noisydqn.report.rules import Finding, diagnose
from noisydqn.report.statistics import Interval
from noisydqn.report.tables import Table, Value, show
from noisydqn.report.variants import shown
from noisydqn.report.verdict import Verdict, verdicts, warnings

MAX_VIDEOS, MAX_VIDEO_BYTES = 24, 2**25
"""The most videos in a page, and their bytes together before they are encoded as text."""

MAX_OPEN = 10
"""The most figures of the noise that are shown at once."""

METHODS = (
    "The interquartile mean leaves out the lowest and the highest quarter of the seeds. Intervals "
    "are 95% percentile intervals of a bootstrap that resamples the seeds of each variant and "
    "environment (Agarwal et al. 2021, arXiv 2108.13264).",
    "Differences of medians are paired where both variants have the same seeds: a resample takes "
    "both runs of a seed or none. Tolerance intervals are free of assumptions on the distribution "
    "(Wilks 1941; Patterson et al. 2024, arXiv 2304.01315).",
    "A verdict of above or below needs three things: an interval of the probability of improvement "
    "without one half, an interval of the difference without zero, and p < 0.05 in Mann and "
    "Whitney's rank test.",
)


@dataclasses.dataclass(frozen=True)
class Video:
    """A video in the page."""

    title: str
    words: str
    source: str  # a data URL


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page below the first screen."""

    title: str
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    matrix: Mapping[tuple[str, str], Mapping[str, str]] = dataclasses.field(
        default_factory=dict[tuple[str, str], Mapping[str, str]]
    )
    videos: Sequence[Video] = ()
    lines: Sequence[str] = ()
    closed: bool = False

    @property
    def filled(self) -> bool:
        """Whether there is anything in it."""
        return any([self.figures, self.tables, self.matrix, self.videos, self.lines])


@dataclasses.dataclass(frozen=True)
class Page:
    """The contents of the page."""

    title: str
    subtitle: str
    verdicts: Sequence[Verdict]
    warnings: Sequence[str]
    variants: Sequence[str]
    axes: Mapping[str, str]
    curves: Sequence[Figure]
    several_seeds: bool
    one_env: bool  # which figures need not name
    sections: Sequence[Section]


def make_page(results: Results, tuned: Sequence[int] | None = None) -> Page:
    """Fill the page.

    Args:
        results: the runs.
        tuned: seeds on which options were tuned.
    """
    colors = {variant: place for place, variant in enumerate(results.variants)}
    curves = _kept(figures.curves(scene, colors) for scene in results.scenes)
    seeds = [len(cell.runs) for cell in results.cells]
    few = len(results.runs) == 1
    if few:  # nothing to compare, so the first screen shows all of a run
        noise = noise_figures(results, colors)
        if not noise:  # which have the returns of training episodes, too
            curves += _kept(figures.other_curves(scene, colors) for scene in results.scenes)
        curves += _measured(results, colors)[:1] + noise
    axes = {axis: words for axis, words in AXES.items() if any(axis in x["axes"] for x in curves)}
    return Page(
        title=_title(results),
        subtitle=_subtitle(results),
        verdicts=verdicts(results),
        warnings=warnings(results, tuned),
        variants=results.variants,
        axes=axes,
        curves=curves,
        several_seeds=max(seeds) > 1,
        one_env=len(results.scenes) == 1 == len(results.variants),
        sections=[x for x in _sections(results, colors, few=few) if x.filled],
    )


def _kept(made: Iterable[Figure | None]) -> list[Figure]:
    return [figure for figure in made if figure is not None]


def _title(results: Results) -> str:
    envs = [scene.env for scene in results.scenes]
    over = " and ".join(envs) if len(envs) <= 2 else f"{len(envs)} environments"
    names = list(results.variants)
    what = ", ".join(names) if len(names) <= 4 else f"{len(names)} variants"
    seed = f", seed {results.runs[0].seed}" if len(results.runs) == 1 else ""
    return f"{what} on {over}{seed}"


def _subtitle(results: Results) -> str:
    counts = sorted({len(cell.runs) for cell in results.cells})
    span = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
    parts = [
        counted(len(results.variants), "variant"),
        counted(len(results.scenes), "environment"),
        f"{span} seed{'' if counts == [1] else 's'} each",
        counted(len(results.runs), "run"),
        f"noisydqn {version('noisydqn')}",
    ]
    return " · ".join(parts)


def _sections(results: Results, colors: Mapping[str, int], *, few: bool) -> list[Section]:
    several = len(results.complete) > 1
    tables = [summaries.aggregate_table(results)]
    overall = [figures.profile(results, colors)]
    closed = [] if few else [*_measured(results, colors)]
    others = [] if few else _kept(figures.other_curves(x, colors) for x in results.scenes)
    noise = [] if few else noise_figures(results, colors)
    dots = [] if few else [figures.finals(scene, colors) for scene in results.scenes]
    return [
        Section("Diagnosis", tables=_tables(_diagnosis(results))),
        Section("Returns", dots, [summaries.return_table(results)]),
        Section(
            "Comparisons",
            tables=_tables(summaries.comparison_table(results)),
            matrix={} if several else _matrix(results),
        ),
        Section(
            "Time to solve",
            _kept(figures.solved(scene, colors) for scene in results.scenes) if not few else [],
            _tables(summaries.time_table(results)),
        ),
        Section(
            "Over environments",
            _kept(overall),
            _tables(*tables),
            _matrix(results) if several else {},
        ),
        Section("Noise", noise, closed=len(noise) > MAX_OPEN),
        Section("Training episodes" if _evaluated(results) else "Evaluations", others, closed=True),
        Section("Other measurements", closed, closed=True),
        Section("Videos", videos=_videos(results)),
        Section("Seeds", tables=[summaries.seed_table(results)]),
        Section(
            "Options",
            tables=_options(results),
            lines=_again(results.runs[0]) if few else (),
            closed=len(results.variants) == 1,
        ),
        Section("Origin", tables=_tables(summaries.about_table(results.runs))),
        Section("How to read this page", lines=METHODS, closed=True),
    ]


def _diagnosis(results: Results) -> Table | None:
    """Return what looks wrong with runs, the same finding of several seeds in one row."""
    found: dict[tuple[str, str, str], list[tuple[Run, Finding]]] = {}
    for run in results.runs:
        for finding in diagnose(run):
            found.setdefault((run.env, run.variant, finding.rule), []).append((run, finding))
    rows: list[tuple[Value, ...]] = []
    for (env, variant, _), having in found.items():
        finding = having[0][1]
        seeds = ", ".join(str(run.seed) for run, _ in having)
        rows.append((env, variant, seeds, finding.problem, finding.remedy))
    header = ("environment", "variant", "seed", "what looks wrong", "what to try")
    note = "The numbers are those of the first seed."
    several = any(len(having) > 1 for having in found.values())
    return Table("Diagnosis", header, tuple(rows), note if several else "") if rows else None


def _tables(*made: Table | None) -> list[Table]:
    return [table for table in made if table is not None]


def _evaluated(results: Results) -> bool:
    return all(scene.curve == "evaluations" for scene in results.scenes)


def _measured(results: Results, colors: Mapping[str, int]) -> list[Figure]:
    """Return the environments' own statistics and the loss."""
    made: list[Figure | None] = []
    for scene in results.scenes:
        for name in figures.statistics_of(scene):
            words = f"{name.replace('_', ' ')} in evaluations"
            made.append(figures.measured(scene, colors, "evaluations", name, words))
        success = "success of training episodes"
        made.append(figures.measured(scene, colors, "episodes", "success", success))
        made.append(figures.measured(scene, colors, "metrics", "loss", "loss"))
    return _kept(made)


def _matrix(results: Results) -> dict[tuple[str, str], Mapping[str, str]]:
    pairs = summaries.improvement_matrix(results).items()
    return {pair: {"text": show(x), "color": _color(x)} for pair, x in pairs}


def _color(interval: Interval) -> str:
    if not interval.excludes(0.5):
        return "flat"
    return "up" if interval.estimate > 0.5 else "down"


def _options(results: Results) -> list[Table]:
    """Return the options that differ or, of a single variant, all of them."""
    differing = summaries.difference_table(results)
    if differing is not None:
        return [differing]
    options = next((run.options for run in results.runs if run.options), {})
    rows = tuple((name, shown(value)) for name, value in options.items())
    return [Table("All options", ("option", "value"), rows)] if rows else []


def _again(run: Run) -> list[str]:
    """Say how to train with the options of a run again."""
    command = f"noisydqn train {shlex.quote(run.place)} --seed {run.seed + 1}"
    return [f"Another seed with these options: {command}"] if run.options else []


def _videos(results: Results) -> list[Video]:
    """Read the video of the median seed of each variant in each environment."""
    found: list[Video] = []
    left = MAX_VIDEO_BYTES
    for cell in results.cells:
        run = cell.median_run()
        data = run.video() if len(found) < MAX_VIDEOS else None
        if data is not None and len(data) <= left:
            left -= len(data)
            words = "the median seed" if len(cell.runs) > 1 else "best weights, without exploration"
            found.append(Video(_video_title(run), words, _data_url(data)))
    return found


def _video_title(run: Run) -> str:
    return f"{run.variant} on {run.env}, seed {run.seed}"


def _data_url(data: bytes) -> str:
    return f"data:video/mp4;base64,{base64.b64encode(data).decode()}"


# HTML


@cache
def _asset(name: str) -> str:
    return files("noisydqn.report").joinpath("assets", name).read_text("utf-8")


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string(_asset("page.html"))


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def render(page: Page) -> str:
    """Write the page as HTML."""
    script, style = _asset("page.js"), _asset("page.css")
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; "
        "media-src data:; base-uri 'none'; form-action 'none'"
    )
    placed: list[Any] = []

    def place(figure: Figure) -> int:
        placed.append(figure)
        return len(placed) - 1

    def data() -> Markup:
        # No end of the element may stand in it; JSON can spell "<" otherwise.
        text = json.dumps(placed, separators=(",", ":"), allow_nan=False)
        return Markup(text.replace("<", "\\u003c"))  # noqa: S704 - nothing in it ends the element

    return _template().render(
        page=page,
        policy=policy,
        style=Markup(style),  # noqa: S704 - of this package
        script=Markup(script),  # noqa: S704
        place=place,
        data=data,
    )
