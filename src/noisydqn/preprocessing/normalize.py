"""Running normalization of observations and rewards.

The replay stores raw observations and raw rewards; both are normalized, with the statistics of
that moment, when they enter a network or a target. So an old transition is never scaled by
statistics of a past that no longer holds.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped, UInt

from noisydqn.preprocessing import compensated
from noisydqn.preprocessing.compensated import Sum

EPSILON = 1e-8


class Moments(NamedTuple):
    """Number, mean and sum of squared deviations of all that was seen, element by element."""

    seen: Float[Array, ""]
    mean: Float[Array, "..."]
    squares: Float[Array, "..."]

    @property
    def variance(self) -> Float[Array, "..."]:
        """The population variance; 1 before anything was seen."""
        variance = self.squares / jnp.maximum(self.seen, 1)
        return jnp.where(self.seen > 0, variance, 1)


class RunningMoments(NamedTuple):
    """The same, kept so that each further value counts, also after thousands of millions.

    The count cannot overflow: a run has at most 2^30 steps and 2^30 environments, and each
    environment also shows one observation before its first step.
    """

    seen: UInt[Array, ""]
    mean: Sum
    squares: Sum

    @property
    def rounded(self) -> Moments:
        """The moments, as policies use them."""
        return Moments(self.seen.astype(jnp.float32), self.mean.value, self.squares.value)


def init(shape: tuple[int, ...]) -> RunningMoments:
    """Moments of nothing yet."""
    return RunningMoments(jnp.uint32(0), compensated.zero(shape), compensated.zero(shape))


def update(
    moments: RunningMoments,
    values: Shaped[Array, "batch ..."],
    counted: Bool[Array, " batch"] | None = None,
) -> RunningMoments:
    """Add a batch of values, or those that are `counted` (Chan et al. 1979, parallel form)."""
    x = values.astype(jnp.float32)
    weights = jnp.ones(len(x), jnp.float32) if counted is None else counted.astype(jnp.float32)
    size = jnp.sum(weights)
    # From the mean so far, so that a large mean takes no digits from small deviations.
    deviations = (x - moments.mean.value) - moments.mean.rest
    delta = jnp.tensordot(weights, deviations, 1) / jnp.maximum(size, 1)
    squares = jnp.tensordot(weights, (deviations - delta) ** 2, 1)
    seen = moments.seen + size.astype(jnp.uint32)
    share = size / jnp.maximum(seen, 1).astype(jnp.float32)
    between = delta**2 * moments.seen.astype(jnp.float32) * share
    return RunningMoments(
        seen=seen,
        mean=moments.mean.add(delta * share),
        squares=moments.squares.add(squares + between),
    )


def normalize(x: Shaped[Array, "..."], moments: Moments, clip: float | None) -> Float[Array, "..."]:
    """Center, scale to unit variance and, unless it is None, clip at ±`clip`."""
    scaled = (x.astype(jnp.float32) - moments.mean) / jnp.sqrt(moments.variance + EPSILON)
    return scaled if clip is None else jnp.clip(scaled, -clip, clip)


class ReturnScale(NamedTuple):
    """The discounted return so far of each environment, and the moments of all of them.

    Rewards are divided by the standard deviation of that return, and not centered, as in
    Gymnasium's `NormalizeReward`.
    """

    discounted_return: Float[Array, " envs"]
    moments: RunningMoments

    @property
    def scale(self) -> Float[Array, ""]:
        """What a reward is multiplied with."""
        return 1 / jnp.sqrt(self.moments.rounded.variance + EPSILON)


def init_return_scale(num_envs: int) -> ReturnScale:
    """Nothing seen: rewards stay as they are."""
    return ReturnScale(jnp.zeros(num_envs, jnp.float32), init(()))


def update_return_scale(
    state: ReturnScale,
    reward: Float[Array, " envs"],
    first: Bool[Array, " envs"],
    discount: float,
) -> ReturnScale:
    """Add one reward of every environment; where `first`, an episode begins and there is none."""
    discounted = jnp.where(first, 0, state.discounted_return * discount + reward)
    return ReturnScale(discounted, update(state.moments, discounted, ~first))
