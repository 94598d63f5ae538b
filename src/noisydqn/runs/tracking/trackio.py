"""Runs of Trackio."""

import contextlib
import contextvars
import importlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from noisydqn.runs.tracking.service import PROJECT, Row, Start


class Trackio:
    """A run of Trackio.

    The library's own environment variables decide where it is kept: `TRACKIO_DIR` names the folder
    of the local database, `TRACKIO_SPACE_ID` a space of Hugging Face.
    """

    def __init__(self, start: Start) -> None:
        trackio: Any = importlib.import_module("trackio")
        self._video = trackio.Video
        # In a context of its own: Trackio ends the run that the context already has.
        context = contextvars.copy_context()
        with contextlib.redirect_stdout(io.StringIO()):
            self._run = context.run(
                trackio.init,
                project=PROJECT,
                name=f"{start.name}-{start.id}",  # by which Trackio finds a run again
                group=start.group,
                config=start.options,
                resume="allow",
                embed=False,
            )
        self.place = str(self._run.url or f"{trackio.TRACKIO_DIR}, shown by trackio show")

    def log(self, rows: Sequence[Row]) -> None:
        """Record rows; a thread of the library stores them."""
        for row in rows:
            self._run.log(row.values, step=row.step)

    def video(self, path: Path, step: int) -> None:
        """Record a video."""
        self._run.log({"video": self._video(path)}, step=step)

    def close(self, *, complete: bool) -> None:
        """Wait until everything is stored."""
        del complete  # Trackio knows no failed runs
        with contextlib.redirect_stdout(io.StringIO()):
            self._run.finish()
