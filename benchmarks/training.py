"""A run of the installed command in a separate process."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple


class Trained(NamedTuple):
    """A finished run."""

    folder: Path
    summary: dict[str, Any]
    started: float  # seconds since the epoch
    seconds: float  # of the whole command


@contextmanager
def trained(*arguments: str, core: int | None = None) -> Generator[Trained]:
    """Run `noisydqn train` in a temporary folder, on one core if it is named."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "run"
        command = [sys.executable, "-m", "noisydqn", "train", *arguments, "--out", str(folder)]
        environment = dict(os.environ)
        if core is not None:
            command = ["taskset", "-c", str(core), *command]
            environment["OMP_NUM_THREADS"] = "1"
        started = time.time()
        subprocess.run(command, check=True, env=environment)  # noqa: S603
        seconds = time.time() - started
        summary = json.loads((folder / "summary.json").read_text())
        yield Trained(folder, summary, started, seconds)
