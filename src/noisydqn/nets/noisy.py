"""The noisy linear layer of Fortunato et al., "Noisy Networks for Exploration" (ICLR 2018).

A layer with p inputs and q outputs computes (equation 9 of the paper)

    y = (mu_w + sigma_w * eps_w) x + mu_b + sigma_b * eps_b

where `mu` and `sigma` are learned and `eps` is noise. Noise is a value here: it is drawn by
`sample_noise`, passed to the layer as an argument, and never stored in it. What shares a draw,
and how long a draw is held, is therefore visible where the layer is called:

    noise = sample_noise(network, key)  # one draw for every noisy layer of the network
    network(x, noise)                   # a noisy network
    network(x, None)                    # the same network with its mean weights
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from noisydqn.nets.initial import NoiseKind, initial_values, noise_size


class FactorisedNoise(NamedTuple):
    """One draw of factorised noise: `f(eps)` of each input and output, f(x) = sgn(x) sqrt(|x|)."""

    input: Float[Array, " in"]
    output: Float[Array, " out"]


class IndependentNoise(NamedTuple):
    """One draw of independent noise: a unit normal for each weight and each bias."""

    weight: Float[Array, "out in"]
    bias: Float[Array, " out"]


Noise = FactorisedNoise | IndependentNoise


class NoisyLinear(eqx.Module):
    """A linear layer whose weights and biases are `mu + sigma * epsilon`.

    Args:
        in_features: number of inputs, p.
        out_features: number of outputs, q.
        noise: `"factorised"` draws p + q normals and takes products of them (equations 10 and
            11); `"independent"` draws p * q + q.
        sigma_init: with factorised noise sigma_0, so that every sigma starts at
            `sigma_0 / sqrt(p)` (default 0.5); with independent noise the starting value itself
            (default 0.017).
        key: random key for the initial `mu`, uniform within ±1/sqrt(p) (factorised) or
            ±sqrt(3/p) (independent).

    Raises:
        ValueError: a size below 1, a negative `sigma_init`, or an unknown kind of noise.
    """

    weight_mu: Float[Array, "out in"]
    weight_sigma: Float[Array, "out in"]
    bias_mu: Float[Array, " out"]
    bias_sigma: Float[Array, " out"]
    in_features: int = eqx.field(static=True)
    out_features: int = eqx.field(static=True)
    noise: NoiseKind = eqx.field(static=True)

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        noise: NoiseKind = "factorised",
        sigma_init: float | None = None,
        key: PRNGKeyArray,
    ) -> None:
        bound, sigma = initial_values(in_features, out_features, noise, sigma_init)
        weight_key, bias_key = jax.random.split(key)
        shape = (out_features, in_features)
        self.weight_mu = jax.random.uniform(weight_key, shape, minval=-bound, maxval=bound)
        self.bias_mu = jax.random.uniform(bias_key, (out_features,), minval=-bound, maxval=bound)
        # The type is given: an array of weak type would have every loop compiled twice.
        self.weight_sigma = jnp.full(shape, sigma, jnp.float32)
        self.bias_sigma = jnp.full((out_features,), sigma, jnp.float32)
        self.in_features = in_features
        self.out_features = out_features
        self.noise = noise

    @property
    def noise_size(self) -> int:
        """How many normals one draw takes: p + q (factorised) or p * q + q (independent)."""
        return noise_size(self.in_features, self.out_features, self.noise)

    def noise_from_normals(self, normals: Float[Array, " size"]) -> Noise:
        """Form a draw from `noise_size` independent unit normals."""
        return self.noise_from(_scaled(normals)[self.noise])

    def noise_from(self, values: Float[Array, " size"]) -> Noise:
        """Form a draw from `noise_size` numbers: unit normals x or, if factorised, f(x)."""
        inputs, outputs = self.in_features, self.out_features
        if self.noise == "factorised":
            return FactorisedNoise(input=values[:inputs], output=values[inputs:])
        weight = values[: inputs * outputs].reshape(outputs, inputs)
        return IndependentNoise(weight=weight, bias=values[inputs * outputs :])

    def sample_noise(self, key: PRNGKeyArray) -> Noise:
        """Draw noise for this layer alone."""
        return self.noise_from_normals(jax.random.normal(key, (self.noise_size,)))

    def __call__(
        self, x: Float[Array, " in"], noise: Noise | None, *, own_noise: bool = False
    ) -> Float[Array, " out"]:
        """Apply the layer to one input `x` [in], with a draw of noise or, if None, the means.

        The noisy weight is formed first and multiplied once. When the caller vmaps over `x` but
        not over `noise`, it is formed once for the whole batch. A caller who vmaps over both says
        so with `own_noise`: factorised noise then costs a second product and no weight is formed.
        """
        if noise is None:
            return self.weight_mu @ x + self.bias_mu
        if own_noise and isinstance(noise, FactorisedNoise):
            mean = self.weight_mu @ x + self.bias_mu
            return mean + noise.output * (self.weight_sigma @ (noise.input * x) + self.bias_sigma)
        if isinstance(noise, FactorisedNoise):
            epsilon_weight = jnp.outer(noise.output, noise.input)
            epsilon_bias = noise.output
        else:
            epsilon_weight, epsilon_bias = noise
        weight = self.weight_mu + self.weight_sigma * epsilon_weight
        return weight @ x + self.bias_mu + self.bias_sigma * epsilon_bias


def _scaled(normals: Float[Array, " size"]) -> dict[NoiseKind, Float[Array, " size"]]:
    """Unit normals x for independent noise, and f(x) = sgn(x) sqrt(|x|) for factorised noise."""
    factorised = jnp.sign(normals) * jnp.sqrt(jnp.abs(normals))
    return {"independent": normals, "factorised": factorised}


NetworkNoise = Any
"""One draw for a whole network: a tree like the network, with a `Noise` at each noisy layer."""


def is_noisy(node: object) -> bool:
    """Whether a node of a network's tree is a noisy layer."""
    return isinstance(node, NoisyLinear)


