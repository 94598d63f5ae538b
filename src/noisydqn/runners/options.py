"""The options of a runner, and all options that a compiled program depends on."""

import dataclasses
from fractions import Fraction
from functools import cached_property
from typing import Annotated, NamedTuple

from noisydqn.distributions import Distribution
from noisydqn.errors import ConfigError
from noisydqn.learner.options import LearningOptions, ReplayOptions
from noisydqn.nets.options import NetworkOptions
from noisydqn.options import MAX_COUNT, Constraint, at_least, convert_fields
from noisydqn.preprocessing.options import PreprocessingOptions
from noisydqn.runners.explorer import Explorer

RATIO_DENOMINATOR = 1_000
"""Updates per step are kept as a fraction with no larger denominator."""

SMALLEST_RATIO = float(1 / RATIO_DENOMINATOR)


@dataclasses.dataclass(frozen=True)
class RunnerOptions:
    """Acting and learning: environments in lockstep, chunks of steps, and when updates are made."""

    num_envs: Annotated[int, at_least(1)] = 4
    """Number of environments that step in lockstep."""
    chunk_steps: Annotated[int, at_least(1)] = 1_000
    """Environment steps in a chunk; progress is shown after each chunk."""
    learning_starts: Annotated[int, at_least(0)] = 1_000
    """Environment steps before the first update."""
    updates_per_step: Annotated[
        float,
        at_least(0),
        Constraint(lambda x: not 0 < x < SMALLEST_RATIO, f"0 or at least {SMALLEST_RATIO}"),
    ] = 0.5
    """Updates per environment step; may be below 1."""
    updates_per_episode: Annotated[int, at_least(0)] = 0
    """Updates after each episode; needs --updates-per-step 0."""
    learn_every: Annotated[int, at_least(1)] = 1
    """Number of steps of all environments after which the scheduled updates are made, one after the
    other. More than 1 is faster with few environments, but the actions in between are chosen with
    older weights."""
    random_steps: Annotated[int, at_least(0)] = 0
    """Environment steps with uniformly random actions at the start."""
    max_updates: Annotated[int | None, at_least(1)] = None
    """Largest number of updates. Training stops after the chunk that reaches it."""

    def __post_init__(self) -> None:
        convert_fields(self)
        if (self.updates_per_step > 0) == (self.updates_per_episode > 0):
            raise ConfigError(
                f"--updates-per-step {self.updates_per_step} and --updates-per-episode "
                f"{self.updates_per_episode}: one must be 0 and the other above"
            )
        if self.updates_per_episode > 0 and self.learn_every > 1:
            raise ConfigError(
                f"--updates-per-episode {self.updates_per_episode} and --learn-every "
                f"{self.learn_every} exclude each other: updates go by episodes or by steps"
            )
        at_once = self.num_envs * self.learn_every * self.update_ratio
        if self.updates_per_step > 0 and at_once > MAX_COUNT / RATIO_DENOMINATOR:
            raise ConfigError(
                f"--num-envs {self.num_envs} times --learn-every {self.learn_every} times "
                f"--updates-per-step {self.updates_per_step} makes {float(at_once):,.0f} updates "
                f"at once, expected at most {MAX_COUNT // RATIO_DENOMINATOR:,}: lower one of them"
            )

    @property
    def vector_steps(self) -> int:
        """Steps of all environments in a chunk."""
        return max(self.chunk_steps // self.num_envs, 1)

    @cached_property
    def update_ratio(self) -> Fraction:
        """Updates per unit: per step, or per episode."""
        if self.updates_per_episode > 0:
            return Fraction(self.updates_per_episode)
        return Fraction(self.updates_per_step).limit_denominator(RATIO_DENOMINATOR)


class ProgramOptions(NamedTuple):
    """Every option that a compiled program depends on; its repr is part of the compile key."""

    preprocessing: PreprocessingOptions
    network: NetworkOptions
    distribution: Distribution
    exploration: Explorer
    learning: LearningOptions
    replay: ReplayOptions
    runner: RunnerOptions
