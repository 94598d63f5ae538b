"""The options of a run that do not affect its compiled program."""

import dataclasses
from typing import Annotated, Literal

from noisydqn.errors import ConfigError
from noisydqn.options import (
    ABOVE_ZERO,
    DISTINCT,
    FINITE,
    MAX_SEED,
    at_least,
    at_most,
    check_seed,
    convert_fields,
    each_at_least,
    each_at_most,
)

MAX_VIDEO_SECONDS = 3_600
MAX_SEEDS = 10_000
MAX_EPISODES = 10_000
"""Largest number of episodes: more, played in lockstep, may not fit into memory."""
ServiceName = Literal["wandb", "mlflow", "trackio"]
"""Names of services that track experiments, which are those of their packages and extras."""


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """The run: seeds, goals, checkpoints, evaluations and the video."""

    seed: int = 0
    """Seed of everything random. The same seed gives the same weights, bit for bit."""
    num_seeds: Annotated[int, at_least(1), at_most(MAX_SEEDS)] = 1
    """Number of seeds to train (seed, seed + 1, ...), each in its own folder: all at once if the
    environment is in JAX, otherwise one after the other."""
    steps: Annotated[int, at_least(1)] = 200_000
    """Environment steps (decisions, summed over environments) to train for, rounded up to a
    multiple of the number of environments."""
    max_seconds: Annotated[float | None, ABOVE_ZERO] = None
    """Stop after the chunk that reaches this training time, compiling included."""
    stop_at_return: Annotated[float | None, FINITE] = None
    """Stop when the mean return of the newest `window` training episodes reaches this."""
    window: Annotated[int, at_least(1)] = 50
    """Number of training episodes in the mean of `stop_at_return`."""
    stop_at_evaluation: Annotated[float | None, FINITE] = None
    """Evaluate after each chunk that ends at or above `stop_at_return`, and stop only when the mean
    return without noise reaches this. If none, the training episodes alone decide."""
    checkpoint_seconds: Annotated[float, at_least(0)] = 300.0
    """Seconds between checkpoints; each is saved at the end of a chunk. 0: only at the end and when
    the run is interrupted."""
    keep: Annotated[int, at_least(1)] = 2
    """Number of newest checkpoints to keep. They share what did not change between them."""
    evaluation_every: Annotated[int, at_least(0)] = 0
    """Environment steps between evaluations with mean weights; each starts at the end of a chunk.
    0: only at the end."""
    evaluation_episodes: Annotated[int, at_least(1), at_most(MAX_EPISODES)] = 10
    """Number of episodes in an evaluation."""
    evaluation_max_steps: Annotated[int, at_least(1)] = 27_000
    """Steps after which an episode of an evaluation is truncated, so that a policy that never ends
    one cannot stall the run. 27,000 steps are half an hour of Atari."""
    video_seconds: Annotated[float, at_least(0), at_most(MAX_VIDEO_SECONDS)] = 20.0
    """Length of the video of the best weights. 0: no video."""
    track: Annotated[tuple[ServiceName, ...], DISTINCT] = ()
    """Services that also receive metrics, options and the video: wandb, mlflow, trackio. Each needs
    the extra of its name; its own settings say where it sends them."""

    tuned_seeds: Annotated[
        tuple[int, ...], each_at_least(0), each_at_most(MAX_SEED, length=MAX_SEEDS)
    ] = ()
    """Seeds on which these options were tuned. Reports warn of runs on them, whose returns are too
    high."""

    def __post_init__(self) -> None:
        convert_fields(self)
        check_seed("--seed", self.seed)
        if self.stop_at_evaluation is not None and self.stop_at_return is None:
            raise ConfigError(
                f"--stop-at-evaluation {self.stop_at_evaluation} needs --stop-at-return: the "
                "training episodes say from when on an evaluation is worthwhile"
            )
        if self.seed + self.num_seeds - 1 > MAX_SEED:
            raise ConfigError(f"--seed plus --num-seeds must be at most {MAX_SEED + 1}")
