"""Reading of recorded runs: folders of noisydqn, comparisons, and logs of other libraries."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from noisydqn.checkpoint.origin import Origin
from noisydqn.checkpoint.reader import read_manifests
from noisydqn.errors import DamagedError, UserError
from noisydqn.files import Place, given_path
from noisydqn.folders import File, Folder
from noisydqn.report.csv_table import MAX_NUMBER
from noisydqn.report.records import EMPTY, Columns, JobStatus, Run, Series, Status
from noisydqn.report.rivals import Log, as_runs, logs_in, read_plain
from noisydqn.report.variants import environment_name, name_variants
from noisydqn.runs.folder import (
    COMPARISON,
    MAX_JSON_BYTES,
    RunFolder,
    read_config,
    read_summary,
    unreadable,
)
from noisydqn.runs.plots import read_columns
from noisydqn.runs.progress import StoredRun

MAX_DEPTH = 8
"""Folders inside one another that are searched for runs."""
MAX_FOLDERS = 100_000
MAX_VIDEO_BYTES = 2**24
"""Bytes of the longest video that a page holds: some 20 minutes."""


class _Job(msgspec.Struct):
    """A run of a comparison, as its file lists it."""

    environment: str
    variant: str
    seed: int
    folder: str
    status: JobStatus
    reason: str | None = None


class _Comparison(msgspec.Struct):
    """What is read of a comparison's file."""

    jobs: list[_Job]
    command: str = ""


def read_recorded(paths: Sequence[Place], env: str | None = None) -> list[Run]:
    """Read all runs below some paths, with names for their variants.

    Args:
        paths: folders, or CSV files of other libraries; `NAME=PATH` names the variant of all runs
            below.
        env: the environment of logs that do not name theirs.

    Raises:
        UserError: a path holds no run, or a file cannot be read.
    """
    runs: list[Run] = []
    for given in paths:
        variant, path = _named(given)
        found = _read_path(path, variant, env)
        if not found:
            raise UserError(
                f"{path} holds no run (no config.json, monitor.csv, evaluations.npz or TensorBoard "
                "events): name a folder that train or compare made, or a log of another library"
            )
        runs += found
    return name_variants(runs)


def _named(given: Place) -> tuple[str | None, Path]:
    """Take `NAME=PATH` apart; a path that exists is not taken apart."""
    path = given_path(given, "DIR")
    name, equals, rest = str(given).partition("=")
    if equals and name and rest and not path.exists():
        return name, given_path(rest, "DIR")
    return None, path


def _read_path(path: Path, variant: str | None, env: str | None) -> list[Run]:
    if path.is_file():
        return as_runs(read_plain(File.at(path)), env, variant)
    if not path.is_dir():
        raise UserError(f"{path} does not exist: name a folder of runs, or a log")
    runs: list[Run] = []
    logs: list[Log] = []
    try:
        for folder in _walk(Folder(path)):
            if folder.file(COMPARISON).taken():
                runs += _read_comparison(folder)
            elif folder.file("config.json").taken():
                runs.append(read_run(RunFolder(folder)))
            else:
                logs += logs_in(folder)
    except OSError as error:
        raise unreadable(path, error) from error
    runs += as_runs(logs, env, variant)
    return runs if variant is None else [dataclasses.replace(x, variant=variant) for x in runs]


def _walk(root: Folder) -> Iterator[Folder]:
    """Yield the folders that hold something, without those inside of them, in order of their path.

    Raises:
        UserError: there are too many folders.
    """
    waiting, number = [(root, 0)], 0
    while waiting:
        folder, depth = waiting.pop()
        number += 1
        if number > MAX_FOLDERS:
            raise UserError(f"{root} holds more than {MAX_FOLDERS:,} folders: name those of runs")
        yield folder
        if folder.file("config.json").taken() or folder.file(COMPARISON).taken():
            continue
        if depth < MAX_DEPTH:
            inner = [folder.folder(name) for name in folder.names() if not name.startswith(".")]
            waiting += [(x, depth + 1) for x in reversed(inner) if x.exists()]


# Comparisons


def _read_comparison(folder: Folder) -> list[Run]:
    file = folder.file(COMPARISON)
    try:
        stored = msgspec.json.decode(file.read(MAX_JSON_BYTES), type=_Comparison)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{file} cannot be used ({error}): restore it from a copy, or name folders of runs"
        ) from error
    runs = [_read_job(folder, job, stored.command) for job in stored.jobs]
    names = _environments(stored.jobs, runs)
    pairs = zip(stored.jobs, runs, strict=True)
    return [dataclasses.replace(run, env=names[job.environment]) for job, run in pairs]


def _environments(jobs: Sequence[_Job], runs: Sequence[Run]) -> dict[str, str]:
    """Name the environments of a comparison, which its file calls as `train` was called.

    That may be a preset. Its environment's own name is taken, unless two have the same.
    """
    names = {job.environment: job.environment for job in jobs}
    own = {job.environment: run.env for job, run in zip(jobs, runs, strict=True) if run.options}
    taken = list(own.values())
    return names | {name: env for name, env in own.items() if taken.count(env) == 1}


