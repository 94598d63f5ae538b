"""The Q-network: features of a torso, through noisy layers, become a distribution's outputs."""

import itertools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key, PRNGKeyArray

from noisydqn.dimensions import Sizes, firsts
from noisydqn.distributions import joint
from noisydqn.distributions.base import Distribution, Embedding
from noisydqn.distributions.expected import Expected
from noisydqn.masks import mean_of_valid
from noisydqn.nets import torsos
from noisydqn.nets.initial import INDEX_DIM
from noisydqn.nets.noisy import NetworkNoise, NoiseKind, NoisyLinear, without_noise
from noisydqn.nets.prior import Prior
from noisydqn.nets.torsos import Torso
from noisydqn.types import Mixed

Layer = NoisyLinear | eqx.nn.Linear
"""A linear layer of the network; the plain one starts like the means of the noisy one."""

Norms = tuple[eqx.nn.LayerNorm, ...] | None
"""The normalization of each layer of a hidden stack, or None."""


class QNetwork(eqx.Module):
    """Torso, hidden layers and heads: a return distribution for each action of one observation.

    With `dueling` two heads, value V and advantage A, give `Q = V + A - mean(A)`, the mean taken
    over the valid actions, output by output (Wang et al. 2016, equation 9); otherwise the advantage
    head alone gives Q. With `dueling_hidden` each of the two heads is a stream: it has these hidden
    layers to itself, after those of `hidden`, which both share. With `noisy` hidden layers and
    heads are noisy, else plain, without noise to sample; without `noisy_hidden` the hidden layers
    stay plain all the same, those of the streams too. With `layer_norm` what enters the ReLU of
    each hidden layer is normalized (Ba et al. 2016).

    A distribution with queries has an embedding. What enters the last hidden layer is multiplied
    with the embedding of each number of the query: the torso's features where there is one hidden
    layer, as in Dabney et al. 2018b. With `dueling_hidden` what enters both streams is multiplied.

    With a `prior`, under an index, its values are added to all outputs of an action. Mean weights
    have none of it.

    With actions of several dimensions, `num_actions` is the number of choices in each. There is an
    advantage for every choice, and its mean is taken in each dimension (Tavakoli et al. 2018). The
    outputs of all choices lie end to end, A in all; values are arranged by dimension, [D, n].

    Raises:
        ValueError: `dueling_hidden` without `dueling`, or a prior without indexed noise.
    """

    torso: Torso
    hidden: tuple[Layer, ...]
    advantage_hidden: tuple[Layer, ...]
    value_hidden: tuple[Layer, ...]
    advantage: Layer
    value: Layer | None
    embedding: Embedding | None
    norms: Norms
    advantage_norms: Norms
    value_norms: Norms
    prior: Prior | None
    distribution: Distribution = eqx.field(static=True)
    sizes: Sizes = eqx.field(static=True)

    def __init__(
        self,
        torso: Torso,
        hidden: tuple[int, ...],
        num_actions: int | Sizes,
        *,
        distribution: Distribution | None = None,
        dueling: bool = True,
        dueling_hidden: tuple[int, ...] = (),
        noisy: bool = True,
        noisy_hidden: bool = True,
        layer_norm: bool = False,
        noise: NoiseKind = "factorised",
        index_dim: int = INDEX_DIM,
        sigma_init: float | None = None,
        prior: Prior | None = None,
        key: PRNGKeyArray,
    ) -> None:
        if dueling_hidden and not dueling:
            raise ValueError(f"dueling_hidden {dueling_hidden} needs dueling: there are no streams")
        if prior is not None and (noise != "indexed" or not noisy):
            raise ValueError("a prior needs indexed noise: it has one value for each index")

        def layer(inputs: int, outputs: int, key: PRNGKeyArray, noisy: bool = noisy) -> Layer:
            if not noisy:
                return eqx.nn.Linear(inputs, outputs, key=key)
            return NoisyLinear(
                *(inputs, outputs), noise=noise, index_dim=index_dim, sigma_init=sigma_init, key=key
            )

        def stack(
            inputs: int, widths: tuple[int, ...], keys: Key[Array, " layers"]
        ) -> tuple[tuple[Layer, ...], Norms]:
            pairs = zip(itertools.pairwise((inputs, *widths)), keys, strict=True)
            layers = tuple(layer(*sizes, key, noisy and noisy_hidden) for sizes, key in pairs)
            return layers, tuple(map(eqx.nn.LayerNorm, widths)) if layer_norm else None

        keys = jax.random.split(key, len(hidden) + 2)
        embedding_key, stream_key = (jax.random.fold_in(key, len(keys) + i) for i in range(2))
        advantage_keys, value_keys = jax.random.split(stream_key, (2, len(dueling_hidden)))
        sizes = (torso.out_features, *hidden)
        self.torso = torso
        self.hidden, self.norms = stack(sizes[0], hidden, keys[2:])
        stream = sizes[-1], dueling_hidden
        self.advantage_hidden, self.advantage_norms = stack(*stream, advantage_keys)
        self.value_hidden, self.value_norms = stack(*stream, value_keys)
        last = (*sizes, *dueling_hidden)[-1]
        self.distribution = Expected() if distribution is None else distribution
        outputs = self.distribution.num_outputs
        self.sizes = (num_actions,) if isinstance(num_actions, int) else num_actions
        self.advantage = layer(last, sum(self.sizes) * outputs, keys[0])
        self.value = layer(last, outputs, keys[1]) if dueling else None
        self.prior = prior
        width = sizes[self.embedded_depth]
        self.embedding = self.distribution.embedding(width, key=embedding_key)

    @property
    def embedded_depth(self) -> int:
        """The number of shared hidden layers before the product with a query's embedding."""
        return len(self.hidden) if self.advantage_hidden else max(len(self.hidden) - 1, 0)

    def __call__(
        self,
        x: Float[Array, "..."] | Mixed,
        noise: NetworkNoise | None,
        mask: Bool[Array, " actions"] | None = None,
    ) -> Float[Array, "*d actions"]:
        """Compute the action values [A] or [D, n] of one observation.

        Args:
            x: the observation, preprocessed.
            noise: a sample of `sample_noise`. None uses the mean weights.
            mask: the valid actions; None if all are. The value of another is -infinity.
        """
        return self.values(self.features(x), noise, mask)

    def features(self, x: Float[Array, "..."] | Mixed) -> Float[Array, " features"]:
        """Compute the features of one observation: the torso's, then the prior's."""
        features = self.torso(x)
        if self.prior is None:
            return features
        return jnp.concatenate(
            [features, self.prior.features(jax.tree.map(lambda x: x[None], x))[0]]
        )

    def values(
        self,
        features: Float[Array, " features"],
        noise: NetworkNoise | None,
        mask: Bool[Array, " actions"] | None = None,
    ) -> Float[Array, "*d actions"]:
        """Compute the action values of features, as `values_of` arranges them."""
        outputs = self.outputs(features, noise, self.distribution.acting_query(), mask)
        return self.values_of(outputs, mask)

    def values_of(
        self, outputs: Float[Array, "choices n"], mask: Bool[Array, " choices"] | None = None
    ) -> Float[Array, "*d actions"]:
        """Compute the action values of outputs: the mean returns, -infinity if invalid.

        They are [A] or, with several dimensions, [D, n].
        """
        return joint.values_of(self.distribution, self.sizes, outputs, mask)

    def outputs(
        self,
        features: Float[Array, " features"],
        noise: NetworkNoise | None,
        query: Float[Array, " n"] | None = None,
        mask: Bool[Array, " actions"] | None = None,
    ) -> Float[Array, "actions n"]:
        """Compute the distribution's outputs [A, N] of features; with a mask, of valid actions.

        Args:
            features: of one observation, from `features`.
            noise: a sample of `sample_noise`. None uses the mean weights.
            query: numbers that a distribution with an embedding answers, one output for each.
            mask: the valid actions, over which the dueling mean is taken; None if all are.
        """
        if self.prior is None or noise is None:
            return self._outputs(features[: self.torso.out_features], noise, query, mask)
        own, of_prior = jnp.split(features, [self.torso.out_features])
        outputs = self._outputs(own, noise, query, mask)
        return outputs + self.prior.values(of_prior, noise.advantage.index)[:, None]

    def _outputs(
        self,
        features: Float[Array, " features"],
        noise: NetworkNoise | None,
        query: Float[Array, " n"] | None,
        mask: Bool[Array, " actions"] | None,
    ) -> Float[Array, "actions n"]:
        """Compute the outputs without the prior, of the torso's features."""
        sample = without_noise(self) if noise is None else noise

        def shared(x: Array, start: int, end: int) -> Array:
            layers, norms = self.hidden[start:end], self.norms and self.norms[start:end]
            return _hidden(layers, norms, sample.hidden[start:end], x)

        depth = len(self.hidden)
        if self.embedding is None:
            return self._heads(shared(features, 0, depth), sample, mask)
        assert query is not None  # noqa: S101 - a distribution with an embedding has queries
        last = self.embedded_depth
        embedded = shared(features, 0, last) * jax.vmap(self.embedding)(query)
        answers = jax.vmap(lambda x: self._heads(shared(x, last, depth), sample, mask))(embedded)
        return answers[..., 0].T

    def _heads(
        self,
        x: Float[Array, " features"],
        sample: NetworkNoise,
        mask: Bool[Array, " actions"] | None,
    ) -> Float[Array, "actions outputs"]:
        """Apply the streams and the heads, and combine those, output by output."""
        outputs = self.distribution.num_outputs
        stream = self.advantage_hidden, self.advantage_norms, sample.advantage_hidden
        advantage = _apply(self.advantage, _hidden(*stream, x), sample.advantage)
        if outputs > 1:  # one output stays a vector, of which XLA makes the better program
            advantage = advantage.reshape(-1, outputs)
        if self.value is not None:
            stream = self.value_hidden, self.value_norms, sample.value_hidden
            value = _apply(self.value, _hidden(*stream, x), sample.value)
            advantage = value + advantage - self._mean(advantage, mask)
        return advantage.reshape(-1, outputs)

    def _mean(self, advantage: Array, mask: Bool[Array, " actions"] | None) -> Array:
        """Compute the mean of advantages; with several dimensions, of every choice's own."""
        if len(self.sizes) == 1:
            return mean_of_valid(advantage, mask)
        means = [jnp.mean(x, axis=0) for x in jnp.split(advantage, firsts(self.sizes)[1:])]
        return jnp.repeat(jnp.stack(means), np.array(self.sizes), axis=0)


def features(
    network: QNetwork, observations: Float[Array, "batch ..."] | Mixed
) -> Float[Array, "batch features"]:
    """Compute the features of a batch: the torso's, then the prior's."""
    own = torsos.features(network.torso, observations)
    if network.prior is None:
        return own
    return jnp.concatenate([own, network.prior.features(observations)], axis=-1)


def _hidden(layers: tuple[Layer, ...], norms: Norms, noise: tuple[Any, ...], x: Array) -> Array:
    """Apply hidden layers, each followed by its normalization, if any, and ReLU.

    The noise of a plain layer is not None but that layer without its arrays.
    """
    for i, layer in enumerate(layers):
        x = _apply(layer, x, noise[i])
        x = jax.nn.relu(x if norms is None else norms[i](x))
    return x


def _apply(layer: Layer, x: Array, noise: Any) -> Array:
    return layer(x, noise) if isinstance(layer, NoisyLinear) else layer(x)
