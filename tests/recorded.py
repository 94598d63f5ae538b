"""Runs that were not trained: as values, and as folders with the files that training writes."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from noisydqn import Config
from noisydqn.report.records import Run, Series
from noisydqn.runs.folder import RunFolder, write_config

POINTS = 10
NOISE = ("noise.q_spread", "noise.action_gap", "noise.action_entropy")
LAYERS = ("hidden.0", "advantage")


def returns_of(seed: int, gain: float) -> np.ndarray:
    """Returns that rise by `gain` over a run, with noise of their own for each seed."""
    noise = np.random.default_rng([seed, int(1_000 * gain)]).normal(size=POINTS)
    return np.linspace(0, gain, POINTS) + noise


def recorded(seed: int, gain: float = 10.0, **changes: Any) -> Run:
    """A run with evaluations every 100 steps, two updates a step and a thousand steps a second."""
    steps = 100.0 * np.arange(1, POINTS + 1)
    series = Series.of(steps, returns_of(seed, gain), 2 * steps, steps / 1_000)
    fields: dict[str, Any] = {
        "place": f"runs/{seed}",
        "env": "Maze-v0",
        "seed": seed,
        "variant": "noisy",
        "steps": 1_000,
        "seconds": 1.0,
        "evaluations": series,
        "episodes": series,
    }
    return Run(**(fields | changes))


def write_run(
    path: Path, seed: int, gain: float = 100.0, *, status: str = "finished", **options: Any
) -> Path:
    """Write the folder of a run on CartPole, or another environment among the options."""
    options = {"env": "CartPole-v1", "steps": 1_000, "video_seconds": 0} | options
    folder = RunFolder.at(path)
    folder.files.make()
    write_config(folder, Config(seed=seed, **options))
    steps, returns = [100 * i for i in range(1, POINTS + 1)], returns_of(seed, gain)
    plain = options.get("exploration") in ("greedy", "epsilon-greedy")
    noise = [] if plain else [*NOISE, *(f"sigma.{layer}" for layer in LAYERS)]
    metrics = [",".join(["step,seconds,updates,steps_per_second,loss,action_change", *noise])]
    for i, x in enumerate(steps, 1):
        measured = [] if plain else [f"{1 / i}", "0.4", f"{0.6 / i}", "0.1", f"{0.2 / i}"]
        change = 0 if plain else 0.5 / i
        metrics += [",".join([f"{x},{x / 500},{x // 2},500.0,{1 / x},{change}", *measured])]
    episodes = ["step,return,length,success"]
    episodes += [
        f"{x - 40 + 20 * k},{y - 3 + k},20,"
        for x, y in zip(steps, returns, strict=True)
        for k in range(3)
    ]
    evaluations = ["step,seconds,episodes,mean_return,truncated_episodes"]
    evaluations += [f"{x},{x / 500},5,{y},0" for x, y in zip(steps, returns, strict=True)]
    tables = {"metrics": metrics, "episodes": episodes, "evaluations": evaluations}
    for name, lines in tables.items():
        (path / f"{name}.csv").write_text("\n".join(lines) + "\n")
    summary: dict[str, Any] = {
        "steps": 1_000,
        "train_seconds": 2.0,
        "steps_per_second": 500.0,
        "solved_at_step": None,
        "solved_at_seconds": None,
        "evaluation": {"episodes": 5, "mean_return": returns[-1], "truncated_episodes": 0},
    }
    if status == "unfinished":
        summary["evaluation"] = None
    (path / "summary.json").write_text(json.dumps(summary))
    return path


GAINS = {"noisy": 110.0, "epsilon-greedy": 100.0}


def write_study(root: Path, seeds: int = 6, envs: tuple[str, ...] = ("CartPole-v1",)) -> Path:
    """Write the folders of a comparison of two ways to explore."""
    for env in envs:
        for exploration, gain in GAINS.items():
            for seed in range(seeds):
                path = root / env / f"exploration={exploration}" / f"seed-{seed}"
                write_run(path, seed, gain, env=env, exploration=exploration)
    return root


def write_comparison(root: Path, jobs: list[dict[str, Any]], **changes: Any) -> None:
    """Write the file of a comparison."""
    stored = {"version": 1, "command": "noisydqn compare --vary exploration=noisy", "jobs": jobs}
    (root / "compare.json").write_text(json.dumps(stored | changes))


def job(env: str, variant: str, seed: int, status: str = "finished", **more: Any) -> dict[str, Any]:
    """A run in the file of a comparison."""
    folder = f"{env}/{variant}/seed-{seed}"
    names = {"environment": env, "variant": variant, "seed": seed, "folder": folder}
    return names | {"status": status, "reason": None} | more
