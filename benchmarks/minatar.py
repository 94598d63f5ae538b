"""MinAtar's five games (Young & Tian 2019) with the preset `minatar`, over seeds.

    python -m benchmarks.minatar [--steps 300000] [--seeds 3] [--games Asterix ...]

Each run is the installed command on one core, two at a time. Thirty episodes are played with mean
weights after every tenth of the budget and at the end; a hundred each time would take more steps
than the training. Sticky actions are the package's default. Games that are not run keep their rows.
"""

import argparse
import csv
import os
import statistics
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from typing import Any

from benchmarks import results
from benchmarks.training import trained

NAME = "minatar"
FIGURE = Path(__file__).parent.parent / "docs" / "images" / "minatar.png"
PUBLISHED = {
    "Asterix": "55 (55)",
    "Breakout": "19 (66)",
    "Freeway": "63 (63)",
    "SpaceInvaders": "128 (149)",
}
"""Means published for a DQN and, in brackets, for the best agent of that source."""
GAMES = ("Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders")


def run(game: str, seed: int, steps: int, core: int) -> dict[str, Any]:
    """Train one seed on one core."""
    options = ["--seed", str(seed), "--steps", str(steps), "--quiet", "--video-seconds", "0"]
    options += ["--evaluation-every", str(steps // 10), "--evaluation-episodes", "30"]
    with trained(f"MinAtar/{game}-v1", *options, core=core) as done:
        with (done.folder / "evaluations.csv").open(newline="") as file:
            curve = [(int(row["step"]), float(row["mean_return"])) for row in csv.DictReader(file)]
        return {
            "game": game,
            "seed": seed,
            "steps": steps,
            "seconds": done.summary["train_seconds"],
            "curve": curve,
            "evaluation": done.summary["evaluation"],
        }


def table(runs: list[dict[str, Any]]) -> str:
    """Format the scores of every seed as a table in Markdown."""
    rows: list[tuple[object, ...]] = []
    for game in GAMES:
        of_game = [run for run in runs if run["game"] == game]
        scores = [run["evaluation"]["mean_return"] for run in of_game]
        if not scores:
            continue
        rows.append(
            (
                game,
                f"{of_game[0]['steps']:,}",
                ", ".join(f"{score:.1f}" for score in scores),
                f"{statistics.mean(scores):.1f}",
                PUBLISHED.get(game, ""),
                f"{statistics.median(run['seconds'] for run in of_game):.0f} s",
            )
        )
    header = ("game", "steps", "return of each seed", "mean", "published DQN (best)", "one core")
    return results.markdown(header, rows)


def draw(runs: list[dict[str, Any]]) -> None:
    """Plot the evaluations of every run over its steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 3), layout="constrained")
    for game, axes in zip(GAMES, figure.subplots(1, len(GAMES)), strict=True):
        for run in runs:
            if run["game"] == game:
                steps, scores = zip(*run["curve"], strict=True)
                axes.plot([x / 1000 for x in steps], scores, label=f"seed {run['seed']}")
        axes.set(title=game, xlabel="thousand steps", ylim=(0, None))
    figure.axes[0].set(ylabel="mean return, without noise")
    figure.axes[-1].legend()
    figure.savefig(FIGURE, dpi=100)


def main() -> None:
    """Train, save, plot, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=300_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--games", nargs="+", choices=GAMES, default=list(GAMES))
    arguments = parser.parse_args()
    cores: Queue[int] = Queue()
    for core in sorted(os.sched_getaffinity(0)):
        cores.put(core)

    def on_a_core(game: str, seed: int) -> dict[str, Any]:
        core = cores.get()
        try:
            done = run(game, seed, arguments.steps, core)
        finally:
            cores.put(core)
        print(game, seed, done["evaluation"], f"{done['seconds']:.0f} s", flush=True)
        return done

    todo = [(game, seed) for game in arguments.games for seed in range(arguments.seeds)]
    with ThreadPoolExecutor(cores.qsize()) as pool:
        runs = list(pool.map(lambda x: on_a_core(*x), todo))
    runs += results.others(NAME, runs, ("game",))
    results.save(NAME, "python -m benchmarks.minatar " + " ".join(sys.argv[1:]), runs)
    draw(runs)
    print(table(runs))


if __name__ == "__main__":
    main()
