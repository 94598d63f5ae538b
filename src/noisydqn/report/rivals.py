"""Logs of other libraries, read as runs.

Stable-Baselines3 writes `monitor.csv` (one row for each training episode: return, length, seconds)
and `evaluations.npz`. CleanRL and many others write TensorBoard events. Anything else can come as
a CSV file with a column `step` and a column `return` (of training episodes) or `mean_return` (of
evaluations), and perhaps `seconds`, `variant`, `env` and `seed`.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np

from noisydqn.errors import UserError, in_one_line
from noisydqn.folders import File, Folder
from noisydqn.report.csv_table import MAX_CSV_BYTES, read_csv
from noisydqn.report.records import EMPTY, Columns, Run, Series

MONITOR = re.compile(r"(.+\.)?monitor\.csv")
EVALUATIONS = "evaluations.npz"
EVENTS = re.compile(r"events\.out\.tfevents\..+")
MAX_LOG_BYTES = 2**28
RECORD_FRAME = 16
"""Bytes around each record of TensorBoard events: its length and two checksums."""

EPISODE_TAGS = ("charts/episodic_return", "rollout/ep_rew_mean", "episode/Return")
"""Returns of training episodes in TensorBoard events: of CleanRL, of Stable-Baselines3 (a mean of
the newest 100) and of noisydqn."""
EVALUATION_TAGS = ("eval/mean_reward", "evaluation/mean_return")
"""Mean returns of evaluations: of Stable-Baselines3 and of noisydqn."""

WORDS = {"variant", "env"}
"""Columns of a plain CSV file that are text."""

PATHS = (
    re.compile(r"(?P<env>[^/]+)/(?P<variant>[^/]+)/seed-?(?P<seed>\d+)$"),  # as compare's folders
    re.compile(r"(?P<env>[^/]+?)__(?P<variant>[^/]+)__(?P<seed>\d+)__\d+$"),  # CleanRL
    re.compile(r"(?P<variant>[^/]+)/(?P<env>[^/]+-v\d+)_(?P<seed>\d+)$"),  # RL Baselines3 Zoo
    re.compile(r"seed[-_]?(?P<seed>\d+)$"),
)
"""Paths that say of what a log is."""


class Name(NamedTuple):
    """What a run is of; None where that is not known."""

    env: str | None = None
    variant: str | None = None
    seed: int | None = None


class Log(NamedTuple):
    """A run as another library recorded it, which may not know what it is of."""

    place: str
    name: Name
    recorder: str
    evaluations: Series = EMPTY
    episodes: Series = EMPTY


def name_of_path(path: Path) -> Name:
    """Tell from a path what a log in it is of, as far as its form is known."""
    text = str(path.absolute())
    for pattern in PATHS:
        if found := pattern.search(text):
            parts = found.groupdict()
            return Name(parts.get("env"), parts.get("variant"), int(parts["seed"]))
    return Name()


def logs_in(folder: Folder) -> list[Log]:
    """Read the logs of other libraries in a folder; none if there are none."""
    names = folder.names()
    monitors = [folder.file(name) for name in names if MONITOR.fullmatch(name)]
    if monitors or EVALUATIONS in names:
        return [_stable_baselines3(folder, monitors, EVALUATIONS in names)]
    events = [folder.file(name) for name in names if EVENTS.fullmatch(name)]
    return [_tensorboard(folder, events)] if events else []


def as_runs(logs: Iterable[Log], env: str | None, variant: str | None) -> list[Run]:
    """Make runs of logs, with names for what they do not know.

    A log without a seed gets the first number that no other of its variant has.

    Args:
        logs: of other libraries.
        env: the environment of those that do not name it.
        variant: the name of their variant; None takes the log's own or, if it has none, its
            library's.

    Raises:
        UserError: an environment is not known.
    """
    runs: list[Run] = []
    taken: set[tuple[str, str, int]] = set()
    # Those that know their seed come first, so that no other gets the same.
    for log in sorted(logs, key=lambda log: log.name.seed is None):
        of = log.name.env or env
        if of is None:
            raise UserError(
                f"{log.place} does not say which environment it is of: give --env, or name its "
                "folder ENV/VARIANT/seed-0"
            )
        called, seed = variant or log.name.variant or log.recorder, log.name.seed
        if seed is None:
            seed = next(x for x in range(len(taken) + 1) if (of, called, x) not in taken)
        taken.add((of, called, seed))
        runs.append(_run(log, of, called, seed))
    return runs


def _run(log: Log, env: str, variant: str, seed: int) -> Run:
    series = [x for x in (log.evaluations, log.episodes) if len(x)]
    seconds = [x.seconds[-1] for x in series if x.knows("seconds")]
    return Run(
        place=log.place,
        env=env,
        seed=seed,
        variant=variant,
        recorder=log.recorder,
        steps=int(max((x.steps[-1] for x in series), default=0)),
        seconds=float(max(seconds, default=np.nan)),
        evaluations=log.evaluations,
        episodes=log.episodes,
        tables={
            "evaluations": _columns(log.evaluations, "mean_return"),
            "episodes": _columns(log.episodes, "return"),
        },
    )


def _columns(series: Series, name: str) -> Columns:
    if not len(series):
        return {}
    return {"step": series.steps, "seconds": series.seconds, name: series.values}


def damaged(file: File, error: Exception) -> UserError:
    """Return the error of a log that cannot be read."""
    reason = error.strerror if isinstance(error, OSError) else in_one_line(error)
    return UserError(f"{file} cannot be read ({reason}): restore it from a copy, or leave it out")


# Stable-Baselines3


def _stable_baselines3(folder: Folder, monitors: list[File], evaluated: bool) -> Log:
    env, episodes = _monitors(monitors) if monitors else (None, EMPTY)
    evaluations = _evaluations(folder.file(EVALUATIONS)) if evaluated else EMPTY
    name = name_of_path(folder.path)
    name = name._replace(env=env or name.env)
    return Log(str(folder.path), name, "Stable-Baselines3", evaluations, episodes)


def _monitors(files: list[File]) -> tuple[str | None, Series]:
    """Read the episodes of all environments of a run, in the order in which they ended."""
    monitors = [_monitor(file) for file in files]
    begun = min(monitor.start for monitor in monitors)
    times, lengths, returns = np.concatenate(
        [[x.start - begun + x.times, x.lengths, x.returns] for x in monitors], 1
    )
    order = np.argsort(times, kind="stable")
    steps = np.cumsum(lengths[order])
    named = (monitor.env for monitor in monitors if monitor.env is not None)
    return next(named, None), Series.of(steps, returns[order], seconds=times[order])


class _Monitor(NamedTuple):
    """A `monitor.csv`: the environment, when it was made, and its episodes, all [n]."""

    env: str | None
    start: float  # seconds since the epoch
    times: np.ndarray  # seconds after the start
    lengths: np.ndarray  # steps
    returns: np.ndarray


def _monitor(file: File) -> _Monitor:
    """Read a `monitor.csv`.

    Raises:
        UserError: it is damaged.
    """
    try:
        with TextIOWrapper(file.reading(), "utf-8", newline="") as text:
            _limit(file, MAX_CSV_BYTES)
            first = text.readline()
            if not first.startswith("#"):
                raise ValueError("line 1: it is not the header of a monitor, a # and JSON")
            try:
                header = dict[str, Any](json.loads(first[1:]))
                start = float(header.get("t_start", 0))
            except (ValueError, TypeError, RecursionError) as error:
                raise ValueError(f"line 1: {in_one_line(error)}") from error
            columns = read_csv(text, first=2)
        if columns and (missing := sorted({"r", "l", "t"} - columns.keys())):
            raise ValueError(f"line 2: it has no column {missing[0]}")
    except (OSError, ValueError) as error:
        raise damaged(file, error) from error
    times, lengths, returns = (np.array(columns.get(name, [])) for name in "tlr")
    env = header.get("env_id")
    return _Monitor(str(env) if env else None, start, times, lengths, returns)


def _limit(file: File, most: int) -> None:
    if file.size() > most:
        raise ValueError(f"it has more than {most:,} bytes")


def _evaluations(file: File) -> Series:
    """Read an `evaluations.npz`: `timesteps` [n] and `results` [n, episodes].

    Raises:
        UserError: it is damaged.
    """
    try:
        with np.load(BytesIO(file.read(MAX_LOG_BYTES)), allow_pickle=False) as arrays:
            steps = np.asarray(arrays["timesteps"], float)
            results = np.asarray(arrays["results"], float)
        if steps.ndim != 1 or results.ndim != 2 or len(steps) != len(results):
            raise ValueError(f"timesteps {steps.shape} and results {results.shape} do not fit")
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise damaged(file, error) from error
    return Series.of(steps, results.mean(1))


# TensorBoard


def _tensorboard(folder: Folder, files: list[File]) -> Log:
    """Read the returns in the event files of one run."""
    found: dict[str, list[tuple[float, float, float]]] = {}  # by tag: wall time, step, value
    for file in files:
        for tag, point in _events(file):
            found.setdefault(tag, []).append(point)
    start = min((point[0] for points in found.values() for point in points), default=0.0)
    episodes = _tagged(found, EPISODE_TAGS, start)
    evaluations = _tagged(found, EVALUATION_TAGS, start)
    if not (len(episodes) or len(evaluations)):
        wanted = ", ".join([*EPISODE_TAGS, *EVALUATION_TAGS])
        raise UserError(
            f"{folder} has TensorBoard events, but no returns: expected one of the tags {wanted}"
        )
    return Log(str(folder), name_of_path(folder.path), "TensorBoard", evaluations, episodes)


def _tagged(
    found: dict[str, list[tuple[float, float, float]]], tags: tuple[str, ...], start: float
) -> Series:
    for tag in tags:
        if tag in found:
            times, steps, values = np.array(found[tag]).T
            return Series.of(steps, values, seconds=times - start)
    return EMPTY


def _events(file: File) -> Iterator[tuple[str, tuple[float, float, float]]]:
    """Yield the scalars of an event file that are returns: tag, and wall time, step and value.

    The last record may be cut off, as in the log of a run that is still being trained.

    Raises:
        UserError: it is damaged.
    """
    from google.protobuf.message import DecodeError
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto import event_pb2
    from tensorboard.util import tensor_util

    protocol: Any = event_pb2  # protobuf makes its classes at run time, without types
    wanted, number, read = {*EPISODE_TAGS, *EVALUATION_TAGS}, 0, 0
    try:
        _limit(file, MAX_LOG_BYTES)
        with file.opened() as path:
            for record in RawEventFileLoader(path).Load():
                number += 1
                read += len(record) + RECORD_FRAME
                event = protocol.Event.FromString(record)
                for value in event.summary.value:
                    if value.tag in wanted and not value.tensor.tensor_shape.dim:  # a scalar
                        x = (
                            float(tensor_util.make_ndarray(value.tensor))
                            if value.HasField("tensor")
                            else value.simple_value
                        )
                        yield value.tag, (event.wall_time, event.step, x)
        _refuse_broken_record(file, read)
    except (OSError, ValueError, TypeError, DecodeError) as error:
        where = ValueError(f"record {max(number, 1)} or the next: {in_one_line(error)}")
        raise damaged(file, where) from error


def _refuse_broken_record(file: File, read: int) -> None:
    """Raise `ValueError` if a whole record follows the bytes that could be read.

    TensorBoard's reader stops there without a word, as it does where a record is cut off.
    """
    with file.reading() as opened:
        rest = file.size() - read
        opened.seek(read)
        length = int.from_bytes(opened.read(8), "little")
    if rest >= length + RECORD_FRAME:
        raise ValueError("its checksum is wrong")


# Plain CSV


def read_plain(file: File) -> list[Log]:
    """Read the runs of a plain CSV file.

    Raises:
        UserError: it is damaged, or lacks a column.
    """
    try:
        _limit(file, MAX_CSV_BYTES)
        with TextIOWrapper(file.reading(), "utf-8", newline="") as text:
            columns = read_csv(text, renamed={"steps": "step"}, words=WORDS)
        kinds = [name for name in ("mean_return", "return") if name in columns]
        if "step" not in columns or not kinds:
            raise ValueError("line 1: expected the columns step and return or mean_return")
    except (OSError, ValueError) as error:
        raise damaged(file, error) from error
    number = len(columns["step"])
    envs = columns.get("env", [None] * number)
    variants = columns.get("variant", [None] * number)
    seeds = columns.get("seed", [math.nan] * number)
    rows: dict[Name, list[int]] = {}
    for i, (env, variant, seed) in enumerate(zip(envs, variants, seeds, strict=True)):
        known = None if math.isnan(seed) else int(seed)
        rows.setdefault(Name(env or None, variant or None, known), []).append(i)
    return [_plain(file, name, columns, kinds, places) for name, places in rows.items()]


def _plain(
    file: File, name: Name, columns: dict[str, list[Any]], kinds: list[str], places: list[int]
) -> Log:
    table = {key: np.array(values)[places] for key, values in columns.items() if key not in WORDS}
    series = {
        kind: Series.of(table["step"], table[kind], seconds=table.get("seconds")) for kind in kinds
    }
    return Log(
        str(file),
        name,
        "CSV",
        series.get("mean_return", EMPTY),
        series.get("return", EMPTY),
    )
