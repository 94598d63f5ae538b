"""The command in a separate process, to be stopped from outside."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def interrupt(
    out: Path, until: Path, *argv: str, number: int = signal.SIGINT, code: int = 130
) -> str:
    """Start training, press Ctrl-C once a file has something in it, and return what is printed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "noisydqn", "train", *argv, "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 240
    while not (until.exists() and until.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, number)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == code
    assert "Traceback" not in printed
    return printed
