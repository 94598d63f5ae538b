"""The result of a run, for Python."""

import base64
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noisydqn.errors import UserError
from noisydqn.folders import File
from noisydqn.play.policy import GreedyPolicy
from noisydqn.runs.folder import RunFolder
from noisydqn.runs.plots import draw_curves

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class Video:
    """A video, which a notebook plays if a cell ends in it; elsewhere use its `path`."""

    path: Path  # an MP4

    def _repr_html_(self) -> str:
        data = base64.b64encode(File.at(self.path).read()).decode()
        return f'<video controls autoplay loop muted src="data:video/mp4;base64,{data}"></video>'


@dataclasses.dataclass(frozen=True)
class SeedResult:
    """The result of one seed."""

    folder: Path
    policy: GreedyPolicy  # the best
    summary: dict[str, Any]  # as in summary.json


@dataclasses.dataclass(frozen=True)
class Result:
    """The result of a run."""

    folder: Path
    seeds: list[SeedResult]
    signal: int | None = None  # the signal that stopped the run, such as signal.SIGINT

    @property
    def interrupted(self) -> bool:
        """Whether a signal stopped the run before its end."""
        return self.signal is not None

    def plot(self, seed: int = 0) -> "Figure":
        """Plot the curves of a seed; a notebook shows them if a cell ends in the call.

        Args:
            seed: place of the seed in `seeds`, counted from 0.

        Returns:
            A `matplotlib.figure.Figure`, as in `curves.png`.
        """
        return draw_curves(RunFolder.at(self.seeds[seed].folder))

    def video(self, seed: int = 0) -> Video:
        """Return the video of a seed; a notebook plays it if a cell ends in the call.

        Args:
            seed: place of the seed in `seeds`, counted from 0.

        Raises:
            UserError: the run left no video.
        """
        file = RunFolder.at(self.seeds[seed].folder).video
        if not file.exists():
            raise UserError(
                f"{file} does not exist: the run was stopped, has video_seconds=0, or its "
                "environment cannot be drawn; noisydqn record makes a video of a run"
            )
        return Video(file.path)
