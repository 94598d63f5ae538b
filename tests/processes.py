"""The command in a separate process, to be stopped from outside."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LAUNCH = """
import signal
from noisydqn.cli import run

signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background ignore it
run()
"""

LONG = (
    *("--steps", "1000000", "--chunk-steps", "100", "--hidden", "8", "--quiet"),
    *("--evaluation-episodes", "1", "--evaluation-every", "0", "--video-seconds", "0"),
)
"""Options of a run that would take hours."""

Process = subprocess.Popen[str]


def start(*argv: str, before: tuple[str, ...] = (), **options: Any) -> Process:
    """Start the command, after others, in a process group of its own; reads all that is printed."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True} | options
    command = [*before, sys.executable, "-c", LAUNCH, *argv]
    return subprocess.Popen(command, start_new_session=True, **options)


def wait_until(ready: Callable[[], object], process: Process) -> None:
    """Wait until something is so, while a process runs."""
    deadline = time.monotonic() + 240
    while not ready() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)


def has_rows(path: Path) -> bool:
    """Tell whether a CSV file has a row below its header."""
    return path.exists() and path.read_text().count("\n") > 1


def finish(process: Process, code: int, seconds: float = 120.0) -> str:
    """Wait for a process to end with a code, and return what it printed."""
    try:
        printed, errors = process.communicate(timeout=seconds)
    finally:
        process.kill()
    printed = (printed or "") + (errors or "")
    assert process.returncode == code, printed
    assert "Traceback" not in printed
    return printed


def interrupt(
    out: Path, until: Path, *argv: str, number: int = signal.SIGINT, code: int = 130
) -> str:
    """Start training, press Ctrl-C once a file has something in it, and return what is printed."""
    process = start("train", *argv, "--out", str(out))
    wait_until(lambda: until.exists() and until.stat().st_size, process)
    os.killpg(process.pid, number)
    return finish(process, code)


def children(pid: int) -> list[int]:
    """List the worker processes of a process."""
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            line = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if parent == pid and b"spawn_main" in line:
            found.append(int(folder.name))
    return found


def all_gone(pids: list[int], seconds: float = 5.0) -> bool:
    """Tell whether processes end within some seconds."""
    deadline = time.monotonic() + seconds
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)
