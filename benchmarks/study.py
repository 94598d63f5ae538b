"""The study: noise, epsilon-greedy, both and neither, tuned alike, with the same seeds.

    python -m benchmarks.study tune [--envs CartPole-v1 ...]
    python -m benchmarks.study run [--envs CartPole-v1 ...]

Both are comparisons by `noisydqn compare`, in a folder under `runs/study`, which is resumed if it
exists. `tune` tries four sizes of the noise and four schedules of epsilon on seeds 100 to 102. The
size is sigma_0 or, where the preset has indexed noise, the scale of the prior. `run` trains the
four ways of exploring on seeds 0 to 9, with the values whose runs had the largest area under the
learning curve. Both train for a fixed number of steps, one core each. The rows of other
environments are kept.
"""

import argparse
import json
import statistics
import subprocess
import sys
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import results

NAME = "study"
IDENTITY = ("phase", "env")
RUNS = Path("runs") / "study"
SEEDS = {"tune": (100, 3), "run": (0, 10)}
"""The first seed of a phase, and how many there are."""
EVALUATIONS = 10

Options = dict[str, Any]


class Task(NamedTuple):
    """An environment of the study."""

    name: str  # what `noisydqn train` takes
    steps: int
    options: tuple[tuple[str, Any], ...] = ()
    size: str = "sigma_init"  # the option that says how large the noise is
    sizes: tuple[float, ...] = (0.1, 0.25, 0.5, 1.0)


PRIORS = "prior_scale", (0.3, 1.0, 3.0, 10.0)
TASKS = {
    "CartPole-v1": Task("CartPole-v1", 40_000),
    "Acrobot-v1": Task("Acrobot-v1", 40_000, (), *PRIORS),
    "MountainCar-v0": Task("MountainCar-v0", 80_000, (), *PRIORS),
    "LunarLander-v3": Task("LunarLander-v3", 100_000),
    "DeepSea 10": Task("deepsea", 22_000, (), *PRIORS),
    "DeepSea 20": Task("deepsea", 84_000, (("env_kwargs", '{"size": 20}'),), *PRIORS),
    "Catcher": Task("catcher", 40_000, sizes=(0.25, 0.5, 1.0, 2.0)),
}
EPSILONS: dict[str, Options] = {
    f"{final} after {share:.0%}": {"epsilon_final": final, "epsilon_share": share}
    for final in (0.01, 0.05)
    for share in (0.1, 0.5)
}
WAYS = ("noisy", "epsilon-greedy", "both", "greedy")


def candidates(task: Task) -> dict[tuple[str, str], Options]:
    """Return the options to try, by way and setting."""
    tried: dict[tuple[str, str], Options] = {
        ("noisy", f"{size}"): {"exploration": "noisy", task.size: size} for size in task.sizes
    }
    for setting, options in EPSILONS.items():
        tried["epsilon-greedy", setting] = {"exploration": "epsilon-greedy", **options}
    return tried


def chosen(env: str) -> dict[tuple[str, str], Options]:
    """Return the options of each way, by way and setting, as tuning chose them."""
    best: dict[str, str] = {}
    for way in ("noisy", "epsilon-greedy"):
        rows = [x for x in results.load(NAME) if (x["phase"], x["env"]) == ("tune", env)]
        areas = {
            setting: statistics.mean(x["auc"] for x in rows if x["setting"] == setting)
            for setting in {x["setting"] for x in rows if x["way"] == way}
        }
        best[way] = max(areas, key=lambda setting: areas[setting])
    size, epsilon = {TASKS[env].size: float(best["noisy"])}, EPSILONS[best["epsilon-greedy"]]
    both = f"{best['noisy']}; {best['epsilon-greedy']}"
    return {
        ("noisy", best["noisy"]): {"exploration": "noisy", **size},
        ("epsilon-greedy", best["epsilon-greedy"]): {"exploration": "epsilon-greedy", **epsilon},
        ("both", both): {"exploration": "both", **size, **epsilon},
        ("greedy", ""): {"exploration": "greedy"},
    }


