"""MinAtar's five games (Young & Tian 2019), over seeds: either learner, noise or epsilon.

    python -m benchmarks.minatar [--steps 5000000] [--seeds 0 1 ...] [--games Asterix ...]
    python -m benchmarks.minatar --steps 2000000 --explore epsilon-greedy factorised indexed ...
    python -m benchmarks.minatar --learner replay --explore factorised --steps 300000 --seeds 0 1 2

Each run is the installed command on one core, with gymnax's games, which are compiled. A hundred
episodes are played with mean weights after every half million steps (a quarter of a short run) and
at the end. The final weights then play thirty episodes of the `minatar` package's own games, with
its sticky actions. Rows are saved as they come; those of other learners, explorations, budgets,
games and seeds are kept.
"""

import argparse
import statistics
import sys
from functools import partial
from itertools import groupby, product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import results
from benchmarks.training import on_cores, trained

NAME = "minatar"
FIGURE = Path(__file__).parent.parent / "docs" / "images" / "minatar.png"
IDENTITY = ("learner", "exploration", "game", "steps", "seed")
"""The columns that identify a row."""
PUBLISHED = {
    "Asterix": 17,
    "Breakout": 10,
    "Freeway": 50,
    "Seaquest": 20,
    "SpaceInvaders": 43,
}
"""Mean returns of a DQN after 5 million steps, as published with MinAtar."""
GAMES = tuple(PUBLISHED)
NOISY = ("--exploration", "noisy")
INDEXED = (
    *("--noise", "indexed", "--matched-targets", "--noise-samples", "4"),
    *("--prior-scale", "0.1", "--acting-noise", "episode"),
)
EXPLORATIONS: dict[str, tuple[str, ...]] = {
    "epsilon-greedy": ("--exploration", "epsilon-greedy"),
    "factorised": NOISY,
    "factorised, to a goal": (
        *NOISY,
        *("--update-noise", "mean", "--noise-goal", "0.05", "--noise-goal-share", "0.1"),
    ),
    "indexed": (*NOISY, *INDEXED),
    "indexed and epsilon": ("--exploration", "both", *INDEXED),
}
"""Ways to explore, by the options that choose them."""
EVALUATION_EVERY = 500_000
"""Steps, or a quarter of a run that is shorter than four times this."""


def package_game(game: str) -> Any:
    """Make the `minatar` package's own game, whose boards are shown as gymnax shows its own."""
    import gymnasium
    from gymnasium import spaces
    from gymnasium.wrappers import TransformObservation

    from noisydqn.envs.catalogue import register

    register(name := f"MinAtar/{game}-v1")
    env: Any = gymnasium.make(name)
    shown = spaces.Box(-np.inf, np.inf, env.observation_space.shape, np.float32)
    return TransformObservation(env, lambda x: np.asarray(x, np.float32), shown)


def run(
    arguments: argparse.Namespace, game: str, exploration: str, seed: int, core: int
) -> dict[str, Any]:
    """Train one seed on one core, and play the package's game with its weights."""
    steps, learner = arguments.steps, arguments.learner
    options = ["--learner", learner, *EXPLORATIONS[exploration], "--seed", str(seed)]
    options += ["--steps", str(steps), "--quiet", "--video-seconds", "0"]
    every = min(EVALUATION_EVERY, steps // 4)
    options += ["--evaluation-every", str(every), "--evaluation-episodes", "100"]
    with trained(f"gymnax:{game}-MinAtar", *options, core=core) as done:
        from noisydqn import evaluate
        from noisydqn.runs.folder import RunFolder
        from noisydqn.runs.plots import read_columns

        columns = read_columns(RunFolder.at(done.folder).evaluations)
        curve = list(zip(map(int, columns["step"]), columns["mean_return"], strict=True))
        played = evaluate(done.folder, env=package_game(game), episodes=30, weights="final")
        return {
            "learner": learner,
            "exploration": exploration,
            "game": game,
            "seed": seed,
            "steps": steps,
            "seconds": done.summary["train_seconds"],
            "steps_per_second": done.summary["steps_per_second"],
            "curve": curve,
            "mean_return": done.summary["evaluation"]["mean_return"],  # None: trained elsewhere
            "package_return": played.mean_return,
            "commit": results.commit(),
        }


def table(runs: list[dict[str, Any]]) -> str:
    """Format the scores of every seed as a table in Markdown."""
    rows: list[tuple[object, ...]] = []

    def group(run: dict[str, Any]) -> tuple[Any, ...]:
        exploration = tuple(EXPLORATIONS).index(run["exploration"])
        return run["learner"], -run["steps"], GAMES.index(run["game"]), exploration

    for (learner, steps, game, number), of_group in groupby(sorted(runs, key=group), group):
        seeds = sorted(of_group, key=lambda run: run["seed"])
        scores = [run["mean_return"] for run in seeds if run["mean_return"] is not None]
        rows.append(
            (
                f"{learner}, {tuple(EXPLORATIONS)[number]}",
                GAMES[game],
                f"{-steps:,}",
                ", ".join(f"{score:.1f}" for score in scores),
                f"{statistics.mean(scores):.1f}" if scores else "",
                ", ".join(f"{run['package_return']:.1f}" for run in seeds),
                f"{statistics.mean(run['package_return'] for run in seeds):.1f}",
                PUBLISHED[GAMES[game]],
                f"{statistics.median(run['seconds'] for run in seeds):.0f} s",
            )
        )
    header = ("agent", "game", "steps", "gymnax's game, each seed", "mean")
    header += (
        "the package's game, each seed",
        "mean",
        "published DQN, 5,000,000 steps",
        "one core",
    )
    return results.markdown(header, rows)


def draw(runs: list[dict[str, Any]]) -> None:
    """Plot the evaluations of the parallel learner over steps: a line for each run and way."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 3.4), layout="constrained")
    colors = {name: f"C{i}" for i, name in enumerate(EXPLORATIONS)}
    for game, axes in zip(GAMES, figure.subplots(1, len(GAMES)), strict=True):
        named: set[str] = set()
        for run in runs:
            if run["game"] == game and run["learner"] == "parallel":
                steps, scores = zip(*run["curve"], strict=True)
                name = run["exploration"]
                label = None if name in named else name
                named.add(name)
                axes.plot([x / 1e6 for x in steps], scores, color=colors[name], label=label, lw=1)
        axes.set(title=game, xlabel="million steps", ylim=(0, None))
    figure.axes[0].set(ylabel="mean return, without noise")
    lines, names = figure.axes[-1].get_legend_handles_labels()
    figure.legend(lines, names, loc="outside lower center", ncols=len(names), frameon=False)
    figure.savefig(FIGURE, dpi=100)


def main() -> None:
    """Train, save, plot, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=5_000_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--games", nargs="+", choices=GAMES, default=list(GAMES))
    parser.add_argument("--learner", choices=("replay", "parallel"), default="parallel")
    parser.add_argument(
        "--explore", nargs="+", choices=EXPLORATIONS, default=["epsilon-greedy"], metavar="WAY"
    )
    parser.add_argument("--cores", type=int, help="runs at a time (default: all)")
    arguments = parser.parse_args()
    todo = list(product(arguments.games, arguments.explore, arguments.seeds))
    todo.sort(key=lambda run: run[2])  # all of a seed before the next
    command = "python -m benchmarks.minatar " + " ".join(sys.argv[1:])
    ended = on_cores(todo, partial(run, arguments), arguments.cores)
    runs = results.collect(NAME, command, IDENTITY, ended)
    draw(runs)
    print(table(runs))


if __name__ == "__main__":
    main()
