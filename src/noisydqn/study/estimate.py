"""How long a comparison takes: a guess at first, then by what its jobs have taken so far."""

import csv
import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from noisydqn.config.config import variant_name
from noisydqn.folders import File
from noisydqn.study.jobs import Cell, Job

START_SECONDS = 15.0
"""A guess at what a job takes besides its steps: start, compilation, the last evaluation."""
STEPS_PER_SECOND = {"replay": 2_000.0, "parallel": 8_000.0}
"""A guess at the speed of one core, by learner: small networks make about so many steps."""
END_BYTES = 2**14
"""Bytes at both ends of a table in which its first and last rows are looked for."""


class Whole(NamedTuple):
    """The seconds of a whole job, as they were or as they are predicted.

    A job that reached its goal has used up its budget, too: the next one may do the same.
    """

    cell: Cell
    steps: int  # the budget
    seconds: float


def guess(job: Job) -> float:
    """Guess the seconds of a job of which nothing is known."""
    speed = STEPS_PER_SECOND[variant_name("learner", job.cell.config.learner)]
    return START_SECONDS + len(job.runs) * job.steps / speed


def seconds_of(job: Job, known: Iterable[Whole]) -> float:
    """Predict the seconds of a job that has not begun.

    The seconds per step of the jobs in its cell count; if there are none yet, those in its
    environment; else those of all jobs; else it is guessed.
    """
    known = list(known)
    in_environment = [x for x in known if x.cell.environment == job.cell.environment]
    in_cell = [x for x in in_environment if x.cell.variant == job.cell.variant]
    for like in (in_cell, in_environment, known):
        if like:
            return job.steps * sum(x.seconds for x in like) / sum(x.steps for x in like)
    return guess(job)


def span(seconds: Sequence[float], slots: int) -> float:
    """Predict the seconds in which jobs end, `slots` of them at a time.

    No job is divided, so the longest takes its time even where slots are free.
    """
    return max(sum(seconds) / slots, max(seconds, default=0.0))


def in_words(seconds: float) -> str:
    """Round a duration to what a person plans by: "40 s", "12 min", "3.5 h", "3 days"."""
    if seconds < 90:
        return f"{max(round(seconds / 10), 1) * 10} s"
    if seconds < 5_400:
        return f"{round(seconds / 60)} min"
    if seconds < 48 * 3_600:
        return f"{seconds / 3_600:.1f} h"
    return f"{round(seconds / 86_400)} days"


class Pace(NamedTuple):
    """Steps and seconds of training after the first and after the newest row of a run's metrics."""

    first: tuple[int, float]
    newest: tuple[int, float]

    @property
    def speed(self) -> float | None:
        """Steps per second between the two rows, without compilation; None for a single row."""
        (start, began), (steps, seconds) = self
        return (steps - start) / (seconds - began) if steps > start and seconds > began else None

    def whole(self, steps: int) -> float | None:
        """Predict the seconds of training in which a budget of steps is used up."""
        start, began = self.first
        return None if self.speed is None else began + max(steps - start, 0) / self.speed


def read_pace(metrics: File) -> Pace | None:
    """Read the pace of a run from its table of metrics; None if it has no row that can be read."""
    try:
        with metrics.reading() as file:
            start = file.read(END_BYTES)
            file.seek(max(os.fstat(file.fileno()).st_size - END_BYTES, 0))
            end = file.read(END_BYTES)
        header, first, *_ = start.split(b"\n")
        newest = end[: end.rindex(b"\n")].rpartition(b"\n")[2]  # a row may be half written
        names, *rows = csv.reader(row.decode() for row in (header, first, newest))
        step, seconds = names.index("step"), names.index("seconds")
        return Pace(*((int(row[step]), float(row[seconds])) for row in rows))
    except (OSError, ValueError, IndexError):
        return None