def plan(phase: str, task: Task, variants: dict[tuple[str, str], Options]) -> str:
    """Write the file that `noisydqn compare` reads."""
    first, number = SEEDS[phase]
    options: Options = {
        "steps": task.steps,
        "stop_at_return": "none",
        "stop_at_evaluation": "none",
        "evaluation_every": task.steps // EVALUATIONS,
        "evaluation_episodes": 20,
        "video_seconds": 0,
        "seed": first,
        **dict(task.options),
    }
    lines = [f"env = [{json.dumps(task.name)}]", f"seeds = {number}", "[options]"]
    lines += [f"{name} = {json.dumps(value)}" for name, value in options.items()]
    for (way, setting), of_variant in variants.items():
        shown = ", ".join(f"{name} = {json.dumps(value)}" for name, value in of_variant.items())
        lines += ["[[variant]]", f"name = {json.dumps(f'{way} {setting}'.strip())}"]
        lines += [f"options = {{ {shown} }}"]
    return "\n".join(lines) + "\n"


def compare(phase: str, env: str) -> list[dict[str, Any]]:
    """Train all runs of a phase in an environment; returns a row for each."""
    from noisydqn import load_runs

    variants = candidates(TASKS[env]) if phase == "tune" else chosen(env)
    folder = RUNS / f"{env.replace(' ', '-')}-{phase}"
    file = RUNS / f"{folder.name}.toml"
    RUNS.mkdir(parents=True, exist_ok=True)
    file.write_text(plan(phase, TASKS[env], variants))
    command = [sys.executable, "-m", "noisydqn", "compare"]
    command += ["--resume"] if (folder / "compare.json").exists() else [str(file)]
    subprocess.run([*command, "--out", str(folder)], check=True)  # noqa: S603
    runs: Any = load_runs(folder).runs
    places = {f"{way} {setting}".strip(): (way, setting) for way, setting in variants}
    return [
        {
            "phase": phase,
            "env": env,
            "way": places[str(runs["variant"][i])][0],
            "setting": places[str(runs["variant"][i])][1],
            "seed": int(runs["seed"][i]),
            "steps": int(runs["steps"][i]),
            "seconds": round(float(runs["seconds"][i]), 1),
            "final_return": round(float(runs["final_return"][i]), 3),
            "auc": round(float(runs["auc"][i]), 3),
            "commit": results.commit(),
        }
        for i in range(len(runs["seed"]))
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """Format the study as a table in Markdown, every way beside epsilon-greedy."""
    from noisydqn.report.statistics import aggregate, probability_of_improvement

    def order(row: dict[str, Any]) -> tuple[int, int, int]:
        return list(TASKS).index(row["env"]), WAYS.index(row["way"]), row["seed"]

    def finals(env: str, way: str) -> np.ndarray:
        of_way = (x for x in studied if (x["env"], x["way"]) == (env, way))
        return np.array([x["final_return"] for x in of_way])

    lines: list[tuple[object, ...]] = []
    studied = sorted((x for x in rows if x["phase"] == "run"), key=order)
    for (env, way), of_way in groupby(studied, lambda x: (x["env"], x["way"])):
        runs, rng = list(of_way), np.random.default_rng(0)
        better = probability_of_improvement(
            [finals(env, way)], [finals(env, "epsilon-greedy")], rng
        )
        areas = aggregate([np.array([x["auc"] for x in runs])], rng)
        lines.append(
            (
                env,
                way,
                runs[0]["setting"],
                "{:.4g} [{:.4g}, {:.4g}]".format(*aggregate([finals(env, way)], rng)),
                "{:.4g} [{:.4g}, {:.4g}]".format(*areas),
                "" if way == "epsilon-greedy" else "{:.2f} [{:.2f}, {:.2f}]".format(*better),
                ", ".join(f"{x:.4g}" for x in finals(env, way)),
            )
        )
    header = ("", "exploration", "tuned", "final return", "mean over training")
    header += ("better than epsilon-greedy", "final return, each seed")
    return results.markdown(header, lines)


def main() -> None:
    """Train, save, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("phase", choices=SEEDS)
    parser.add_argument("--envs", nargs="+", choices=TASKS, default=list(TASKS), metavar="ENV")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for env in arguments.envs:
        rows = compare(arguments.phase, env)
        rows += results.others(NAME, rows, IDENTITY)
        results.save(NAME, "python -m benchmarks.study " + " ".join(sys.argv[1:]), rows)
    print(table(rows))


if __name__ == "__main__":
    main()
