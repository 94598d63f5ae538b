"""Rows of a run's tables, which CSV files and services that track experiments share."""

from typing import Any

from noisydqn.play.evaluate import Evaluation
from noisydqn.runners.report import Episode, SeedChunk


def metrics_row(steps: int, seconds: float, speed: float, chunk: SeedChunk) -> dict[str, Any]:
    """Return the row of a chunk that ended after `steps`, trained at `speed` steps a second."""
    return {
        "step": steps,
        "seconds": round(seconds, 3),
        "updates": chunk.updates,
        "steps_per_second": round(speed, 1),
        **chunk.metrics,
        "action_change": chunk.action_change,
        **{f"noise.{name}": value for name, value in chunk.noise.items()},
        **{f"sigma.{layer}": sigma for layer, sigma in chunk.sigma.items()},
        **{f"exploration.{name}": value for name, value in chunk.exploration.items()},
        **chunk.data,
        **{f"actors.{name}": value for name, value in chunk.actors.items()},
    }


def episode_row(episode: Episode) -> dict[str, Any]:
    """Return the row of a training episode; its success is empty where none is reported."""
    return {
        "step": episode.step,
        "return": episode.episode_return,
        "length": episode.length,
        "success": "",
        **episode.stats,
    }


def evaluation_row(steps: int, seconds: float, evaluation: Evaluation) -> dict[str, Any]:
    """Return the row of an evaluation after `steps`; a statistic without a value is empty."""
    row = {"step": steps, "seconds": round(seconds, 3), **evaluation.summary()}
    for statistic in evaluation.statistics:
        row.setdefault(statistic.name, "")
    return row
