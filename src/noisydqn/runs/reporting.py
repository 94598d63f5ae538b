"""The command `report`: a page about runs, and its tables."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from noisydqn.errors import UserError
from noisydqn.files import Place, given_path
from noisydqn.folders import File
from noisydqn.options import argument, refuse_unknown
from noisydqn.report import summaries
from noisydqn.report.page import make_page, render
from noisydqn.report.results import Results, make_results
from noisydqn.report.tables import Table, Value, to_csv, to_latex, to_markdown
from noisydqn.report.variants import shortened
from noisydqn.runs.recorded import read_recorded

DEFAULT_NAME = "report.html"
TABLES = (".csv", ".md", ".tex")
"""Suffixes of the files of tables beside a page."""


def report(
    *paths: Place,
    out: Place | None = None,
    env: str | None = None,
    threshold: float | None = None,
    tuned_seeds: Sequence[int] = (),
    **unknown: Any,
) -> Path:
    """Write a page about runs, and its tables beside it, as `noisydqn report` does.

    Args:
        paths: folders of runs or of folders of runs, and logs of other libraries; `NAME=PATH` names
            the variant of all that is in PATH.
        out: the page, a new file; the tables have its name with the suffixes .csv, .md and .tex.
            None takes `report.html` or, if that is taken, `report-2.html` and so on.
        env: the environment of logs that do not name theirs.
        threshold: return that counts as solved. None takes the one that Gymnasium registers or, if
            there is none, the goals of the runs.
        tuned_seeds: seeds on which options were tuned; the page warns if it reports them.
        unknown: refused.

    Returns:
        The path of the page.

    Raises:
        UserError: there is no run or no return, a file cannot be read, or `out` exists or cannot be
            written.
    """
    known = ["out", "env", "threshold", "tuned_seeds"]
    refuse_unknown(unknown, known, "report")
    if not paths:
        raise UserError("there is nothing to report: name a folder of runs")
    threshold = argument("threshold", threshold, float | None)
    tuned = argument("tuned_seeds", tuned_seeds, tuple[int, ...])
    files = _new_files(out)
    runs = read_recorded(paths, argument("env", env, str | None))
    rows = summaries.seed_rows(make_results(runs, threshold))
    _write(files, rows, make_results(shortened(runs), threshold), tuned)
    return files[0].path


def _new_files(out: Place | None) -> list[File]:
    """Return the files to write: the page, then its tables.

    Raises:
        UserError: one of them exists, or there is no folder for them.
    """
    if out is None:
        number, path = 2, Path(DEFAULT_NAME)
        while any(file.taken() for file in _beside(path)):
            number, path = number + 1, Path(f"report-{number}.html")
        return _beside(path)
    path = given_path(out)
    if path.suffix != ".html":
        raise UserError(f"--out {path} must end in .html: the tables are written beside it")
    for file in _beside(path):
        if file.taken():
            raise UserError(f"--out {file} exists, nothing was changed: name a new file")
    return _beside(path)


def _beside(path: Path) -> list[File]:
    return [File.at(path), *(File.at(path.with_suffix(suffix)) for suffix in TABLES)]


def _write(
    files: Sequence[File],
    rows: Sequence[Sequence[Value]],
    results: Results,
    tuned: Sequence[int],
) -> None:
    page, csv, markdown, latex = files
    tables = _tables(results)
    contents = [
        (csv, to_csv(summaries.SEED_COLUMNS, rows)),
        (markdown, to_markdown(tables)),
        (latex, to_latex(tables)),
        (page, render(make_page(results, tuned))),
    ]
    for file, text in contents:
        try:
            file.folder.make()
            file.write(text.encode(errors="backslashreplace"), new=True)
        except OSError as error:
            raise UserError(
                f"--out {file} cannot be written: {error.strerror}; name another file"
            ) from error


def _tables(results: Results) -> list[Table]:
    tables = [
        summaries.return_table(results),
        summaries.comparison_table(results),
        summaries.time_table(results),
        summaries.aggregate_table(results),
        summaries.seed_table(results),
        summaries.difference_table(results),
    ]
    return [table for table in tables if table is not None]
