"""Running normalization of observations and rewards.

The replay buffer stores raw observations and raw rewards. Both are normalized when they enter a
network or a target, with the statistics of that moment. So an old transition is never scaled by
outdated statistics.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped, UInt

from noisydqn.preprocessing import compensated
from noisydqn.preprocessing.compensated import Sum
from noisydqn.shards import ONE, Shards

EPSILON = 1e-8


class Moments(NamedTuple):
    """Number, mean and sum of squared deviations of all values so far, element by element."""

    seen: Float[Array, ""]
    mean: Float[Array, "..."]
    squares: Float[Array, "..."]

    @property
    def variance(self) -> Float[Array, "..."]:
        """The population variance; 1 before the first value."""
        variance = self.squares / jnp.maximum(self.seen, 1)
        return jnp.where(self.seen > 0, variance, 1)


class RunningMoments(NamedTuple):
    """`Moments` with compensated sums, so that every value counts, even after billions.

    The count cannot overflow: a run has at most 2^30 steps and 2^30 environments, and each
    environment also returns one observation before its first step.
    """

    seen: UInt[Array, ""]
    mean: Sum
    squares: Sum

    @property
    def rounded(self) -> Moments:
        """The moments in float32, for policies."""
        return Moments(self.seen.astype(jnp.float32), self.mean.value, self.squares.value)


def init(shape: tuple[int, ...]) -> RunningMoments:
    """Make the moments of no values."""
    return RunningMoments(jnp.uint32(0), compensated.zero(shape), compensated.zero(shape))


MAX_RESUMED = 2**30
"""The most values that moments start from, so that their count still cannot overflow."""


def resumed(moments: Moments) -> RunningMoments:
    """Return moments that continue from those of another run."""
    seen = jnp.minimum(jnp.asarray(moments.seen, jnp.float32), MAX_RESUMED)

    def sum_of(value: Float[Array, "..."]) -> Sum:
        value = jnp.array(value, jnp.float32)
        return Sum(value, jnp.zeros_like(value))

    return RunningMoments(
        seen=seen.astype(jnp.uint32),
        mean=sum_of(moments.mean),
        squares=sum_of(moments.variance * seen),
    )


def update(
    moments: RunningMoments,
    values: Shaped[Array, "batch ..."],
    counted: Bool[Array, " batch"] | None = None,
    shards: Shards = ONE,
) -> RunningMoments:
    """Add a batch of values, or only those `counted` (Chan et al. 1979, parallel form).

    If the batch is divided over devices, what all of them have is added on each.
    """
    x = values.astype(jnp.float32)
    weights = jnp.ones(len(x), jnp.float32) if counted is None else counted.astype(jnp.float32)
    size = shards.total(jnp.sum(weights))
    # Deviations from the mean so far: a large mean then costs small deviations no digits.
    deviations = (x - moments.mean.value) - moments.mean.rest
    delta = shards.total(jnp.tensordot(weights, deviations, 1)) / jnp.maximum(size, 1)
    squares = shards.total(jnp.tensordot(weights, (deviations - delta) ** 2, 1))
    seen = moments.seen + size.astype(jnp.uint32)
    share = size / jnp.maximum(seen, 1).astype(jnp.float32)
    between = delta**2 * moments.seen.astype(jnp.float32) * share
    return RunningMoments(
        seen=seen,
        mean=moments.mean.add(delta * share),
        squares=moments.squares.add(squares + between),
    )


def normalize(x: Shaped[Array, "..."], moments: Moments, clip: float | None) -> Float[Array, "..."]:
    """Center, scale to unit variance, and clip at ±`clip` unless it is None."""
    scaled = (x.astype(jnp.float32) - moments.mean) / jnp.sqrt(moments.variance + EPSILON)
    return scaled if clip is None else jnp.clip(scaled, -clip, clip)


class ReturnScale(NamedTuple):
    """The running discounted return of each environment, and the moments of all of them.

    Rewards are divided by the standard deviation of that return, and not centered, as in
    Gymnasium's `NormalizeReward`.
    """

    discounted_return: Float[Array, " envs"]
    moments: RunningMoments

    @property
    def scale(self) -> Float[Array, ""]:
        """The factor for rewards."""
        return 1 / jnp.sqrt(self.moments.rounded.variance + EPSILON)


def init_return_scale(num_envs: int) -> ReturnScale:
    """Make the scale before the first reward, which leaves rewards unchanged."""
    return ReturnScale(jnp.zeros(num_envs, jnp.float32), init(()))


def update_return_scale(
    state: ReturnScale,
    reward: Float[Array, " envs"],
    first: Bool[Array, " envs"],
    discount: float,
    shards: Shards = ONE,
) -> ReturnScale:
    """Add one reward of every environment, except where `first`: a new episode has none yet."""
    discounted = jnp.where(first, 0, state.discounted_return * discount + reward)
    return ReturnScale(discounted, update(state.moments, discounted, ~first, shards))
