"""Recorded runs: what is known of a run, whoever recorded it."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

JobStatus = Literal["waiting", "running", "finished", "failed", "diverged", "pruned"]
"""The state of a run of a comparison. One that is pruned was not worth its time."""
Status = JobStatus | Literal["unfinished"]
"""The state of any run. An unfinished one was stopped, or killed, before its end."""

AXES = {"steps": "environment steps", "updates": "updates", "seconds": "seconds of training"}
"""What a curve can be drawn over, in words."""

Columns = Mapping[str, np.ndarray]
"""The columns of a table by name, each [rows]."""

EVALUATION_COLUMNS = ("step", "seconds", "episodes", "mean_return", "truncated_episodes")
"""Columns of `evaluations.csv` that every run has; others are the environment's statistics."""

NEWEST = 20
"""Training episodes whose mean is the final return of a run without evaluations."""


def _nothing() -> bytes | None:
    return None


@dataclasses.dataclass(frozen=True)
class Series:
    """Values over a run, oldest first. What is not known is NaN; all arrays are [P]."""

    steps: np.ndarray
    values: np.ndarray
    updates: np.ndarray
    seconds: np.ndarray

    @classmethod
    def of(
        cls,
        steps: Any,
        values: Any,
        updates: Any = None,
        seconds: Any = None,
    ) -> "Series":
        """Make a series of sequences, in the order of steps; rows without a number are left out."""
        steps, values = np.asarray(steps, float), np.asarray(values, float)
        unknown = np.full(len(steps), np.nan)
        updates = unknown if updates is None else np.asarray(updates, float)
        seconds = unknown if seconds is None else np.asarray(seconds, float)
        kept = np.flatnonzero(np.isfinite(steps) & np.isfinite(values))
        order = kept[np.argsort(steps[kept], kind="stable")]
        return cls(steps[order], values[order], updates[order], seconds[order])

    def __len__(self) -> int:
        return len(self.steps)

    def over(self, axis: str) -> np.ndarray:
        """Return the place of each value on one of `AXES`, [P]."""
        return getattr(self, axis)

    def knows(self, axis: str) -> bool:
        """Tell whether every value has a place on one of `AXES`."""
        return len(self) > 0 and bool(np.isfinite(self.over(axis)).all())

    def binned(self, bins: int) -> "Series":
        """Return the means of at most `bins` groups of successive values, each at its last place.

        A group spans equally many steps, not equally many values.
        """
        if len(self) <= 1 or self.steps[-1] <= 0:
            return self
        width = self.steps[-1] / bins
        group = np.minimum(np.ceil(self.steps / width), bins)
        last = np.flatnonzero(np.diff(group, append=np.inf))
        sums = np.diff(np.cumsum(self.values)[last], prepend=0.0)
        means = sums / np.diff(last, prepend=-1)
        return Series(self.steps[last], means, self.updates[last], self.seconds[last])


EMPTY = Series.of([], [])


@dataclasses.dataclass(frozen=True)
class Run:
    """A recorded run of one seed."""

    place: str  # its folder or file, as users know it
    env: str
    seed: int
    variant: str = ""  # its name, "" before it has one
    recorder: str = "noisydqn"  # the library that recorded it
    status: Status = "finished"
    reason: str = ""  # why it failed
    steps: int = 0  # environment steps that it was trained for
    budget: int | None = None  # environment steps that it was to be trained for
    seconds: float = float("nan")  # of training
    evaluations: Series = EMPTY  # mean returns of evaluations without exploration
    episodes: Series = EMPTY  # returns of training episodes
    solved_at: tuple[float, float] | None = None  # steps and seconds, by its own goal
    best_return: float | None = None  # of its best weights, in an evaluation after their selection
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict[str, Any])
    tables: Mapping[str, Columns] = dataclasses.field(default_factory=dict[str, Columns])
    """Its files as they are: `metrics`, `episodes` and `evaluations`."""
    about: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])
    """What is known of machine, versions and command, by name."""
    video: Callable[[], bytes | None] = _nothing
    """Reads the MP4 of its policy; None if there is none."""

    @property
    def has_returns(self) -> bool:
        """Whether any return is known."""
        return len(self.evaluations) + len(self.episodes) > 0

    @property
    def counts(self) -> bool:
        """Whether statistics include it: it has returns, and will not get others."""
        return self.has_returns and self.status not in ("running", "waiting")
