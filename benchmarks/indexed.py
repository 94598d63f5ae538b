"""Factorised or indexed noise, in presets that learn with either, with the same seeds.

    python -m benchmarks.indexed [--envs Catcher ...] [--noise indexed] [--seeds 0 1 2 3 4]

Each run is the installed command on one core, with the preset's options but for the noise. It ends
when training returns reach the preset's goal; in LunarLander an evaluation must, too. Catcher is
trained to the end, and its returns are means of 10 episodes, not 100. Rows are saved as they come.
"""

import argparse
import statistics
import sys
from itertools import groupby, product
from typing import Any

from benchmarks import results, solve
from benchmarks.training import on_cores, trained

NAME = "indexed"
IDENTITY = ("env", "noise", "seed")
INDEXED = (
    *("--noise", "indexed", "--matched-targets", "--noise-samples", "4"),
    *("--prior-scale", "1", "--acting-noise", "episode"),
)
"""The same for all environments; chosen on seeds 100 and 101."""
FACTORISED = (
    *("--noise", "factorised", "--no-matched-targets", "--noise-samples", "1"),
    *("--acting-noise", "update"),
)
SOONER = ("--stop-at-evaluation", "none", "--chunk-steps", "1000")
CATCHER = "Catcher"
OPTIONS: dict[str, dict[str, tuple[str, ...]]] = {
    CATCHER: {"factorised": (), "indexed": INDEXED},
    "CartPole-v1": {"factorised": (), "indexed": INDEXED},
    "Acrobot-v1": {"factorised": (*FACTORISED, *SOONER), "indexed": SOONER},
    "LunarLander-v3": {"factorised": (), "indexed": INDEXED},
}
"""Options that give a preset either noise."""
ENVS = tuple(OPTIONS)
NOISES = ("factorised", "indexed")


def run(env: str, noise: str, seed: int, core: int) -> dict[str, Any]:
    """Train one seed on one core."""
    options = ["--seed", str(seed), "--quiet", "--video-seconds", "0", *OPTIONS[env][noise]]
    if env != CATCHER:
        options += ["--evaluation-episodes", str(solve.TASKS[env].episodes)]
    with trained("catcher" if env == CATCHER else env, *options, core=core) as done:
        return {
            "env": env,
            "noise": noise,
            "seed": seed,
            "solved_step": done.summary["solved_at_step"],
            "mean_return": round(done.summary["evaluation"]["mean_return"], 1),
            "commit": results.commit(),
        }


def table(rows: list[dict[str, Any]]) -> str:
    """Format every seed of every environment, under either noise, as a table in Markdown."""

    def group(row: dict[str, Any]) -> tuple[int, int]:
        return ENVS.index(row["env"]), NOISES.index(row["noise"])

    lines: list[tuple[object, ...]] = []
    for (env, noise), of_group in groupby(sorted(rows, key=group), group):
        runs = sorted(of_group, key=lambda row: row["seed"])
        steps = [row["solved_step"] for row in runs]
        returns = [row["mean_return"] for row in runs]
        lines.append(
            (
                ENVS[env],
                NOISES[noise],
                f"{sum(step is not None for step in steps)} of {len(steps)}",
                ", ".join("-" if x is None else f"{x / 1000:.0f}" for x in steps),
                ", ".join(f"{x:.0f}" for x in returns),
                f"{statistics.mean(returns):.0f}",
            )
        )
    header = ("", "noise", "solved", "after thousand steps", "return, each seed", "mean")
    return results.markdown(header, lines)


def main() -> None:
    """Train, save, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--envs", nargs="+", choices=ENVS, default=list(ENVS))
    parser.add_argument("--noise", nargs="+", choices=NOISES, default=list(NOISES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--cores", type=int, help="runs at a time (default: all)")
    arguments = parser.parse_args()
    todo = product(arguments.envs, arguments.noise, arguments.seeds)
    command = "python -m benchmarks.indexed " + " ".join(sys.argv[1:])
    ended = on_cores(todo, run, arguments.cores)
    print(table(results.collect(NAME, command, IDENTITY, ended)))


if __name__ == "__main__":
    main()
