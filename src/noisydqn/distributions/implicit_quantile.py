"""A quantile for any fraction (Dabney et al. 2018b, "IQN")."""

import dataclasses
from typing import Annotated

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from noisydqn.distributions.base import (
    MAX_OUTPUTS,
    Embedding,
    Example,
    Loss,
    Queries,
)
from noisydqn.distributions.quantile import SampledReturn, midpoints, quantile_loss_of
from noisydqn.options import at_least, at_most, convert_fields

COSINES = 64
"""Size of the vector of cosines that a fraction is embedded from (equation 4)."""


class FractionEmbedding(Embedding):
    """Features of a fraction tau: `relu(sum_i w_i cos(pi i tau) + b)` (equation 4).

    The layer is plain: it belongs to the representation, not to the heads.
    """

    linear: eqx.nn.Linear

    def __init__(self, cosines: int, out_features: int, *, key: PRNGKeyArray) -> None:
        self.linear = eqx.nn.Linear(cosines, out_features, key=key)

    def __call__(self, number: Float[Array, ""]) -> Float[Array, " features"]:
        """Embed one fraction."""
        order = jnp.arange(self.linear.in_features, dtype=jnp.float32)
        return jax.nn.relu(self.linear(jnp.cos(jnp.pi * order * number)))


@dataclasses.dataclass(frozen=True)
class ImplicitQuantile(SampledReturn):
    """A quantile of each action's return for every fraction of a query (IQN).

    Updates sample the fractions, N = N' for each example. Action values ask for K fixed ones, the
    midpoints of equal shares, instead of the paper's samples: the mean that is estimated is the
    same, the estimate better, and play with mean weights deterministic.
    """

    quantiles: Annotated[int, at_least(1), at_most(MAX_OUTPUTS)] = 64
    """Fractions that an update samples for each of a transition's two states, N = N'."""
    acting_quantiles: Annotated[int, at_least(1), at_most(MAX_OUTPUTS)] = 32
    """Number of quantiles whose mean is an action value, K."""

    def __post_init__(self) -> None:
        convert_fields(self)

    @property
    def num_outputs(self) -> int:
        """One, for each fraction."""
        return 1

    def loss_of(self, example: Example) -> Loss:
        """Compute the quantile Huber loss."""
        assert example.query_tm1 is not None  # noqa: S101 - this distribution samples queries
        return quantile_loss_of(example, example.query_tm1)

    def sample_queries(self, key: PRNGKeyArray, batch_size: int) -> Queries:
        """Sample uniform fractions for the states, and others for the next states."""
        return Queries(*jax.random.uniform(key, (2, batch_size, self.quantiles)))

    def acting_query(self) -> Float[Array, " k"]:
        """Return the midpoints of K equal shares."""
        return midpoints(self.acting_quantiles)

    def embedding(self, out_features: int, *, key: PRNGKeyArray) -> FractionEmbedding:
        """Make the layer that embeds a fraction, with fresh weights."""
        return FractionEmbedding(COSINES, out_features, key=key)
