"""The options of learning: those of every learner, and those that each learner owns.

A learner is a variant, as a distribution is: a dataclass of its options and a line in `LEARNERS`.
"""

import abc
import dataclasses
import math
from collections.abc import Mapping
from fractions import Fraction
from functools import cached_property
from typing import Annotated, ClassVar, Literal

from noisydqn.errors import ConfigError
from noisydqn.nets.options import NetworkOptions
from noisydqn.options import (
    ABOVE_ZERO,
    MAX_COUNT,
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

MAX_ROLLOUT = 2**16
"""Limit on the steps and on the parts of a rollout."""
MAX_EPOCHS = 1_000
"""Limit on the epochs of a rollout."""

MAX_NOISE_SAMPLES = 1_024
"""Limit on the noise samples of an update."""
NEEDS_SAMPLES = ("noise_samples", "matched_targets")
"""Options of updates under noise."""

RATIO_DENOMINATOR = 1_000
"""Updates per step are kept as a fraction with no larger denominator."""

SMALLEST_RATIO = float(1 / RATIO_DENOMINATOR)

NO_MUNCHAUSEN = {
    "munchausen_scale": 0.9,
    "munchausen_temperature": 0.03,
    "munchausen_minimum": -1.0,
}
"""Options that only Munchausen targets read, with their defaults (Vieillard et al. 2020)."""


@dataclasses.dataclass(frozen=True)
class LearningOptions:
    """Learning, whichever learner does it: optimizer, discount and schedules."""

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
    discount: Annotated[float, between(0, 1)] = 0.99
    """Gamma, the discount of one step."""
    sigma_penalty: Annotated[float, at_least(0)] = 0.0
    """Coefficient of the mean |sigma| of each noisy layer in the loss."""
    sigma_rate: Annotated[float, at_least(0)] = 1.0
    """Step size of sigma, as a share of that of the other weights. Less than 1 keeps the noise
    alive for longer where updates are many; 0 leaves every sigma as it starts."""
    update_noise: Literal["sample", "mean"] = "sample"
    """Weights of an update: those under noise samples (Fortunato et al. 2018), or the mean weights.
    With the mean weights noise serves acting alone, and sigma stays as it starts."""
    noise_samples: Annotated[int, at_least(1), at_most(MAX_NOISE_SAMPLES)] = 1
    """Noise samples of an update, whose losses are averaged."""
    matched_targets: bool = False
    """Value the next state under the same noise sample as the prediction at the state, so that
    each sample learns its own values (Osband et al. 2018), instead of under independent samples.
    The parallel learner then holds the samples of updates for a rollout."""
    schedule_updates: Annotated[int, at_least(1)] = 50_000
    """Number of updates over which step size, alpha and beta go from start to end."""
    schedule_share: Annotated[float | None, ABOVE_ZERO, between(0, 1)] = None
    """Share of the run's updates over which they do, instead of `schedule_updates`. A run that is
    resumed with other --steps then follows the schedule of the new length."""

    def __post_init__(self) -> None:
        convert_fields(self)
        if self.update_noise == "mean":
            for name in NEEDS_SAMPLES:
                self._refuse(name, "--update-noise mean", "give --update-noise sample")

    def check_noise(self, exploration: str) -> None:
        """Refuse options of noise in updates where no layer is noisy.

        Raises:
            ConfigError: one is given.
        """
        for name in ("update_noise", *NEEDS_SAMPLES):
            self._refuse(name, f"--exploration {exploration}", "give --exploration noisy")

    def _refuse(self, name: str, other: str, remedy: str) -> None:
        value = getattr(self, name)
        if value != LearningOptions.__dataclass_fields__[name].default:
            given = flag(name) if value is True else f"{flag(name)} {value}"
            raise ConfigError(f"{given} and {other} exclude each other: {remedy}, or leave it out")


class LearnerOptions(abc.ABC):
    """The options that one learner owns."""

    sized_by: ClassVar[str]
    """The option that says how many steps are kept to learn from."""
    started_by: ClassVar[str]
    """The option that says when learning starts."""

    @property
    def update_limit(self) -> int | None:
        """The most updates of a run, or None."""
        return None

    @abc.abstractmethod
    def first_step(self, num_envs: int) -> int:
        """Count the environment steps before the first update."""

    @abc.abstractmethod
    def num_updates(self, steps: int, num_envs: int) -> int | None:
        """Count the updates of a run of so many environment steps; None if it is not known."""

    @abc.abstractmethod
    def check(self, num_envs: int, learning: LearningOptions, network: NetworkOptions) -> None:
        """Compare the options with the number of environments and with those of other sections.

        Raises:
            ConfigError: they exclude each other.
        """

    @abc.abstractmethod
    def check_devices(self, num_envs: int, devices: int) -> None:
        """Check that what is learned from can be divided over several devices.

        Args:
            num_envs: environments on each.
            devices: how many there are.

        Raises:
            ConfigError: it cannot.
        """


def neighbors(number: int, unit: int) -> str:
    """Name the multiples of a unit below and above a number that is none."""
    above = -(-number // unit) * unit
    return f"{above}" if above == unit else f"{above - unit} or {above}"


def divisor_below(number: int, limit: int) -> int:
    """Return the largest divisor of a number that is less than a limit."""
    return max(n for n in range(1, min(limit, number + 1)) if number % n == 0)


def nearest_divisors(minibatches: int, size: int) -> str:
    """Name the divisors of a rollout's size below and above a number that is none."""
    below = divisor_below(size, minibatches)
    larger = range(minibatches + 1, min(size, MAX_ROLLOUT) + 1)
    above = next((n for n in larger if size % n == 0), None)
    return f"{below}" if above is None else f"{below} or {above}"


@dataclasses.dataclass(frozen=True)
class ReplayOptions(LearnerOptions):
    """Learn from batches of past steps in a replay buffer, with a target network (DQN, Rainbow)."""

    sized_by: ClassVar = "replay_capacity"
    started_by: ClassVar = "learning_starts"

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
    max_updates: Annotated[int | None, at_least(1)] = None
    """Largest number of updates. Training stops after the chunk that reaches it."""
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
    n_step: Annotated[int, between(1, MAX_N_STEP)] = 5
    """Number of rewards that are summed before bootstrapping."""
    batch_size: Annotated[int, at_least(1), at_most(MAX_BATCH)] = 64
    """Number of transitions in an update."""
    target_period: Annotated[int, at_least(1)] = 1
    """Number of updates after which the target network is updated."""
    target_rate: Annotated[float, ABOVE_ZERO, between(0, 1)] = 0.005
    """Share of the way that the target network then moves to the online network; 1 copies it."""
    target_perturbation: Annotated[float, at_least(0)] = 0.0
    """Standard deviation, in units of scaled rewards, of a perturbation of each transition's
    target. It depends on the transition and the index alone. Needs --noise indexed."""
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
        for name, default in NO_MUNCHAUSEN.items():
            if getattr(self, name) != default and not self.munchausen:
                raise ConfigError(
                    f"{flag(name)} {getattr(self, name)} and --no-munchausen exclude each other: "
                    "give --munchausen, or leave it out"
                )
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

    @property
    def update_limit(self) -> int | None:
        """`max_updates`."""
        return self.max_updates

    def first_step(self, num_envs: int) -> int:
        """Count the steps before the first update: until a whole transition is stored."""
        return max(self.learning_starts, (self.n_step + 1) * num_envs)

    def num_updates(self, steps: int, num_envs: int) -> int | None:
        """Count the updates of a run; None if they go by episodes."""
        del num_envs
        if self.updates_per_episode > 0:
            return None
        made = max(int((steps - self.learning_starts) * self.update_ratio), 1)
        return made if self.max_updates is None else min(made, self.max_updates)

    def check(self, num_envs: int, learning: LearningOptions, network: NetworkOptions) -> None:
        """Refuse more updates at once than can be counted."""
        needed = {"--noise": (network.noise, "indexed")}
        needed["--update-noise"] = learning.update_noise, "sample"
        for name, (value, need) in needed.items() if self.target_perturbation > 0 else ():
            if value != need:
                raise ConfigError(
                    f"--target-perturbation {self.target_perturbation} and {name} {value} exclude "
                    f"each other: give {name} {need}, or leave it out"
                )
        at_once = num_envs * self.learn_every * self.update_ratio
        if self.updates_per_step > 0 and at_once > MAX_COUNT / RATIO_DENOMINATOR:
            raise ConfigError(
                f"--num-envs {num_envs} times --learn-every {self.learn_every} times "
                f"--updates-per-step {self.updates_per_step} makes {float(at_once):,.0f} updates "
                f"at once, expected at most {MAX_COUNT // RATIO_DENOMINATOR:,}: lower one of them"
            )

    def check_devices(self, num_envs: int, devices: int) -> None:
        """Refuse batches that cannot be divided evenly."""
        del num_envs
        if self.batch_size % devices != 0:
            raise ConfigError(
                f"--batch-size {self.batch_size} cannot be divided evenly over --devices "
                f"{devices}: give --batch-size {neighbors(self.batch_size, devices)}"
            )

    @cached_property
    def update_ratio(self) -> Fraction:
        """Updates per unit: per step, or per episode."""
        if self.updates_per_episode > 0:
            return Fraction(self.updates_per_episode)
        return Fraction(self.updates_per_step).limit_denominator(RATIO_DENOMINATOR)


@dataclasses.dataclass(frozen=True)
class ParallelOptions(LearnerOptions):
    """Learn from rollouts of many environments, without replay buffer and target network (PQN)."""

    sized_by: ClassVar = "rollout_steps"
    started_by: ClassVar = "rollout_steps"

    rollout_steps: Annotated[int, at_least(1), at_most(MAX_ROLLOUT)] = 32
    """Steps of each environment in a rollout, T. Updates are made after each rollout."""
    minibatches: Annotated[int, at_least(1), at_most(MAX_ROLLOUT)] = 32
    """Parts of the rollout's `num_envs` * T transitions, one for each update of an epoch."""
    epochs: Annotated[int, at_least(1), at_most(MAX_EPOCHS)] = 2
    """Number of times that every transition of a rollout is learned from."""
    return_lambda: Annotated[float, between(0, 1)] = 0.65
    """Lambda of the Q(lambda) returns: 0 bootstraps after one step, 1 at the end of the episode or
    rollout."""
    spread_updates: bool = False
    """Spread the updates of a rollout over the steps of the next one instead of making them at
    once. Environments of Gymnasium then step while the learner updates, and the weights that act
    are up to a rollout older."""
    return_noise: Literal["mean", "acting"] = "mean"
    """Weights that value the states of a rollout in its returns: the mean weights, or those with
    the noise that was acted under."""

    def __post_init__(self) -> None:
        convert_fields(self)

    @property
    def rollout_updates(self) -> int:
        """Updates after a rollout."""
        return self.epochs * self.minibatches

    def first_step(self, num_envs: int) -> int:
        """Count the steps of a rollout."""
        return num_envs * self.rollout_steps

    def num_updates(self, steps: int, num_envs: int) -> int:
        """Count the updates of a run."""
        return max(steps // (num_envs * self.rollout_steps), 1) * self.rollout_updates

    def check(self, num_envs: int, learning: LearningOptions, network: NetworkOptions) -> None:
        """Refuse rollouts that cannot be divided into equal minibatches."""
        del network
        if self.return_noise == "acting" and learning.matched_targets:
            raise ConfigError(
                "--return-noise acting and --matched-targets exclude each other: matched targets "
                "are valued under the samples of updates"
            )
        size = num_envs * self.rollout_steps
        if size > MAX_COUNT // self.rollout_updates:
            raise ConfigError(
                f"--num-envs {num_envs} times --rollout-steps {self.rollout_steps} makes rollouts "
                f"of {size:,} steps, too many for {self.rollout_updates} updates: lower one of them"
            )
        if size % self.minibatches == 0:
            return
        nearest = nearest_divisors(self.minibatches, size)
        unit = self.minibatches // math.gcd(self.rollout_steps, self.minibatches)
        raise ConfigError(
            f"--num-envs {num_envs} times --rollout-steps {self.rollout_steps} makes rollouts of "
            f"{size:,} steps, which --minibatches {self.minibatches} does not divide: give "
            f"--minibatches {nearest}, or --num-envs {math.ceil(num_envs / unit) * unit}"
        )

    def check_devices(self, num_envs: int, devices: int) -> None:
        """Refuse rollouts of a device that cannot be divided into equal minibatches."""
        size = num_envs * self.rollout_steps
        if size % self.minibatches != 0:
            raise ConfigError(
                f"with --devices {devices} the rollout of each device has {size:,} steps, which "
                f"--minibatches {self.minibatches} does not divide: give --minibatches "
                f"{nearest_divisors(self.minibatches, size)}"
            )


LEARNERS: Mapping[str, type[LearnerOptions]] = {
    "replay": ReplayOptions,
    "parallel": ParallelOptions,
}
"""Every learner by the name that `--learner` takes."""
