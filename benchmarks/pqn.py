"""The parallel learner beside PQN as its authors publish it, on MinAtar's games of gymnax.

    python -m benchmarks.pqn PYTHON PUREJAXQL [--games Breakout ...] [--steps 1000000] [--seeds 0 1]

PYTHON is an interpreter that has purejaxql's requirements, which are older than ours; PUREJAXQL is
a checkout of it (github.com/mttga/purejaxql). Both train one after the other on one core, for
equally many steps, with the published settings for MinAtar: those of the preset `minatar`, and the
same with their optimizer and normalized convolutions. Steps per second are those of training
alone. Returns are of greedy play after the last update. Rows are saved as they come.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.minatar import GAMES
from benchmarks.training import steps_per_second, trained

NAME = "pqn"
IDENTITY = ("agent", "game", "steps", "seed")
PEER = Path(__file__).with_name("pqn_peer.py")
OURS = {
    "noisydqn, minatar": (),
    "noisydqn, minatar with radam and normalized convolutions": (
        *("--optimizer", "radam", "--torso-layer-norm"),
    ),
}


def ours(options: tuple[str, ...], game: str, steps: int, seed: int, core: int) -> dict[str, Any]:
    """Train with the installed command."""
    words = ["--steps", str(steps), "--seed", str(seed), "--quiet", "--video-seconds", "0"]
    with trained(
        f"gymnax:{game}-MinAtar",
        *words,
        *("--evaluation-episodes", "128"),
        *options,
        core=core,
    ) as run:
        returned = run.summary["evaluation"]["mean_return"]
        return {"steps_per_second": steps_per_second(run.folder), "mean_return": returned}


def theirs(python: str, source: str, game: str, steps: int, seed: int, core: int) -> dict[str, Any]:
    """Train with purejaxql."""
    command = ["taskset", "-c", str(core), python, str(PEER), source, game, str(steps), str(seed)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
    return json.loads(done.stdout.splitlines()[-1])


def measure(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Train every game and seed by each, one after the other."""
    core = min(os.sched_getaffinity(0))
    for game, seed in itertools.product(arguments.games, arguments.seeds):
        run = {"game": game, "steps": arguments.steps, "seed": seed}
        work = game, arguments.steps, seed, core
        for agent, options in OURS.items():
            yield {"agent": agent} | run | ours(options, *work)
        yield {"agent": "purejaxql"} | run | theirs(arguments.python, arguments.purejaxql, *work)


def table(runs: list[dict[str, Any]]) -> str:
    """Format speeds and returns as a table in Markdown."""

    def group(run: dict[str, Any]) -> tuple[Any, ...]:
        return GAMES.index(run["game"]), run["steps"], run["agent"]

    rows: list[tuple[object, ...]] = []
    for (game, steps, agent), of_group in groupby(sorted(runs, key=group), group):
        own = sorted(of_group, key=lambda run: run["seed"])
        speed = statistics.median(run["steps_per_second"] for run in own)
        returns = ", ".join(f"{run['mean_return']:.1f}" for run in own)
        rows.append((agent, GAMES[game], f"{steps:,}", f"{speed:,.0f}", returns))
    header = ("agent", "game", "steps", "steps/s on one core", "mean return, each seed")
    return results.markdown(header, rows)


def main() -> None:
    """Train, save, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("python")
    parser.add_argument("purejaxql")
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--games", nargs="+", choices=GAMES, default=["Breakout", "Asterix"])
    command = ["benchmarks.pqn PYTHON PUREJAXQL", *sys.argv[3:]]
    runs = measure(parser.parse_args())
    print(table(results.collect(NAME, "python -m " + " ".join(command), IDENTITY, runs)))


if __name__ == "__main__":
    main()
