"""Steps and seconds until environments are solved, over seeds.

    python -m benchmarks.solve                                every environment below, its seeds
    python -m benchmarks.solve LunarLander-v3 --seeds 10
    python -m benchmarks.solve LunarLander-v3 --peer          Stable-Baselines3 on the same work
    python -m benchmarks.solve LunarLander-v3 --preset rainbow-lunarlander
    python -m benchmarks.solve ALE/Pong-v5 --preset pong-laptop

Each seed is a run of the installed command in a separate process, one after the other, so the
seconds include start-up and compiling. An environment is solved when the mean return of the newest
training episodes reaches its goal. Then 100 episodes (Pong: 10) are played with mean weights. Rows
are appended to `results/solve.csv` as they come. The newest row of a library, environment and seed
counts.
"""

import argparse
import csv
import statistics
from typing import Any, NamedTuple

from benchmarks import results
from benchmarks.sb3_peer import solve as solve_with_sb3
from benchmarks.training import trained

NAME = "solve"
CSV = results.RESULTS / "solve.csv"
COLUMNS = ("library", "env", "seed", "solved_step", "seconds", "evaluation", "commit")


class Task(NamedTuple):
    """An environment's goal, and how often it is tried."""

    goal: float  # the mean return to reach
    window: int  # training episodes over which it is reached
    seeds: int
    episodes: int = 100  # of the evaluation afterwards


TASKS = {
    "LunarLander-v3": Task(200.0, 50, seeds=10),
    "CartPole-v1": Task(475.0, 100, seeds=5),
    "Acrobot-v1": Task(-100.0, 100, seeds=5),
    "MountainCar-v0": Task(-110.0, 100, seeds=5),
    "ALE/Pong-v5": Task(18.0, 32, seeds=3, episodes=10),
}
"""Goals are Gymnasium's thresholds, except for LunarLander, where Gymnasium takes 100 episodes, and
for Pong, which has none. A hundred episodes of Pong would take longer than the training between two
evaluations."""
USUAL = [env for env in TASKS if env != "ALE/Pong-v5"]  # which takes days by the preset of its own


def solve(env: str, seed: int, preset: str) -> dict[str, Any]:
    """Train one seed with a preset of an environment until it is solved."""
    task = TASKS[env]
    options = ["--seed", str(seed), "--quiet", "--video-seconds", "0"]
    options += ["--evaluation-episodes", str(task.episodes)]
    options += ["--stop-at-return", str(task.goal), "--window", str(task.window)]
    with trained(preset, *options) as run:
        evaluation = run.summary["evaluation"]["mean_return"]
        return {
            "solved_step": run.summary["solved_at_step"],
            "seconds": round((run.folder / "final.safetensors").stat().st_mtime - run.started, 1),
            "evaluation": round(evaluation, 1),
        }


def load() -> list[dict[str, Any]]:
    """Read the newest row of each library, environment and seed."""
    with CSV.open(newline="") as file:
        rows = {(row["library"], row["env"], int(row["seed"])): row for row in csv.DictReader(file)}
    return [rows[key] for key in sorted(rows)]


def table(rows: list[dict[str, Any]]) -> str:
    """Format every seed of every environment, with medians, as a table in Markdown."""
    lines: list[tuple[object, ...]] = []
    for library, env in sorted({(row["library"], row["env"]) for row in rows}):
        runs = [row for row in rows if (row["library"], row["env"]) == (library, env)]
        solved = [row for row in runs if row["solved_step"]]
        steps = ", ".join(
            f"{int(r['solved_step']) / 1000:.0f}" if r in solved else "-" for r in runs
        )
        seconds = ", ".join(f"{float(row['seconds']):.0f}" for row in runs)
        played = ", ".join(f"{float(row['evaluation']):.0f}" for row in runs)
        median = statistics.median(float(row["seconds"]) for row in runs)
        lines.append(
            (library, env, f"{len(solved)} of {len(runs)}", steps, seconds, f"{median:.0f}", played)
        )
    header = ("", "", "solved", "after thousand steps", "seconds", "median s", "100 episodes after")
    return results.markdown(header, lines)


def main() -> None:
    """Measure, append, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("envs", nargs="*", default=USUAL, choices=[*TASKS, []])
    parser.add_argument("--seeds", type=int, help="seeds 0, 1, ... of each")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--peer", action="store_true", help="Stable-Baselines3 instead")
    other.add_argument("--preset", help="another preset of the environment than its own")
    args = parser.parse_args()
    envs: list[str] = args.envs or USUAL
    library = "stable-baselines3" if args.peer else "noisydqn"
    if args.preset:
        library += f", {args.preset}"
    for env in envs:
        for seed in range(args.first, args.first + (args.seeds or TASKS[env].seeds)):
            if args.peer:
                run = solve_with_sb3(env, seed, TASKS[env].goal, TASKS[env].window)
            else:
                run = solve(env, seed, args.preset or env)
            about: dict[str, Any] = {"library": library, "env": env, "seed": seed}
            row: dict[str, Any] = {**about, **run, "commit": results.commit()}
            print(row, flush=True)
            is_new = not CSV.exists()
            with CSV.open("a", newline="") as file:
                writer: Any = csv.DictWriter(file, COLUMNS, lineterminator="\n")
                if is_new:
                    writer.writeheader()
                writer.writerow(row)
    print(table(load()))


if __name__ == "__main__":
    main()
