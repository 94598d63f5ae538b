"""The preset `catcher` over several seeds: time to train, and fruit caught.

    python -m benchmarks.catcher [--seeds 5]     train seeds 0 to 4, one after the other

Each seed is a run of the installed command in a separate process, so the times include start-up
and compiling. The evaluation is ten whole games of 10,000 ticks with mean weights.
"""

import argparse
import math
import shutil
import statistics
import subprocess
from pathlib import Path
from typing import Any

import imageio_ffmpeg

from benchmarks import results
from benchmarks.training import trained

NAME = "catcher"
IMAGES = Path(__file__).parent.parent / "docs" / "images"


def run(seed: int) -> dict[str, Any]:
    """Train one seed; return its summary and the seconds of the whole command."""
    with trained("catcher", "--seed", str(seed)) as done:
        if seed == 0:
            keep_pictures(done.folder)
        return {**done.summary, "command_seconds": round(done.seconds, 1)}


def keep_pictures(run_folder: Path) -> None:
    """Copy a run's curves, and the start of its video as a GIF, to the documentation."""
    shutil.copy(run_folder / "curves.png", IMAGES / "curves.png")
    palette = "fps=15,split[a][b];[a]palettegen=max_colors=32[p];[b][p]paletteuse=dither=none"
    video, gif = str(run_folder / "policy.mp4"), str(IMAGES / "catcher.gif")
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-y", "-t", "12", "-i", video]
    subprocess.run([*command, "-vf", palette, gif], check=True)  # noqa: S603


def table(runs: list[dict[str, Any]]) -> str:
    """Format the results as a table in Markdown, with medians."""
    header = ("seed", "fruit caught", "mean return", "first at 99%", "training", "whole command")
    rows = [
        (
            run["seed"],
            f"{run['evaluation']['caught_fraction']:.2%}",
            f"{run['evaluation']['mean_return']:.1f}",
            "never" if run["solved_at_seconds"] is None else f"{run['solved_at_seconds']:.0f} s",
            f"{run['train_seconds']:.0f} s",
            f"{run['command_seconds']:.0f} s",
        )
        for run in runs
    ]

    def median(name: str) -> float:
        return statistics.median(run[name] for run in runs)

    caught = statistics.median(run["evaluation"]["caught_fraction"] for run in runs)
    returns = statistics.median(run["evaluation"]["mean_return"] for run in runs)
    seconds = [run["solved_at_seconds"] for run in runs]
    solved = [math.inf if x is None else x for x in seconds]
    rows.append(
        (
            "median",
            f"{caught:.2%}",
            f"{returns:.1f}",
            f"{statistics.median(solved):.0f} s",
            f"{median('train_seconds'):.0f} s",
            f"{median('command_seconds'):.0f} s",
        )
    )
    return results.markdown(header, rows)


def main() -> None:
    """Train, save, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    seeds: int = parser.parse_args().seeds
    runs = [run(seed) for seed in range(seeds)]
    results.save(NAME, f"python -m benchmarks.catcher --seeds {seeds}", runs)
    print(table(runs))


if __name__ == "__main__":
    main()
