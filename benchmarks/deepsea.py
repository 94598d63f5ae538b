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
import json
import math
import statistics
import sys
from functools import partial
from itertools import groupby, product
from typing import Any

import numpy as np

from benchmarks import results
from benchmarks.training import on_cores, trained

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
    arguments: argparse.Namespace, size: int, exploration: str, seed: int, core: int
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
        from noisydqn.runs.folder import RunFolder
        from noisydqn.runs.plots import read_columns

        folder = RunFolder.at(done.folder)
        played, metrics = read_columns(folder.episodes), read_columns(folder.metrics)
        good = played["success"]
        bad = np.cumsum(1 - np.array(good))
        episodes = np.arange(1, len(bad) + 1)
        solved = solved_after(episodes, bad, deterministic=not arguments.stochastic)
        end = math.inf if solved is None else played["step"][solved - 1]
        ends = zip(metrics["step"], metrics["seconds"], strict=True)
        return {
            "stochastic": arguments.stochastic,
            "size": size,
            "exploration": exploration,
            "seed": seed,
            "solved": solved,
            "first": next((i for i, x in enumerate(good, 1) if x), None),
            "episodes": len(good),
            "seconds": next((seconds for step, seconds in ends if step >= end), done.seconds),
            "commit": results.commit(),
        }


def table(rows: list[dict[str, Any]]) -> str:
    """Format every seed as a table in Markdown."""

    def group(row: dict[str, Any]) -> tuple[Any, ...]:
        return row["stochastic"], row["size"], tuple(EXPLORATIONS).index(row["exploration"])

    lines: list[tuple[object, ...]] = []
    for (stochastic, size, number), of_group in groupby(sorted(rows, key=group), group):
        runs = sorted(of_group, key=lambda row: row["seed"])
        solved = [row["solved"] for row in runs if row["solved"] is not None]
        each = ", ".join(
            f">{row['episodes']:,}" if row["solved"] is None else f"{row['solved']:,}"
            for row in runs
        )
        lines.append(
            (
                f"{size}, stochastic" if stochastic else size,
                tuple(EXPLORATIONS)[number],
                f"{len(solved)} of {len(runs)}",
                each,
                f"{statistics.median(row['seconds'] for row in runs):.0f} s",
            )
        )
    header = ("size", "exploration", "solved", "after episodes, each seed", "median time")
    return results.markdown(header, lines)


def main() -> None:
    """Train, save, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 20, 30])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--explore", nargs="+", choices=EXPLORATIONS, default=["indexed"])
    parser.add_argument("--stochastic", action="store_true")
    parser.add_argument("--episodes", type=int, default=EPISODES)
    parser.add_argument("--cores", type=int, help="runs at a time (default: all)")
    arguments = parser.parse_args()
    todo = product(arguments.sizes, arguments.explore, arguments.seeds)
    command = "python -m benchmarks.deepsea " + " ".join(sys.argv[1:])
    ended = on_cores(todo, partial(run, arguments), arguments.cores)
    print(table(results.collect(NAME, command, IDENTITY, ended)))


if __name__ == "__main__":
    main()
