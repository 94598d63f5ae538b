"""Lines that a run prints when it ends."""

import json
import shlex
from pathlib import Path

from noisydqn.runs.folder import RunFolder
from noisydqn.runs.plots import read_columns
from noisydqn.runs.result import SeedResult
from noisydqn.runs.stop import Stop


def how_to(command: str, folder: Path, env: str) -> str:
    """Return the command line for a run, or the Python call if `env` cannot be found by name."""
    if "<" in env:
        return f"noisydqn.{command}({json.dumps(str(folder), ensure_ascii=False)}, env=...)"
    return shlex.join(["noisydqn", command, str(folder)])


def stopped_line(stop: Stop, steps: int, out: Path, env: str) -> str:
    """Say where a signal stopped a run, and how to resume it."""
    resume = how_to("resume", out, env)
    if steps == 0:
        return f"{stop.word} before the first step; to train: {resume}"
    return (
        f"{stop.word} after {steps:,} steps; weights and metrics are in {out}; to resume: {resume}"
    )


def closing_lines(out: Path, results: list[SeedResult]) -> list[str]:
    """Say what the run achieved, where its files are, and what to do next."""
    summaries = [result.summary for result in results]
    seconds = summaries[0]["train_seconds"]
    solved = summaries[0]["solved_at_step"]
    reached = "" if solved is None else f"; solved after {solved:,}"
    caught = [s["evaluation"].get("caught_fraction") for s in summaries]
    if None in caught:
        returns = [f"{s['evaluation']['mean_return']:.1f}" for s in summaries]
        outcome = f"a mean return of {', '.join(returns)}"
    else:
        outcome = f"{', '.join(f'{x:.2%}' for x in caught)} of the fruit caught"
    folders = [RunFolder(result.folder) for result in results]
    evaluations = max(len(read_columns(f.evaluations).get("step", [])) for f in folders)
    weights = "the final weights" if evaluations < 2 else f"the best of {evaluations} evaluated"
    video = "the video, " if any(folder.video.exists() for folder in folders) else ""
    env = summaries[0]["env"]
    played = folders[0].path if "<" in env else out  # a call takes the folder of one seed
    return [
        f"trained for {summaries[0]['steps']:,} steps in {seconds:.0f} s{reached}",
        f"without noise {weights}: {outcome}",
        f"{video}curves, metrics and weights are in {out}",
        f"next: {how_to('evaluate', played, env)}",
    ]
