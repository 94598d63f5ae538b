"""The two learners on environments in JAX that have no preset: which is the better default.

    python -m benchmarks.learners [--envs CartPole-v1 ...] [--learners replay ...] [--seeds 0 1 2]

Each run is the installed command on one core, `noisydqn train gymnax:NAME --learner LEARNER`, with
the options and the budget of the preset that it has there. After training a hundred episodes are
played with mean weights. Rows are saved as they come; those of other environments, learners and
seeds are kept.
"""

import argparse
import statistics
import sys
from itertools import groupby, product
from typing import Any

from benchmarks import results
from benchmarks.training import on_cores, trained

NAME = "learners"
IDENTITY = ("env", "learner", "seed")
ENVS = (
    *("CartPole-v1", "Acrobot-v1", "MountainCar-v0"),
    *("Catch-bsuite", "FourRooms-misc", "FrozenLake-misc"),
)
"""Environments of gymnax with few actions and no preset: classic control, a game, two mazes."""
LEARNERS = {
    "replay": (),
    "replay, sparse": ("--preset", "sparse"),
    "parallel, epsilon-greedy": ("--exploration", "epsilon-greedy", "--epsilon-share", "0.1"),
    "parallel": (),
}
"""Both learners with their default exploration, and with others, by added options."""


def run(env: str, learner: str, seed: int, core: int) -> dict[str, Any]:
    """Train one seed on one core."""
    options = ["--learner", learner.partition(",")[0], *LEARNERS[learner], "--seed", str(seed)]
    options += ["--evaluation-episodes", "100", "--quiet", "--video-seconds", "0"]
    with trained(f"gymnax:{env}", *options, core=core) as done:
        return {
            "env": env,
            "learner": learner,
            "seed": seed,
            "steps": done.summary["steps"],
            "seconds": done.summary["train_seconds"],
            "mean_return": done.summary["evaluation"]["mean_return"],
            "commit": results.commit(),
        }


def table(rows: list[dict[str, Any]]) -> str:
    """Format the returns of every seed as a table in Markdown."""

    def group(row: dict[str, Any]) -> tuple[int, int]:
        return ENVS.index(row["env"]), [*LEARNERS].index(row["learner"])

    lines: list[tuple[object, ...]] = []
    for (env, learner), of_group in groupby(sorted(rows, key=group), group):
        seeds = sorted(of_group, key=lambda row: row["seed"])
        lines.append(
            (
                ENVS[env],
                [*LEARNERS][learner],
                f"{seeds[0]['steps']:,}",
                ", ".join(f"{row['mean_return']:.2f}" for row in seeds),
                f"{statistics.mean(row['mean_return'] for row in seeds):.2f}",
                f"{statistics.median(row['seconds'] for row in seeds):.0f} s",
            )
        )
    return results.markdown(
        ("gymnax's", "learner", "steps", "return, each seed", "mean", "one core"), lines
    )


def main() -> None:
    """Train, save, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--envs", nargs="+", choices=ENVS, default=list(ENVS))
    parser.add_argument("--learners", nargs="+", choices=LEARNERS, default=[*LEARNERS])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cores", type=int, help="runs at a time (default: all)")
    arguments = parser.parse_args()
    todo = list(product(arguments.envs, arguments.learners, arguments.seeds))
    command = "python -m benchmarks.learners " + " ".join(sys.argv[1:])
    ended = on_cores(todo, run, arguments.cores)
    print(table(results.collect(NAME, command, IDENTITY, ended)))


if __name__ == "__main__":
    main()
