"""Scores in a tenth of bsuite, by the way to explore, over seeds.

    python -m benchmarks.bsuite_sweep [--explore indexed ...] [--seeds 0 1 2] [--experiments ...]

An agent is the installed command `bsuite` with its default options, those of the preset `deepsea`,
but for the exploration. Each experiment is trained on one core, in a few of its settings and for a
tenth of bsuite's episodes, as whole sweeps take 100 million steps and more. What needs memory is
left out, and so is `mnist`, which downloads its images. Settings that differ by their seed alone
are played once, noise and scale at three levels, DeepSea in sizes from 10 to 30.

Rows are saved as they come; those of other agents, experiments and seeds are kept.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.training import on_cores

NAME = "bsuite"
FIGURE = Path(__file__).parent.parent / "docs" / "images" / "bsuite.png"
IDENTITY = ("exploration", "experiment", "seed")
EXPLORATIONS: dict[str, tuple[str, ...]] = {
    "indexed": (),
    "factorised": ("--noise", "factorised", "--noise-samples", "1", "--no-matched-targets"),
    "epsilon-greedy": (  # the constant of bsuite's DQN
        *("--exploration", "epsilon-greedy", "--epsilon", "0.05", "--epsilon-final", "0.05"),
    ),
}
"""Ways to explore, by the options that choose them."""
BASIC, LEVELS, LENGTHS = (0,), (0, 8, 16), (0, 4, 8, 12, 16)
SETTINGS = {
    **dict.fromkeys(("bandit", "cartpole", "catch", "mountain_car"), BASIC),
    **{
        f"{name}_{change}": LEVELS
        for name, change in product(
            ("bandit", "cartpole", "catch", "mountain_car"), ("noise", "scale")
        )
    },
    **dict.fromkeys(("deep_sea", "deep_sea_stochastic"), (0, 2, 5, 10)),
    **dict.fromkeys(("umbrella_distract", "umbrella_length"), LENGTHS),
    **dict.fromkeys(("cartpole_swingup", "discounting_chain"), LENGTHS),
}
"""Numbers of the settings that are played, by experiment."""
SHARE = 0.1
"""Share of bsuite's episodes."""


def run(exploration: str, experiment: str, seed: int, core: int) -> dict[str, Any]:
    """Train one seed on an experiment's settings on one core."""
    from noisydqn.envs.bsuite import sweep
    from noisydqn.runs.bsuite_scores import scores_in

    settings = [f"{experiment}/{number}" for number in SETTINGS[experiment]]
    episodes = round(SHARE * sweep().EPISODES[settings[0]])
    with tempfile.TemporaryDirectory() as parent:
        command = ["taskset", "-c", str(core), sys.executable, "-m", "noisydqn", "bsuite"]
        command += [",".join(settings), "--out", parent, "--label", "agent", "--seed", str(seed)]
        command += ["--episodes", str(episodes), *EXPLORATIONS[exploration]]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(  # noqa: S603
            command, check=True, env=environment, stdout=subprocess.DEVNULL
        )
        runs = [
            json.loads(path.read_text())
            for path in sorted((Path(parent) / "agent" / "runs").glob("*/summary.json"))
        ]
        return {
            "exploration": exploration,
            "experiment": experiment,
            "seed": seed,
            "score": scores_in(Path(parent))["agent"].experiments[experiment].mean,
            "settings": len(runs),
            "episodes": episodes,
            "steps": sum(of_setting["steps"] for of_setting in runs),
            "seconds": sum(of_setting["train_seconds"] for of_setting in runs),
            "commit": results.commit(),
        }


def scores(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the scores of each agent over the seeds that all its experiments have."""
    from noisydqn.runs.bsuite_scores import Score, Scores

    agents: dict[str, Any] = {}
    for exploration in EXPLORATIONS:
        ours: dict[str, dict[int, float]] = {}
        for row in rows:
            if row["exploration"] == exploration:
                ours.setdefault(row["experiment"], {})[row["seed"]] = row["score"]
        if ours:
            seeds = sorted(set.intersection(*(set(of_seeds) for of_seeds in ours.values())))
            agents[exploration] = Scores.of(
                {
                    name: Score(tuple(ours[name][seed] for seed in seeds), finished=False)
                    for name in SETTINGS
                    if name in ours
                }
            )
    return agents


def table(rows: list[dict[str, Any]]) -> str:
    """Format the scores by experiment and by tag, and the time, as a table in Markdown."""
    agents = scores(rows)
    lines: list[tuple[object, ...]] = []
    for kind in ("experiments", "tags"):
        for name in {name: None for agent in agents.values() for name in getattr(agent, kind)}:
            of_agents = (getattr(agent, kind).get(name) for agent in agents.values())
            label = f"**{name.replace('_', ' ')}**" if kind == "tags" else f"`{name}`"
            lines.append((label, *(_shown(score) for score in of_agents)))
    for what, column, unit in (("steps", "steps", ""), ("one core", "seconds", " s")):
        totals = [
            [
                sum(row[column] for row in rows if (row["exploration"], row["seed"]) == agent)
                for agent in sorted({(row["exploration"], row["seed"]) for row in rows})
                if agent[0] == exploration
            ]
            for exploration in agents
        ]
        lines.append((what, *(f"{statistics.median(total):,.0f}{unit}" for total in totals)))
    return results.markdown(("", *agents), lines)


def _shown(score: Any) -> str:
    """Show the mean over seeds and, in brackets, each seed."""
    if score is None:
        return ""
    return f"{score.mean:.2f} ({', '.join(f'{x:.2f}' for x in score.seeds)})"


def draw(rows: list[dict[str, Any]]) -> None:
    """Draw the radar plot of all agents."""
    from noisydqn.runs.bsuite_scores import draw_radar

    FIGURE.write_bytes(draw_radar(scores(rows)))


def main() -> None:
    """Train, save, plot, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--experiments", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--explore", nargs="+", choices=EXPLORATIONS, default=list(EXPLORATIONS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cores", type=int, help="runs at a time (default: all)")
    arguments = parser.parse_args()
    todo = product(arguments.explore, arguments.experiments, arguments.seeds)
    in_turn = sorted(todo, key=lambda job: job[2])  # all of a seed before the next
    command = "python -m benchmarks.bsuite_sweep " + " ".join(sys.argv[1:])
    rows = results.collect(NAME, command, IDENTITY, on_cores(in_turn, run, arguments.cores))
    draw(rows)
    print(table(rows))


if __name__ == "__main__":
    main()
