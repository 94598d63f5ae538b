"""Presets under indexed noise instead of their own, with the same seeds.

    python -m benchmarks.indexed [--envs Catcher ...] [--seeds 0 1 2 3 4]

Each run is the installed command on one core. The presets' own rows are those of `benchmarks.solve`
and `benchmarks.catcher`, which have both cores. Rows are saved as they come.
"""

import argparse
import statistics
import sys
from itertools import product
from typing import Any

from benchmarks import results, solve
from benchmarks.training import on_cores, trained

NAME = "indexed"
IDENTITY = ("env", "seed")
INDEXED = (
    *("--noise", "indexed", "--matched-targets", "--noise-samples", "4"),
    *("--prior-scale", "1", "--acting-noise", "episode"),
)
"""The same for all environments; chosen on seeds 100 and 101."""
CATCHER = "Catcher"
ENVS = (CATCHER, "CartPole-v1", "Acrobot-v1", "LunarLander-v3")


def run(env: str, seed: int, core: int) -> dict[str, Any]:
    """Train one seed on one core."""
    options = ["--seed", str(seed), "--quiet", "--video-seconds", "0", *INDEXED]
    if env != CATCHER:
        options += ["--evaluation-episodes", str(solve.TASKS[env].episodes)]
    with trained("catcher" if env == CATCHER else env, *options, core=core) as done:
        return {
            "env": env,
            "seed": seed,
            "solved_step": done.summary["solved_at_step"],
            "mean_return": round(done.summary["evaluation"]["mean_return"], 1),
            "seconds": done.summary["train_seconds"],
            "commit": results.commit(),
        }


def own(env: str, seeds: set[int]) -> list[dict[str, Any]]:
    """Return the rows of an environment's preset as it is."""
    if env == CATCHER:
        rows = [
            {
                "seed": row["seed"],
                "solved_step": row["solved_at_step"],
                "mean_return": row["evaluation"]["mean_return"],
            }
            for row in results.load("catcher")
        ]
    else:
        rows = [
            {
                "seed": int(row["seed"]),
                "solved_step": int(row["solved_step"]) if row["solved_step"] else None,
                "mean_return": float(row["evaluation"]),
            }
            for row in solve.load()
            if (row["library"], row["env"]) == ("noisydqn", env)
        ]
    return [row for row in rows if row["seed"] in seeds]


def table(rows: list[dict[str, Any]]) -> str:
    """Format every seed of every environment, under either noise, as a table in Markdown."""
    lines: list[tuple[object, ...]] = []
    for env in ENVS:
        indexed = [row for row in rows if row["env"] == env]
        preset = own(env, {row["seed"] for row in indexed})
        for noise, of_noise in (("as in the preset", preset), ("indexed", indexed)):
            runs = sorted(of_noise, key=lambda row: row["seed"])
            if runs:
                steps = [row["solved_step"] for row in runs]
                returns = [row["mean_return"] for row in runs]
                lines.append(
                    (
                        env,
                        noise,
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
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--cores", type=int, help="runs at a time (default: all)")
    arguments = parser.parse_args()
    todo = product(arguments.envs, arguments.seeds)
    command = "python -m benchmarks.indexed " + " ".join(sys.argv[1:])
    ended = on_cores(todo, run, arguments.cores)
    print(table(results.collect(NAME, command, IDENTITY, ended)))


if __name__ == "__main__":
    main()
