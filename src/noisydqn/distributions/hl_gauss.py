"""The expected return, learned by classification (Farebrother et al. 2024, "HL-Gauss")."""

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp
from jax.scipy.stats import norm
from jaxtyping import Array, Float

from noisydqn.distributions import losses
from noisydqn.distributions.base import MAX_OUTPUTS, Distribution, Example, Loss
from noisydqn.distributions.categorical import check_range
from noisydqn.options import ABOVE_ZERO, FINITE, at_least, at_most, convert_fields


@dataclasses.dataclass(frozen=True)
class HLGauss(Distribution):
    """Logits of a histogram's bins for each action, whose mean is the action's value.

    The target is a Gaussian around the scalar bootstrapped target, as a histogram. So the network
    learns the expected return alone, but by classification.
    """

    bins: Annotated[int, at_least(2), at_most(MAX_OUTPUTS)] = 51
    """Number of bins of the histogram."""
    v_min: Annotated[float, FINITE] = -10.0
    """Lowest return that is represented, in rewards as they are learned from: clipped, scaled and
    normalized."""
    v_max: Annotated[float, FINITE] = 10.0
    """Highest return that is represented, in the same units."""
    smoothing: Annotated[float, ABOVE_ZERO] = 0.75
    """Standard deviation of the target's Gaussian, in widths of a bin."""

    def __post_init__(self) -> None:
        convert_fields(self)
        check_range(self.v_min, self.v_max)

    @property
    def num_outputs(self) -> int:
        """One for each bin."""
        return self.bins

    @property
    def edges(self) -> Float[Array, " edges"]:
        """The borders of the bins."""
        return jnp.linspace(self.v_min, self.v_max, self.bins + 1)

    @property
    def support(self) -> Float[Array, " bins"]:
        """The centers of the bins."""
        edges = self.edges
        return (edges[:-1] + edges[1:]) / 2

    def histogram(self, value: Float[Array, ""]) -> Float[Array, " bins"]:
        """Form the probabilities of a Gaussian around `value` (section 3.1), which sum to 1.

        The value is first clipped to the range, so that some of the Gaussian is always inside.
        """
        sigma = self.smoothing * (self.v_max - self.v_min) / self.bins
        below = norm.cdf(self.edges, jnp.clip(value, self.v_min, self.v_max), sigma)
        return jnp.diff(below) / (below[-1] - below[0])

    def loss_of(self, example: Example) -> Loss:
        """Compute the cross entropy with the target's histogram, less the histogram's entropy.

        That changes no gradient, and makes the loss zero where the two agree: see
        `losses.categorical_loss`.
        """
        logits_tm1, _, a_tm1, r_t, discount_t, logits_t, choice = example
        value = losses.bootstrap_target(r_t, discount_t, self.values(logits_t), choice)
        target = jax.lax.stop_gradient(self.histogram(value))
        loss = losses.categorical_loss(logits_tm1[a_tm1], target)
        return Loss(loss, loss)
