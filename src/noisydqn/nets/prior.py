"""A fixed random network beside the one that learns: the prior of indexed noise.

Osband et al. 2018, "Randomized Prior Functions for Deep Reinforcement Learning". Where the agent
has not been, values under different indices disagree, because their priors differ and nothing was
learned there to cancel them. Learned noise alone has no such source: gradient descent shrinks it.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from noisydqn.nets import torsos
from noisydqn.nets.torsos import Torso
from noisydqn.types import Mixed


class Prior(eqx.Module):
    """A torso and hidden layers of the learned network's sizes, and a head for every index.

    Each hidden layer is normalized, without learned scale and offset. So an action's prior value
    has mean 0 over indices and over initial weights, and standard deviation `scale` over both,
    whatever the observations' scale. No gradient reaches it.

    Args:
        torso: with its random weights.
        widths: of the hidden layers.
        num_actions: number of actions, A; of choices in all dimensions.
        index_dim: M, the dimensions of the index.
        scale: standard deviation of its values, in units of scaled rewards.
        key: of the weights after the torso.
    """

    torso: Torso
    layers: tuple[Float[Array, "out in"], ...]
    head: Float[Array, "actions features m"]
    scale: float = eqx.field(static=True)

    def __init__(
        self,
        torso: Torso,
        widths: tuple[int, ...],
        num_actions: int,
        *,
        index_dim: int,
        scale: float,
        key: PRNGKeyArray,
    ) -> None:
        head_key, *keys = jax.random.split(key, len(widths) + 1)
        sizes = (torso.out_features, *widths)
        self.torso = torso
        self.layers = tuple(
            jax.random.normal(keys[i], (sizes[i + 1], sizes[i])) for i in range(len(widths))
        )
        # After ReLU, normalized features have a mean square of 1/2.
        shape = num_actions, sizes[-1], index_dim
        self.head = math.sqrt(2 / sizes[-1]) * jax.random.normal(head_key, shape)
        self.scale = scale

    @property
    def out_features(self) -> int:
        """Number of its features."""
        return self.head.shape[1]

    def features(
        self, observations: Float[Array, "batch ..."] | Mixed
    ) -> Float[Array, "batch features"]:
        """Compute the features of a batch that the head is applied to."""
        x = torsos.features(self.torso, observations)
        for layer in self.layers:
            x = jax.nn.relu(jax.nn.standardize(x @ layer.T))
        return jax.lax.stop_gradient(x)

    def values(
        self, features: Float[Array, " features"], index: Float[Array, " m"]
    ) -> Float[Array, " actions"]:
        """Compute the prior values [A] under an index."""
        head = jax.lax.stop_gradient(self.head)
        return self.scale * (jnp.einsum("afm,f->am", head, features) @ index)
