"""Runs of Weights & Biases."""

import importlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from noisydqn.errors import UserError
from noisydqn.runs.tracking.service import PROJECT, Row, Start


class Wandb:
    """A run of Weights & Biases.

    The library's own environment variables decide on everything else: `WANDB_MODE=offline` keeps
    the run in `WANDB_DIR`, by default in `./wandb`. The horizontal axis is `step`, as the
    library's own counter may not go back to the step of a late evaluation.

    Raises:
        UserError: nobody is logged in.
    """

    def __init__(self, start: Start) -> None:
        wandb: Any = importlib.import_module("wandb")
        self._video = wandb.Video
        settings = wandb.Settings(console="off", silent=True)  # nothing of the terminal's
        _check_login(wandb, settings)
        self._run = wandb.init(
            id=f"{PROJECT}-{start.id}",
            resume="allow",
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=start.name,
            group=start.group,
            config=start.options,
            allow_val_change=True,  # such as the steps of a resumed run
            reinit="create_new",  # seeds are trained side by side
            settings=settings,
        )
        self._run.define_metric("*", step_metric="step")
        self.place = str(self._run.url or Path(self._run.dir).parent)

    def log(self, rows: Sequence[Row]) -> None:
        """Record rows; a thread of the library sends them."""
        for row in rows:
            self._run.log({"step": row.step, **row.values})

    def video(self, path: Path, step: int) -> None:
        """Record a video."""
        self._run.log({"step": step, "video": self._video(str(path))})

    def close(self, *, complete: bool) -> None:
        """Wait until everything is sent; a run that is not complete is marked as failed."""
        self._run.finish(exit_code=0 if complete else 1)


def _check_login(wandb: Any, settings: Any) -> None:
    """Refuse a run that would ask for a password, as the live view is on the terminal.

    Raises:
        UserError: nobody is logged in, and the run is to be sent.
    """
    mode = wandb.setup(settings).settings.mode
    sends = mode not in ("offline", "dryrun", "disabled")
    if sends and wandb.run is None and not wandb.login(prompt=False, verify=False):
        raise UserError("nobody is logged in: run wandb login, or set WANDB_MODE=offline")
