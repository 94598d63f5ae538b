"""Seconds from the start of the command to its first training step, with a cold and a warm cache.

    python -m benchmarks.startup [WORK ...] [--rounds 3] [--before FOLDER]

The end is the first row of `metrics.csv`, after a chunk of a single step of all environments. With
`--before` each round also runs the code of another checkout, so that both are measured in turn.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import results

WORKS = {
    "catcher": "catcher --chunk-steps 8",
    "lunarlander": "lunarlander --chunk-steps 4",
    "minatar": "gymnax:Breakout-MinAtar --chunk-steps 8",
}
DEADLINE = 300.0


def first_step(work: str, source: Path, cache: str) -> float:
    """Train in a separate process until the first step; return the seconds."""
    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / "run"
        argv = ["train", *WORKS[work].split(), "--out", str(out)]
        before = time.perf_counter()
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "noisydqn", *argv],
            env={**os.environ, "PYTHONPATH": str(source / "src"), "NOISYDQN_CACHE": cache},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        metrics = out / "metrics.csv"
        while not (metrics.exists() and metrics.stat().st_size):
            if process.poll() is not None or time.perf_counter() - before > DEADLINE:
                raise RuntimeError(f"{work} of {source} has not trained")
            time.sleep(0.005)
        seconds = time.perf_counter() - before
        process.send_signal(signal.SIGKILL)
        process.wait()
        return seconds


def measure(work: str, before: Path | None) -> dict[str, float]:
    """Measure one round: before, cold and warm."""
    here = Path(__file__).parent.parent
    row = {} if before is None else {"before": first_step(work, before, "")}
    with tempfile.TemporaryDirectory() as cache:
        row["cold"] = first_step(work, here, cache)
        row["warm"] = first_step(work, here, cache)
    return row


def main() -> None:
    """Measure in turn, print, save."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("works", nargs="*", default=list(WORKS), metavar="WORK")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--before", type=Path, default=None, help="checkout to compare with")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for work in args.works:
        rounds = [measure(work, args.before) for _ in range(args.rounds)]
        seconds = {name: [round(x[name], 2) for x in rounds] for name in rounds[0]}
        rows.append({"work": work, "seconds": seconds})
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        print(work, {name: f"{value:.1f} s" for name, value in medians.items()}, flush=True)
    results.save("startup", "python -m benchmarks.startup " + " ".join(sys.argv[1:]), rows)


if __name__ == "__main__":
    main()
