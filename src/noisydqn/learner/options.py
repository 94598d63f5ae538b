"""The options of the learning rule and of the replay buffer."""

import dataclasses
from typing import Annotated, Literal

from noisydqn.errors import ConfigError
from noisydqn.options import (
    ABOVE_ZERO,
    Constraint,
    at_least,
    at_most,
    between,
    convert_fields,
    flag,
)

MAX_BATCH = 2**16
"""The largest batch: far larger ones do not fit into memory."""
MAX_N_STEP = 100
"""Limit on n-step returns: the sum of rewards is unrolled."""

NO_MUNCHAUSEN = {
    "munchausen_scale": 0.9,
    "munchausen_temperature": 0.03,
    "munchausen_minimum": -1.0,
}
"""Options that only Munchausen targets read, with their defaults (Vieillard et al. 2020)."""


@dataclasses.dataclass(frozen=True)
class LearningOptions:
    """The update: optimizer, targets, batch and target network."""

    learning_rate: Annotated[float, ABOVE_ZERO] = 5e-4
    """Step size of the optimizer at the start."""
    learning_rate_final: Annotated[float | None, at_least(0)] = None
    """Step size after `schedule_updates`, approached linearly. If none, it is constant."""
    optimizer: Literal["adam", "adamw", "radam"] = "adam"
    """Optimizer. "adamw" is Adam with decoupled weight decay (Loshchilov and Hutter 2019), "radam"
    is Adam with the variance of its first steps rectified (Liu et al. 2020)."""
    adam_epsilon: Annotated[float, ABOVE_ZERO] = 1e-8
    """Epsilon of Adam and its variants."""
    weight_decay: Annotated[float, at_least(0)] = 0.01
    """Decoupled weight decay of adamw."""
    max_gradient_norm: Annotated[float | None, ABOVE_ZERO] = None
    """Norm to which longer gradients are clipped. If none, no clipping."""
    double: bool = True
    """Double Q-learning (van Hasselt et al. 2016). With Munchausen targets the online network's
    policy weights the target network's values."""
    munchausen: bool = False
    """Munchausen targets (Vieillard et al. 2020): a soft policy at the next state, and the
    log-probability of the action taken as a reward."""
    munchausen_scale: Annotated[float, between(0, 1)] = 0.9
    """Alpha, the factor of the log-probability."""
    munchausen_temperature: Annotated[float, ABOVE_ZERO] = 0.03
    """Tau, the temperature of the policies, in units of scaled rewards."""
    munchausen_minimum: Annotated[
        float, Constraint(lambda x: -float("inf") < x <= 0, "a number up to 0")
    ] = -1.0
    """l_0, the lower bound of tau times the log-probability."""
    discount: Annotated[float, between(0, 1)] = 0.99
    """Gamma, the discount of one step."""
    n_step: Annotated[int, between(1, MAX_N_STEP)] = 5
    """Number of rewards that are summed before bootstrapping."""
    batch_size: Annotated[int, at_least(1), at_most(MAX_BATCH)] = 64
    """Number of transitions in an update."""
    target_period: Annotated[int, at_least(1)] = 1
    """Number of updates after which the target network is updated."""
    target_rate: Annotated[float, ABOVE_ZERO, between(0, 1)] = 0.005
    """Share of the way that the target network then moves to the online network; 1 copies it."""
    sigma_penalty: Annotated[float, at_least(0)] = 0.0
    """Coefficient of the mean |sigma| of each noisy layer in the loss."""
    schedule_updates: Annotated[int, at_least(1)] = 50_000
    """Number of updates over which step size, alpha and beta go from start to end."""

    def __post_init__(self) -> None:
        convert_fields(self)
        for name, default in NO_MUNCHAUSEN.items():
            if getattr(self, name) != default and not self.munchausen:
                raise ConfigError(
                    f"{flag(name)} {getattr(self, name)} and --no-munchausen exclude each other: "
                    "give --munchausen, or leave it out"
                )


@dataclasses.dataclass(frozen=True)
class ReplayOptions:
    """The replay buffer, and how transitions are sampled from it."""

    replay: Literal["prioritized", "uniform"] = "prioritized"
    """Sample in proportion to the priorities (Schaul et al. 2016), or uniformly."""
    replay_capacity: Annotated[int, at_least(1)] = 100_000
    """Environment steps in the replay buffer, at least n + 2 for each environment."""
    priority_exponent: Annotated[float, between(0, 1)] = 0.5
    """Alpha at the start; 0 samples uniformly."""
    priority_exponent_final: Annotated[float, between(0, 1)] = 0.5
    """Alpha at the end of its schedule."""
    importance_exponent: Annotated[float, between(0, 1)] = 0.4
    """Beta at the start; 1 corrects the sampling completely."""
    importance_exponent_final: Annotated[float, between(0, 1)] = 1.0
    """Beta at the end of its schedule."""
    priority_offset: Annotated[float, ABOVE_ZERO] = 1e-4
    """Constant that is added to the absolute error to make a priority."""

    def __post_init__(self) -> None:
        convert_fields(self)