def _read_job(folder: Folder, job: _Job, command: str) -> Run:
    """Read a run of a comparison; one that left nothing has no returns."""
    place = folder
    for name in job.folder.split("/"):
        try:
            place = place.folder(name)
        except ValueError as error:
            raise UserError(f"{folder}/{COMPARISON} cannot be used: {error}") from error
    if place.file("config.json").taken():
        run = read_run(RunFolder(place))
        ended = run.status if job.status == "finished" else job.status
    else:
        run = Run(place=str(place), env=job.environment, seed=job.seed)
        ended = job.status
    about = {**run.about, **({"command": command} if command else {})}
    return dataclasses.replace(
        run, variant=job.variant, status=ended, reason=job.reason or "", about=about
    )


# Runs of noisydqn


def read_run(folder: RunFolder) -> Run:
    """Read a run that `train` recorded; its variant has no name.

    Raises:
        UserError: a file is damaged.
    """
    options = read_config(folder.config).options
    summary = read_summary(folder)
    metrics = read_columns(folder.metrics)
    episodes = read_columns(folder.episodes, "return")
    evaluations = read_columns(folder.evaluations, "mean_return")
    tables = {"metrics": metrics, "episodes": episodes, "evaluations": evaluations}
    known = {name: _arrays(columns) for name, columns in tables.items()}
    clock = _Clock(known["metrics"])
    steps = _number(summary, "steps") or _last(metrics.get("step", []), 0.0)
    seconds = _number(summary, "train_seconds") or _last(metrics.get("seconds", []), math.nan)
    return Run(
        place=str(folder.path),
        env=environment_name(options),
        seed=int(options["seed"]),
        status=_status(summary),
        steps=int(steps),
        budget=int(options["steps"]),
        seconds=seconds,
        evaluations=clock.series(known["evaluations"], "mean_return"),
        episodes=clock.series(known["episodes"], "return"),
        solved_at=_solved(summary),
        best_return=_number(summary.get("evaluation") or {}, "mean_return"),
        options=options,
        about=_about(folder, summary),
        tables=known,
        video=partial(_video, folder),
    )


def _number(summary: Mapping[str, Any], name: str) -> float | None:
    """Read a number of a summary; None if it is something else."""
    value = summary.get(name)
    if isinstance(value, int | float) and abs(value) < MAX_NUMBER:
        return float(value)
    return None


def _last(values: Sequence[float], otherwise: float) -> float:
    return max(filter(math.isfinite, values), default=otherwise)


def _arrays(columns: Mapping[str, list[float]]) -> Columns:
    return {name: np.array(values) for name, values in columns.items()}


class _Clock:
    """The updates and seconds of a run at any step, from its metrics.

    Args:
        metrics: the columns of `metrics.csv`.
    """

    def __init__(self, metrics: Columns) -> None:
        self._metrics = metrics

    def series(self, columns: Columns, name: str) -> Series:
        """Return a column of a table as a series."""
        if not columns:
            return EMPTY
        steps = columns["step"]
        seconds = columns["seconds"] if "seconds" in columns else self._at(steps, "seconds")
        return Series.of(steps, columns[name], self._at(steps, "updates"), seconds)

    def _at(self, steps: np.ndarray, name: str) -> np.ndarray | None:
        if not {"step", name} <= self._metrics.keys():
            return None
        known, values = self._metrics["step"], self._metrics[name]
        whole = np.isfinite(known) & np.isfinite(values)
        if not whole.any():
            return None
        start = [0.0]
        return np.interp(
            steps, np.concatenate([start, known[whole]]), np.concatenate([start, values[whole]])
        )


def _status(summary: Mapping[str, Any]) -> Status:
    """Tell whether a run came to its end: only then are its best weights evaluated."""
    return "finished" if summary.get("evaluation") else "unfinished"


def _solved(summary: Mapping[str, Any]) -> tuple[float, float] | None:
    steps, seconds = _number(summary, "solved_at_step"), _number(summary, "solved_at_seconds")
    return None if steps is None or seconds is None else (steps, seconds)


def _about(folder: RunFolder, summary: Mapping[str, Any]) -> dict[str, str]:
    """Collect what made a run, as far as its newest checkpoint tells."""
    about: dict[str, str] = {}
    if isinstance(start := summary.get("started_from"), str):
        about["started from"] = start
    if (speed := _number(summary, "steps_per_second")) is not None:
        about["steps per second"] = str(speed)
    origin = _origin(folder)
    if origin is None:
        return about
    machine = f"{origin.system} {origin.machine}, {origin.processor}, {origin.cores} cores"
    versions = ", ".join(f"{name} {version}" for name, version in origin.versions.items())
    about |= {"machine": machine, "device": origin.device, "versions": versions}
    return about | ({"commit": origin.commit} if origin.commit else {})


def _origin(folder: RunFolder) -> Origin | None:
    try:
        manifests, _ = read_manifests(folder.checkpoints)
        # Seeds that were trained together have their checkpoints beside their folders.
        return StoredRun.decode(manifests[0].run).origin if manifests else None
    except (UserError, DamagedError, OSError, ValueError):
        return None  # it would only be shown


def _video(folder: RunFolder) -> bytes | None:
    try:
        return folder.video.read(MAX_VIDEO_BYTES) if folder.video.exists() else None
    except OSError:
        return None
