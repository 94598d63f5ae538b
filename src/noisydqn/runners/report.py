"""Reports that a runner yields after each chunk of steps, for progress, logs and evaluation."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from noisydqn.checkpoint.snapshot import Snapshot
from noisydqn.learner.agent import Metrics
from noisydqn.learner.policy import Policy
from noisydqn.runners.probe import Probe
from noisydqn.trees import Flat


@dataclasses.dataclass(frozen=True)
class Episode:
    """A finished training episode."""

    step: int  # environment steps taken when it ended, all environments counted
    episode_return: float
    length: int  # steps
    stats: dict[str, float] = dataclasses.field(default_factory=dict[str, float])
    """Statistics that the environment reports at an episode's end, such as "success"."""


@dataclasses.dataclass(frozen=True)
class SeedChunk:
    """The report of one seed on a chunk."""

    updates: int  # since the start
    episodes: list[Episode]
    metrics: dict[str, float]  # means over the chunk's updates; NaN if there were none
    sigma: dict[str, float]  # mean |sigma| of each noisy layer
    action_change: float  # share of observations on which noise changes the greedy action
    noise: dict[str, float] = dataclasses.field(default_factory=dict[str, float])
    """What else noise does on these observations, `q_spread`, `action_gap` and `action_entropy`;
    nothing in a network without noise."""
    exploration: dict[str, float] = dataclasses.field(default_factory=dict[str, float])
    """What the explorer reports of itself."""
    data: dict[str, float] = dataclasses.field(default_factory=dict[str, float])
    """What is learned from: "reward_min" and "reward_max" as the learner sees them, and
    "constant_observations", the number of elements that never change."""
    actors: dict[str, float] = dataclasses.field(default_factory=dict[str, float])
    """How actors fare, if environments are played by actors."""


@dataclasses.dataclass(frozen=True)
class Chunk:
    """The report of a run on the steps since the last chunk."""

    steps: int  # since the start, summed over environments
    seeds: list[SeedChunk]  # none where training stops in the middle of a chunk
    state: Any  # the runner's, invalid once the next chunk is asked for
    policy: Callable[[int], Policy]
    """The policy of the seed at an index: a copy, which stays valid. To be called while `state`
    is valid."""
    snapshot: Callable[[], Snapshot]
    """All that the runner needs to resume. To be called while `state` is valid."""


def seed_chunk(
    updates: int,
    num_updates: int,
    episodes: list[Episode],
    sums: Flat[Metrics],
    probe: Probe,
    layers: Sequence[str],
) -> SeedChunk:
    """Make a seed's report from sums over the `num_updates` updates of a chunk.

    `layers` names the noisy layers, and `updates` counts those since the start.
    """
    # Not `sums.tree`, which would compile a split.
    totals = jax.tree_util.tree_unflatten(sums.structure, np.asarray(sums.vector).tolist())
    return SeedChunk(
        updates=updates,
        episodes=episodes,
        metrics={name: x / num_updates if num_updates else math.nan for name, x in totals.items()},
        sigma=dict(zip(layers, map(float, np.asarray(probe.sigma)), strict=True)),
        action_change=float(probe.action_change),
        noise={name: float(x) for name, x in probe.noise.items()},
        exploration={name: float(x) for name, x in probe.exploration.items()},
        data={name: float(x) for name, x in probe.data.items()},
    )


EpisodeArrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]
"""Episodes as a checkpoint holds them."""


def as_arrays(episodes: list[Episode], counts: Sequence[str] = ()) -> EpisodeArrays:
    """Return steps, returns, lengths, successes and `counts` of episodes, NaN where unknown."""

    def stats(name: str) -> np.ndarray:
        return np.array([episode.stats.get(name, np.nan) for episode in episodes], np.float64)

    return (
        np.array([episode.step for episode in episodes], np.int64),
        np.array([episode.episode_return for episode in episodes], np.float64),
        np.array([episode.length for episode in episodes], np.int64),
        stats("success"),
        {name: stats(name) for name in counts},
    )


def of_arrays(arrays: EpisodeArrays) -> list[Episode]:
    """Undo `as_arrays`."""
    step, episode_return, length, success, counts = arrays
    stats = {"success": success} | counts
    return [
        Episode(
            int(step[i]),
            float(episode_return[i]),
            int(length[i]),
            {name: float(x[i]) for name, x in stats.items() if not np.isnan(x[i])},
        )
        for i in range(len(step))
    ]
