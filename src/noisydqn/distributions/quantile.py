"""Quantiles at fixed fractions (Dabney et al. 2018a, "QR")."""

import dataclasses
from typing import Annotated

import jax.numpy as jnp
from jaxtyping import Array, Float

from noisydqn.distributions import losses
from noisydqn.distributions.base import MAX_OUTPUTS, Distribution, Example, Loss
from noisydqn.options import at_least, at_most, convert_fields


@dataclasses.dataclass(frozen=True)
class Quantile(Distribution):
    """Quantiles of each action's return at the midpoints of equal shares (QR-DQN)."""

    quantiles: Annotated[int, at_least(1), at_most(MAX_OUTPUTS)] = 200
    """Number of quantiles of each action's return."""

    def __post_init__(self) -> None:
        convert_fields(self)

    @property
    def num_outputs(self) -> int:
        """One for each quantile."""
        return self.quantiles

    def loss_of(self, example: Example) -> Loss:
        """Compute the quantile Huber loss."""
        return quantile_loss_of(example, midpoints(self.quantiles))


def midpoints(number: int) -> Float[Array, " n"]:
    """Return the midpoints of `number` equal shares of [0, 1]."""
    return (jnp.arange(number, dtype=jnp.float32) + 0.5) / number


def quantile_loss_of(example: Example, fractions: Float[Array, " n"]) -> Loss:
    """Compute the quantile Huber loss of outputs at `fractions`.

    A soft policy mixes quantiles of equal fractions (Vieillard et al. 2020, M-IQN).
    """
    targets = losses.bootstrap_target(
        example.r_t, example.discount_t, example.outputs_t, example.choice
    )
    loss = losses.quantile_loss(example.outputs_tm1[example.a_tm1], fractions, targets)
    return Loss(loss, loss)