def noisy_layers(network: object) -> dict[str, NoisyLinear]:
    """Every noisy layer of a network by its path, such as `"hidden.0"`, in tree order."""
    nodes, _ = jax.tree_util.tree_flatten_with_path(network, is_leaf=is_noisy)
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): node
        for path, node in nodes
        if isinstance(node, NoisyLinear)
    }


def sample_noise(network: object, key: PRNGKeyArray) -> NetworkNoise:
    """Draw noise for every noisy layer of a network at once.

    The result has the shape of the network itself: where the network has a noisy layer, it has
    that layer's noise, and everywhere else None. So a network passes `noise.head` to
    `self.head`. All normals come from one call and no two layers share any of them.
    """
    nodes, structure = jax.tree_util.tree_flatten(network, is_leaf=is_noisy)
    sizes = [node.noise_size if isinstance(node, NoisyLinear) else 0 for node in nodes]
    # f is applied to all of them together: the slices are then no more than parts of one array.
    values = _scaled(jax.random.normal(key, (sum(sizes),)))
    draws: list[Noise | None] = []
    start = 0
    for node, size in zip(nodes, sizes, strict=True):
        noisy = isinstance(node, NoisyLinear)
        draws.append(node.noise_from(values[node.noise][start : start + size]) if noisy else None)
        start += size
    return jax.tree_util.tree_unflatten(structure, draws)


def without_noise(network: object) -> NetworkNoise:
    """What `sample_noise` gives, with None in place of every layer's noise: the means are used."""
    return jax.tree.map(lambda _: None, network, is_leaf=is_noisy)


def mean_abs_sigma(layer: NoisyLinear) -> Float[Array, ""]:
    """The mean of |sigma| over a layer's weights and biases: how much noise it has left."""
    sigmas = (layer.weight_sigma, layer.bias_sigma)
    total = sum(jnp.sum(jnp.abs(sigma)) for sigma in sigmas)
    return jnp.asarray(total) / sum(sigma.size for sigma in sigmas)
