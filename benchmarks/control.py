"""Continuous control by bins: returns after training, over seeds.

    python -m benchmarks.control pendulum                the preset, seeds 0 to 4
    python -m benchmarks.control cheetah --seeds 0       HalfCheetah-v5, which needs MuJoCo

Each seed is a run of the installed command in a separate process on one core, one after the other,
so the seconds include start-up, compiling and evaluations. At the end 20 episodes are played with
mean weights. The newest run of an environment, number of steps and seed counts.
"""

import argparse
import os
from typing import Any

import gymnasium
import numpy as np

from benchmarks import results
from benchmarks.training import trained

NAME = "control"
IDENTITY = "env", "steps", "seed"

CHEETAH = {
    "--steps": "500000",
    "--chunk-steps": "5000",
    "--num-envs": "8",
    "--action-bins": "3",
    "--torso": "flat",
    "--hidden": "256 256",
    "--layer-norm": "",
    "--noise-in": "head",
    "--exploration": "both",
    "--epsilon": "0.1",
    "--epsilon-final": "0.1",
    "--normalize-observations": "running",
    "--reward-scale": "0.1",
    "--learning-rate": "5e-4",
    "--learning-rate-final": "1e-4",
    "--schedule-share": "1.0",
    "--n-step": "3",
    "--batch-size": "128",
    "--updates-per-step": "0.25",
    "--learn-every": "4",
    "--learning-starts": "5000",
    "--random-steps": "5000",
    "--replay": "uniform",
    "--replay-capacity": "500000",
    "--evaluation-every": "100000",
}
"""The options of HalfCheetah, tried out on seeds 100 and 101."""

RUNS: dict[str, tuple[str, dict[str, str]]] = {
    "pendulum": ("Pendulum-v1", {}),
    "cheetah": ("HalfCheetah-v5", CHEETAH),
}


def run(name: str, seed: int, steps: int | None) -> dict[str, Any]:
    """Train one seed on one core."""
    env, options = RUNS[name]
    arguments = [x for pair in options.items() for word in pair for x in word.split()]
    arguments += ["--seed", str(seed), "--quiet", "--video-seconds", "0"]
    arguments += ["--evaluation-episodes", "20"]
    if steps is not None:
        arguments += ["--steps", str(steps)]
    before = os.times()
    with trained(env, *arguments, core=min(os.sched_getaffinity(0))) as made:
        after = os.times()
        busy = after.children_user + after.children_system
        busy -= before.children_user + before.children_system
        return {
            "env": env,
            "steps": made.summary["steps"],
            "seed": seed,
            "return": round(made.summary["evaluation"]["mean_return"], 1),
            "random": round(random_return(env), 1),
            "seconds": round(made.seconds),
            "processor_seconds": round(busy),
            "commit": results.commit(),
        }


def random_return(env: str, episodes: int = 20) -> float:
    """Play random actions of the whole box; return the mean return."""
    made = gymnasium.make(env)
    made.action_space.seed(0)
    total = 0.0
    for episode in range(episodes):
        made.reset(seed=episode)
        over = False
        while not over:
            _, reward, terminated, truncated, _ = made.step(made.action_space.sample())
            total, over = total + float(reward), terminated or truncated
    made.close()
    return total / episodes


def table(rows: list[dict[str, Any]]) -> str:
    """Format every seed of every environment as a table in Markdown."""
    lines: list[tuple[object, ...]] = []
    for env, steps in sorted({(row["env"], row["steps"]) for row in rows}, reverse=True):
        runs = [row for row in rows if (row["env"], row["steps"]) == (env, steps)]
        runs.sort(key=lambda row: row["seed"])
        columns = ("return", "processor_seconds", "seconds")
        shown = (", ".join(f"{row[column]:.0f}" for row in runs) for column in columns)
        chance = float(np.mean([row["random"] for row in runs]))
        lines.append((env, f"{steps:,}", len(runs), *shown, f"{chance:.0f}"))
    header = ("", "steps", "seeds", "return", "processor s", "s", "return at random")
    return results.markdown(header, lines)


def main() -> None:
    """Measure, save, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", choices=RUNS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int, help="instead of the usual number")
    args = parser.parse_args()
    for seed in args.seeds:
        row = run(args.name, seed, args.steps)
        print(row, flush=True)
        rows = [*results.others(NAME, [row], IDENTITY), row]
        command = f"python -m benchmarks.control {args.name}"
        results.save(NAME, command, rows)
    print(table(results.load(NAME)))


if __name__ == "__main__":
    main()
