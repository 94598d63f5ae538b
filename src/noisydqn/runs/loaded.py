"""Runs as tables, for notebooks."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from noisydqn.files import Place
from noisydqn.report.records import Columns, Run
from noisydqn.report.results import make_results
from noisydqn.report.summaries import SEED_COLUMNS, seed_rows, status_of
from noisydqn.runs.recorded import read_recorded

NAMES = ("variant", "env", "seed")
"""The columns that every table begins with."""


class RunTables(NamedTuple):
    """Runs as tidy tables: a `pandas.DataFrame` each, or arrays by column without pandas.

    Each table begins with the columns `variant`, `env` and `seed`.
    """

    runs: Any
    """A row for each run: the columns of `report.csv`, `status` and `folder`."""
    evaluations: Any
    """A row for each evaluation: `step`, `seconds`, `mean_return` and the environment's own."""
    episodes: Any
    """A row for each training episode: `step`, `return` and what else was recorded."""
    metrics: Any
    """A row for each chunk of training: `step`, `seconds`, `updates`, `loss`, sigma and more."""


def load_runs(
    paths: Place | Sequence[Place], *, env: str | None = None, threshold: float | None = None
) -> RunTables:
    """Load runs as tidy tables.

        tables = noisydqn.load_runs("runs")
        tables.runs.groupby("variant")["final_return"].median()

    Args:
        paths: as in `noisydqn report`: folders of runs or of folders of runs, and logs of other
            libraries; `NAME=PATH` names the variant of all that is in PATH.
        env: the environment of logs that do not name theirs.
        threshold: return that counts as solved, as in `noisydqn report`.

    Raises:
        UserError: there is no run or no return, or a file cannot be read.
    """
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    results = make_results(read_recorded(given, env), threshold)
    rows = [
        dict(zip(SEED_COLUMNS, row, strict=True)) | {"status": status_of(run), "folder": run.place}
        for row, run in zip(seed_rows(results), results.runs, strict=True)
    ]
    columns = [*SEED_COLUMNS, "status", "folder"]
    texts = {"variant", "env", "status", "folder"}
    return RunTables(
        _frame({name: _column([x[name] for x in rows], name in texts) for name in columns}),
        *(_frame(_joined(results.runs, name)) for name in ("evaluations", "episodes", "metrics")),
    )


def _column(values: Sequence[Any], text: bool) -> np.ndarray:
    if text:
        return np.array(values, object)
    if all(isinstance(value, int) for value in values):
        return np.array(values, np.int64)
    return np.array([np.nan if value is None else value for value in values], float)


def _joined(runs: Sequence[Run], table: str) -> dict[str, np.ndarray]:
    """Put the tables of all runs below one another; a column that a run lacks is NaN."""
    parts: list[tuple[Run, Columns]] = [(run, run.tables.get(table, {})) for run in runs]
    parts = [(run, columns) for run, columns in parts if columns]
    names = dict.fromkeys(name for _, columns in parts for name in columns)
    lengths = [len(columns["step"]) for _, columns in parts]
    joined: dict[str, np.ndarray] = {
        name: np.repeat(_column([getattr(run, name) for run, _ in parts], name != "seed"), lengths)
        for name in NAMES
    }
    for name in names:
        unknown = (np.full(length, np.nan) for length in lengths)
        values = [x.get(name, nan) for (_, x), nan in zip(parts, unknown, strict=True)]
        joined[name] = np.concatenate(values)
    return joined


def _frame(columns: Mapping[str, np.ndarray]) -> Any:
    try:
        import pandas
    except ImportError:
        return dict(columns)
    return pandas.DataFrame(dict(columns))
