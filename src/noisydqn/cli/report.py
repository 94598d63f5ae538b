"""The command that reports runs."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from noisydqn.cli.arguments import fill, options_of, read, show_help, wants_help
from noisydqn.errors import UserError


@dataclasses.dataclass(frozen=True)
class ReportArgs:
    """Compare runs on one page, with intervals, and write its tables beside it."""

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="DIR...")] = ()
    """Folders of runs, or of folders of runs, and logs of other libraries: of Stable-Baselines3,
    TensorBoard events, or a CSV file. NAME=DIR names the variant of all runs in DIR."""
    out: Path | None = None
    """The page to write, a new file that ends in .html; tables are written beside it as .csv, .md
    and .tex. If not given, report.html, or report-2.html and so on."""
    env: str | None = None
    """Environment of logs that do not name theirs."""
    threshold: float | None = None
    """Return that counts as solved. If not given, what Gymnasium registers, else the goals of the
    runs."""
    tuned_seeds: tuple[int, ...] = ()
    """Seeds on which options were tuned: the page warns if it reports them. Those of noisydqn tune
    are in its preset file, and known without being given."""


def report_runs(argv: Sequence[str]) -> int:
    """Run the command report.

    Raises:
        UserError: an argument cannot be used, or as `noisydqn.runs.reporting.report`.
        SystemExit: help was asked for and given.
    """
    default = ReportArgs()
    if wants_help(argv):
        show_help(default, "report")
    options = options_of(ReportArgs)
    given = read(options, argv, "report")
    if not given.positionals:
        raise UserError("DIR is missing: the form is noisydqn report DIR... [options]")
    args = fill(default, given._replace(positionals=[]), options, "report")
    from noisydqn.runs import reporting

    page = reporting.report(
        *given.positionals,
        out=args.out,
        env=args.env,
        threshold=args.threshold,
        tuned_seeds=args.tuned_seeds,
    )
    print(page)
    return 0
