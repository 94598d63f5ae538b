"""What all services that track experiments share: their interface, and the tracker of a run."""

import dataclasses
import math
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from noisydqn.folders import File
from noisydqn.play.evaluate import Evaluation
from noisydqn.runners.report import SeedChunk
from noisydqn.runs.rows import episode_row, evaluation_row, metrics_row

PROJECT = "noisydqn"
"""Name of the project or experiment, unless the service's own settings name another."""


class Row(NamedTuple):
    """Values that belong to a number of environment steps."""

    step: int
    values: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Start:
    """What a service is told of a run before its first row."""

    id: str
    """Twelve hexadecimal digits. A run that is resumed keeps them, so a service finds it again."""
    name: str
    group: str | None
    """The name that seeds of one run have in common."""
    options: dict[str, str | int | float]


class Service(Protocol):
    """A run as a service keeps it. Every method may raise anything."""

    place: str
    """Where the run can be seen: an address or a folder."""

    def log(self, rows: Sequence[Row]) -> None:
        """Record rows."""

    def video(self, path: Path, step: int) -> None:
        """Record a video of the policy after `step` steps, which is deleted afterwards."""

    def close(self, *, complete: bool) -> None:
        """Send what is left; `complete` tells whether the run has its final evaluation."""


class ServiceTracker:
    """A tracker that sends to a service what the tables of a run hold.

    Names are those of table and column: `metrics/loss`, `episodes/return`,
    `evaluations/mean_return`; the final evaluation is `final/mean_return`. Values that are not
    numbers, or NaN, are left out. A service gets the same numbers as the tables.
    """

    def __init__(self, service: Service) -> None:
        self._service, self._complete = service, False

    def chunk(self, steps: int, seconds: float, speed: float, chunk: SeedChunk) -> None:
        """Send a row for each episode that ended, and one of metrics."""
        rows = [_row("episodes", episode_row(episode)) for episode in chunk.episodes]
        rows.append(_row("metrics", metrics_row(steps, seconds, speed, chunk)))
        self._service.log(rows)

    def evaluation(self, steps: int, seconds: float, evaluation: Evaluation) -> None:
        """Send a row."""
        self._service.log([_row("evaluations", evaluation_row(steps, seconds, evaluation))])

    def values(self, steps: int, values: Mapping[str, float]) -> None:
        """Send values that a callback logs, by its own names."""
        self._service.log([Row(steps, _numbers(values))])

    def result(self, steps: int, evaluation: Mapping[str, Any], video: File | None) -> None:
        """Send the final evaluation and the video of the best weights, if there is one."""
        self._complete = True
        self._service.log([_row("final", {"step": steps, **evaluation})])
        if video is not None:
            with tempfile.TemporaryDirectory() as folder:  # libraries would follow a link
                path = Path(folder, video.name)
                with video.reading() as source, path.open("wb") as copy:
                    shutil.copyfileobj(source, copy)
                self._service.video(path, steps)

    def close(self) -> None:
        """Close the run of the service."""
        self._service.close(complete=self._complete)


def _row(table: str, row: Mapping[str, Any]) -> Row:
    named = {f"{table}/{name}": value for name, value in row.items() if name != "step"}
    return Row(row["step"], _numbers(named))


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the values that are numbers."""
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }
