"""Episodes until DeepSea is solved, by its size and by the way to explore, over seeds.

    python -m benchmarks.deepsea [--sizes 10 20 30] [--explore indexed factorised ...]
    python -m benchmarks.deepsea --stochastic --sizes 20 [--seeds 0 1 ...]

Each run is the installed command with the preset `deepsea` on one core. DeepSea is solved as bsuite
counts it: after the first episode up to which fewer than 90% of all episodes were bad (80% and at
least 100 episodes if it is stochastic). Training goes on for a thousand good episodes, so that
this is seen however late the first one came. Seconds are those of training until then, with
compilation. Rows are saved as they come.
"""

import argparse
import csv
import json
import math
import os
import statistics
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import groupby, product
from pathlib import Path
from queue import Queue
from typing import Any

import numpy as np

from benchmarks import results
from benchmarks.training import trained

NAME = "deepsea"
IDENTITY = ("stochastic", "size", "exploration", "seed")
EXPLORATIONS: dict[str, tuple[str, ...]] = {
    "indexed": (),
    "factorised": ("--noise", "factorised", "--noise-samples", "1", "--no-matched-targets"),
    "epsilon-greedy": ("--exploration", "epsilon-greedy", "--epsilon-share", "0.5"),
}
"""Ways to explore, by the options that choose them."""
EPISODES = 10_000
"""Episodes of bsuite's experiment."""


def run(
    size: int, exploration: str, seed: int, core: int, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Train one seed on one core."""
    kwargs = {"size": size, "deterministic": not arguments.stochastic}
    steps = (size + 1) * arguments.episodes
    options = ["--env-kwargs", json.dumps(kwargs), "--seed", str(seed), "--steps", str(steps)]
    options += ["--quiet", "--video-seconds", "0", "--evaluation-episodes", "10"]
    options += EXPLORATIONS[exploration]
    options += ["--stop-at-return", "none" if arguments.stochastic else "0.9"]
    options += ["--window", "1000", "--chunk-steps", str(100 * (size + 1))]
    with trained("deepsea", *options, core=core) as done:
        from noisydqn.envs.deep_sea import solved_after

        played = rows_of(done.folder / "episodes.csv")
        good = [row["success"] for row in played]
        bad = np.cumsum(1 - np.array(good))
        episodes = np.arange(1, len(bad) + 1)
        solved = solved_after(episodes, bad, deterministic=not arguments.stochastic)
        end = math.inf if solved is None else played[solved - 1]["step"]
        metrics = rows_of(done.folder / "metrics.csv")
        return {
            "stochastic": arguments.stochastic,
            "size": size,
            "exploration": exploration,
            "seed": seed,
            "solved": solved,
            "first": next((i for i, x in enumerate(good, 1) if x), None),
            "episodes": len(good),
            "seconds": next((x["seconds"] for x in metrics if x["step"] >= end), done.seconds),
            "commit": results.commit(),
        }


def rows_of(path: Path) -> list[dict[str, float]]:
    """Read a table of a run."""
    with path.open(newline="") as file:
        return [
            {name: float(x or "nan") for name, x in row.items()} for row in csv.DictReader(file)
        ]


def table(rows: list[dict[str, Any]]) -> str:
    """Format every seed as a table in Markdown."""

    def group(row: dict[str, Any]) -> tuple[Any, ...]:
        return row["stochastic"], row["size"], tuple(EXPLORATIONS).index(row["exploration"])

    lines: list[tuple[object, ...]] = []
    for (stochastic, size, number), of_group in groupby(sorted(rows, key=group), group):
        runs = sorted(of_group, key=lambda row: row["seed"])
        solved = [row["solved"] for row in runs if row["solved"] is not None]
        each = ", ".join("-" if row["solved"] is None else f"{row['solved']:,}" for row in runs)
        lines.append(
            (
                f"{size}, stochastic" if stochastic else size,
                tuple(EXPLORATIONS)[number],
                f"{len(solved)} of {len(runs)}",
                each,
                f"{statistics.median(row['seconds'] for row in runs):.0f} s",
            )
        )
    header = ("size", "exploration", "solved", "after episodes, each seed", "median")
    return results.markdown(header, lines)


def main() -> None:
    """Train, save, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 20, 30])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--explore", nargs="+", choices=EXPLORATIONS, default=["indexed"])
    parser.add_argument("--stochastic", action="store_true")
    parser.add_argument("--episodes", type=int, default=EPISODES)
    parser.add_argument("--cores", type=int, default=os.cpu_count(), help="runs at a time")
    arguments = parser.parse_args()
    cores: Queue[int] = Queue()
    for core in sorted(os.sched_getaffinity(0))[: arguments.cores]:
        cores.put(core)

    def on_a_core(size: int, exploration: str, seed: int) -> dict[str, Any]:
        core = cores.get()
        try:
            done = run(size, exploration, seed, core, arguments)
        finally:
            cores.put(core)
        print(done, flush=True)
        return done

    todo = product(arguments.sizes, arguments.explore, arguments.seeds)
    rows: list[dict[str, Any]] = []
    with ThreadPoolExecutor(cores.qsize()) as pool:
        for future in as_completed([pool.submit(on_a_core, *x) for x in todo]):
            rows.append(future.result())
            saved = [*rows, *results.others(NAME, rows, IDENTITY)]
            results.save(NAME, "python -m benchmarks.deepsea " + " ".join(sys.argv[1:]), saved)
    print(table(rows))


if __name__ == "__main__":
    main()
