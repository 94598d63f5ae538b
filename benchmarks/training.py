"""Runs of the installed command, and calls, in separate processes."""

import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from queue import Queue
from typing import Any, NamedTuple, TypeVar


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


def steps_per_second(folder: Path) -> float:
    """Return the median speed of a run's chunks but the first, which includes compiling."""
    with (folder / "metrics.csv").open(newline="") as file:
        return statistics.median(
            float(row["steps_per_second"]) for row in list(csv.DictReader(file))[1:]
        )


def in_process(call: str, cores: int, *modules: str) -> Any:
    """Evaluate a call in a separate process on some cores; returns its value, by way of JSON.

    Args:
        call: the expression.
        cores: number of cores.
        modules: of `benchmarks`, which the expression names.
    """
    program = (
        f"import json, os; os.sched_setaffinity(0, range({cores}))\n"
        f"from benchmarks import {', '.join(modules)}\n"
        f"print(json.dumps({call}))"
    )
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", program],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(cores)},
    )
    return json.loads(done.stdout.splitlines()[-1])


Row = TypeVar("Row")


def on_cores(
    jobs: Iterable[tuple[Any, ...]], run: Callable[..., Row], most: int | None = None
) -> Iterator[Row]:
    """Run jobs side by side, each on a core of its own; yield what they return as they end.

    Args:
        jobs: the arguments of each.
        run: called with a job's arguments and the number of its core.
        most: jobs at a time at most; None takes as many as there are cores.
    """
    cores: Queue[int] = Queue()
    for core in sorted(os.sched_getaffinity(0))[:most]:
        cores.put(core)

    def on_a_core(job: tuple[Any, ...]) -> Row:
        core = cores.get()
        try:
            return run(*job, core)
        finally:
            cores.put(core)

    with ThreadPoolExecutor(cores.qsize()) as pool:
        for ended in as_completed([pool.submit(on_a_core, job) for job in jobs]):
            yield ended.result()
