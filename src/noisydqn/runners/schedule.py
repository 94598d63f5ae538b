"""When updates are made, and how priorities are weighted meanwhile."""

import dataclasses
import math
from fractions import Fraction
from typing import Protocol, TypeVar

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from noisydqn.learner.options import ParallelOptions, ReplayOptions
from noisydqn.runners.options import ProgramOptions

MAX_BURST = 8
"""Batches that are sampled together at most."""

Count = TypeVar("Count", int, Array)


class Schedule(Protocol):
    """The number of updates after each step of all environments.

    The methods are pure. They take Python integers and traced arrays alike.
    """

    @property
    def first_step(self) -> int:
        """Environment steps before the first update."""
        ...

    @property
    def most(self) -> int:
        """The most updates that one step can bring, unless they go by episodes."""
        ...

    def scheduled(self, step: Count, ended: Count) -> Count:
        """Count the updates that a step of all environments brings, before any limit.

        Args:
            step: environment steps before this step.
            ended: episodes that end with it.
        """
        ...

    def due(self, scheduled: Count, step: Count, updates: Count) -> Count:
        """Count the updates to make of the `scheduled` ones.

        Args:
            scheduled: from `scheduled`, for the same step.
            step: environment steps before this step.
            updates: updates made so far.
        """
        ...

    def exhausted(self, updates: int) -> bool:
        """Tell whether no update is left."""
        ...


@dataclasses.dataclass(frozen=True)
class RolloutSchedule:
    """Updates after each rollout.

    Args:
        rollout_steps: steps of each environment in a rollout.
        num_envs: environments that step in lockstep.
        updates: updates of a rollout.
        spread: whether they are spread over the steps of the next rollout, the first of them
            before it.
    """

    rollout_steps: int
    num_envs: int
    updates: int
    spread: bool = False

    @staticmethod
    def create(options: ProgramOptions[ParallelOptions]) -> "RolloutSchedule":
        """Make the schedule of a program."""
        learner = options.learner
        return RolloutSchedule(
            learner.rollout_steps,
            options.runner.num_envs,
            learner.rollout_updates,
            learner.spread_updates,
        )

    @property
    def first_step(self) -> int:
        """Environment steps in a rollout."""
        return self.rollout_steps * self.num_envs

    @property
    def most(self) -> int:
        """Updates after a rollout."""
        return self.updates

    def scheduled(self, step: Count, ended: Count) -> Count:
        """Count the updates that a step brings.

        Example: rollouts of 4 steps with 6 updates. The last step of each brings 6; or, if they are
        spread, that step and the next three bring 2, 1, 2 and 1.
        """
        del ended
        place = (step // self.num_envs + 1) % self.rollout_steps  # in the next rollout
        if not self.spread:
            return (place == 0) * self.updates
        before, steps = place * self.updates, self.rollout_steps
        number = -(-(before + self.updates) // steps) + -before // steps
        return number * (step + self.num_envs >= self.first_step)

    def due(self, scheduled: Count, step: Count, updates: Count) -> Count:
        """Return those that are scheduled."""
        del step, updates
        return scheduled

    def exhausted(self, updates: int) -> bool:
        """Return False: there is no limit."""
        del updates
        return False


@dataclasses.dataclass(frozen=True)
class UpdateSchedule:
    """Updates in proportion to steps or episodes, as the replay learner makes them.

    Args:
        ratio: updates per environment step or, if `per_episode`, per episode.
        num_envs: environments that step in lockstep.
        learn_every: steps of all environments after which updates are made together.
        per_episode: whether updates are counted by episodes.
        first_step: environment steps before the first update.
        max_updates: updates in the whole run at most, or None.
    """

    ratio: Fraction
    num_envs: int
    learn_every: int = 1
    per_episode: bool = False
    first_step: int = 0
    max_updates: int | None = None

    @staticmethod
    def create(options: ProgramOptions[ReplayOptions]) -> "UpdateSchedule":
        """Make the schedule of a program; learning waits until a whole transition is stored."""
        learner, num_envs = options.learner, options.runner.num_envs
        return UpdateSchedule(
            ratio=learner.update_ratio,
            num_envs=num_envs,
            learn_every=learner.learn_every,
            per_episode=learner.updates_per_episode > 0,
            first_step=learner.first_step(num_envs),
            max_updates=learner.max_updates,
        )

    def scheduled(self, step: Count, ended: Count) -> Count:
        """Count the updates that a step of all environments brings, before any limit.

        After each `learn_every` steps of all environments, floor(steps * ratio) updates were
        scheduled in total. Where updates go by steps, the count does not depend on the seed, so
        that seeds trained side by side share one loop.

        Example: two environments and a ratio of 3/10. After 2, 4, 6, 8 and 10 steps the total is
        floor(0.6, 1.2, 1.8, 2.4, 3.0) = 0, 1, 1, 2, 3: the steps bring 0, 1, 0, 1 and 1. For the
        second one, `carried` is 6 tenths, left over from 2 steps; 6 more make one update and 2
        tenths. The remainder of `before` is taken first, so that no product exceeds 32 bits.

        Args:
            step: environment steps before this step.
            ended: episodes that end with it.
        """
        ratio = self.ratio
        if self.per_episode:
            return ended * ratio.numerator
        group = self.num_envs * self.learn_every
        ends = (step + self.num_envs) % group == 0
        before = step + self.num_envs - group
        carried = (before % ratio.denominator) * ratio.numerator % ratio.denominator
        return ends * ((carried + group * ratio.numerator) // ratio.denominator)

    def due(self, scheduled: Count, step: Count, updates: Count) -> Count:
        """Count the updates to make of the `scheduled` ones: none before learning starts.

        Args:
            scheduled: from `scheduled`, for the same step.
            step: environment steps before this step.
            updates: updates made so far.
        """
        due = scheduled * (step + self.num_envs >= self.first_step)
        if self.max_updates is None:
            return due
        left = self.max_updates - updates
        return due + (left - due) * (left < due)  # the smaller, of either type

    def exhausted(self, updates: int) -> bool:
        """Tell whether no update is left."""
        return self.max_updates is not None and updates >= self.max_updates

    @property
    def most(self) -> int:
        """The most updates that one step can bring, unless they go by episodes."""
        return math.ceil(self.ratio * self.num_envs * self.learn_every) + 1

    @property
    def burst(self) -> int:
        """Updates whose batches are sampled together: those scheduled at once, if few."""
        return min(math.ceil(self.ratio * self.num_envs * self.learn_every), MAX_BURST)


@dataclasses.dataclass(frozen=True)
class PriorityExponents:
    """The exponents of prioritized replay, which go linearly from start to end.

    Args:
        alpha: start and end of the exponent of priorities.
        beta: start and end of the exponent of importance weights.
        updates: updates from start to end.
    """

    alpha: tuple[float, float]
    beta: tuple[float, float]
    updates: int

    @staticmethod
    def create(options: ProgramOptions[ReplayOptions]) -> "PriorityExponents":
        """Make the exponents of a program."""
        replay = options.learner
        return PriorityExponents(
            alpha=(replay.priority_exponent, replay.priority_exponent_final),
            beta=(replay.importance_exponent, replay.importance_exponent_final),
            updates=options.learning.schedule_updates,
        )

    def after(self, updates: Int[Array, ""]) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Return alpha and beta after some updates."""
        done = jnp.minimum(updates / self.updates, 1)
        (alpha_0, alpha_1), (beta_0, beta_1) = self.alpha, self.beta
        return alpha_0 + (alpha_1 - alpha_0) * done, beta_0 + (beta_1 - beta_0) * done
