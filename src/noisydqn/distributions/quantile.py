"""Quantiles at fixed fractions (Dabney et al. 2018a, "QR")."""

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from noisydqn.distributions import losses
from noisydqn.distributions.base import MAX_OUTPUTS, Distribution, Example, Loss
from noisydqn.distributions.bootstrap import Greedy
from noisydqn.options import at_least, at_most, convert_fields


class SampledReturn(Distribution):
    """A distribution whose outputs are samples of the return, one for each equal share."""

    def greedy_return(self, outputs: Float[Array, "actions n"]) -> Float[Array, " n"]:
        """Return the samples of the greedy action."""
        return outputs[jnp.argmax(self.values(outputs))]

    def mix(
        self,
        key: PRNGKeyArray,
        share: float,
        first: Float[Array, " n"],
        second: Float[Array, " n"],
    ) -> Float[Array, " n"]:
        """Take each sample of the first with probability `share`, else the second's.

        These are samples of the mixture: SR(lambda) of Nam et al. 2021 (GMAC). Averaging the
        quantiles instead would give a narrower distribution than that of the returns.
        """
        return jnp.where(jax.random.bernoulli(key, share, first.shape), first, second)

    def loss_to(
        self,
        outputs: Float[Array, "actions n"],
        query: Float[Array, " n"] | None,
        action: Int[Array, ""],
        target: Float[Array, " m"],
    ) -> Loss:
        """Compute the quantile Huber loss against the samples of the target."""
        as_next = jnp.float32(0), jnp.float32(1), target[None], Greedy(jnp.int32(0))
        return self.loss_of(Example(outputs, query, action, *as_next))


@dataclasses.dataclass(frozen=True)
class Quantile(SampledReturn):
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
