"""The noisy linear layer of Fortunato et al., "Noisy Networks for Exploration" (ICLR 2018).

A layer with p inputs and q outputs computes (equation 9 of the paper)

    y = (mu_w + sigma_w * eps_w) x + mu_b + sigma_b * eps_b

where `mu` and `sigma` are learned and `eps` is noise. Noise is a value here: it is sampled by
`sample_noise`, passed to the layer as an argument, and never stored in it. What shares a noise
sample, and how long a sample is held, is therefore visible where the layer is called:

    noise = sample_noise(network, key)  # one sample for every noisy layer of the network
    network(x, noise)                   # a noisy network
    network(x, None)                    # the same network with its mean weights

A noise sample also says whether a batch shares it, because the cheapest computation differs. For a
separate sample of each example, vmap `sample_noise(..., shared=False)` over keys and the network
over examples and samples.

Indexed noise is not from that paper. Its sigma is a matrix for each output, and its epsilon a
point `xi` on the unit sphere in M dimensions, the index, which all layers of a network share:

    y = (mu_w + S_w xi) x + mu_b + S_b xi

So a sample picks one of a family of networks, as in a linear hypermodel (Dwaracherla et al. 2020,
"Hypermodels for Exploration"; Li et al. 2024, "HyperAgent"). It lasts where all members are trained
towards targets of their own, `--matched-targets`.
"""

from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from noisydqn.nets.initial import INDEX_DIM, NoiseKind, initial_values, noise_size


class FactorisedNoise(eqx.Module):
    """A sample of factorised noise: f(eps) of each input and output, f(x) = sgn(x) sqrt(|x|)."""

    input: Float[Array, " in"]
    output: Float[Array, " out"]
    shared: bool = eqx.field(static=True)
    """Whether a batch shares the sample; if not, the caller vmaps over it."""


class IndependentNoise(eqx.Module):
    """A sample of independent noise: a unit normal for each weight and each bias."""

    weight: Float[Array, "out in"]
    bias: Float[Array, " out"]
    shared: bool = eqx.field(static=True)
    """Whether a batch shares the sample; if not, the caller vmaps over it."""


class IndexedNoise(eqx.Module):
    """An index: a point on the unit sphere, uniformly distributed."""

    index: Float[Array, " m"]
    shared: bool = eqx.field(static=True)
    """Whether a batch shares the sample; if not, the caller vmaps over it."""


Noise = FactorisedNoise | IndependentNoise | IndexedNoise


class NoisyLinear(eqx.Module):
    """A linear layer whose weights and biases are `mu + sigma * epsilon`.

    Args:
        in_features: number of inputs, p.
        out_features: number of outputs, q.
        noise: `"factorised"` samples p + q normals and takes products of them (equations 10 and
            11); `"independent"` samples p * q + q; `"indexed"` samples M.
        index_dim: M, the dimensions of the index of indexed noise. Sigma then has an axis [M] more.
        sigma_init: with factorised noise sigma_0, so that every sigma starts at
            `sigma_0 / sqrt(p)` (default 0.5); with independent noise the starting value itself
            (default 0.017); with indexed noise sigma_0, so that every sigma starts as a normal
            with standard deviation `sigma_0 / sqrt(p)` (default 0.5).
        key: random key for the initial sigma of indexed noise and the initial `mu`, uniform within
            ±1/sqrt(p) (factorised, indexed) or ±sqrt(3/p) (independent).

    Raises:
        ValueError: a size below 1, a negative `sigma_init`, or an unknown kind of noise.
    """

    weight_mu: Float[Array, "out in"]
    weight_sigma: Float[Array, "out in *m"]
    bias_mu: Float[Array, " out"]
    bias_sigma: Float[Array, " out *m"]
    in_features: int = eqx.field(static=True)
    out_features: int = eqx.field(static=True)
    noise: NoiseKind = eqx.field(static=True)
    index_dim: int = eqx.field(static=True)

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        noise: NoiseKind = "factorised",
        index_dim: int = INDEX_DIM,
        sigma_init: float | None = None,
        key: PRNGKeyArray,
    ) -> None:
        bound, sigma = initial_values(in_features, out_features, noise, sigma_init, index_dim)
        weight_key, bias_key = jax.random.split(key)
        shape = (out_features, in_features)
        self.weight_mu = jax.random.uniform(weight_key, shape, minval=-bound, maxval=bound)
        self.bias_mu = jax.random.uniform(bias_key, (out_features,), minval=-bound, maxval=bound)
        if noise == "indexed":  # sigmas that are equal would make all components of the index one
            keys = (jax.random.fold_in(key, 1) for key in (weight_key, bias_key))
            sizes = (*shape, index_dim), (out_features, index_dim)
            self.weight_sigma, self.bias_sigma = (
                sigma * jax.random.normal(key, size) for key, size in zip(keys, sizes, strict=True)
            )
        else:
            # The type is given: an array of weak type would have every loop compiled twice.
            self.weight_sigma = jnp.full(shape, sigma, jnp.float32)
            self.bias_sigma = jnp.full((out_features,), sigma, jnp.float32)
        self.in_features = in_features
        self.out_features = out_features
        self.noise = noise
        self.index_dim = index_dim

    @property
    def noise_size(self) -> int:
        """The normals of one sample: p + q (factorised), p * q + q (independent), M (indexed)."""
        return noise_size(self.in_features, self.out_features, self.noise, self.index_dim)

    def noise_from_normals(self, normals: Float[Array, " size"], *, shared: bool = True) -> Noise:
        """Form a noise sample from `noise_size` independent unit normals."""
        values = _index(normals) if self.noise == "indexed" else _scaled(normals)[self.noise]
        return self.noise_from(values, shared=shared)

    def noise_from(self, values: Float[Array, " size"], *, shared: bool = True) -> Noise:
        """Form a noise sample from `noise_size` numbers.

        Unit normals x (independent), f(x) (factorised) or the index (indexed).
        """
        inputs, outputs = self.in_features, self.out_features
        if self.noise == "indexed":
            return IndexedNoise(values, shared)
        if self.noise == "factorised":
            return FactorisedNoise(values[:inputs], values[inputs:], shared)
        weight = values[: inputs * outputs].reshape(outputs, inputs)
        return IndependentNoise(weight, values[inputs * outputs :], shared)

    def sample_noise(self, key: PRNGKeyArray, *, shared: bool = True) -> Noise:
        """Sample noise for this layer alone; see `sample_noise` of this module for `shared`."""
        return self.noise_from_normals(jax.random.normal(key, (self.noise_size,)), shared=shared)

    def __call__(self, x: Float[Array, " in"], noise: Noise | None) -> Float[Array, " out"]:
        """Apply the layer to one input `x` [in], with a noise sample or, if None, the means.

        The noisy weight is formed first and multiplied once. If the caller vmaps over `x` but not
        over `noise`, it is formed once for the whole batch. If the sample is not shared, the
        caller vmaps over both: factorised noise then costs a second product, indexed noise M, and
        no weight is formed.
        """
        if noise is None:
            return self.weight_mu @ x + self.bias_mu
        if isinstance(noise, IndexedNoise):
            return self._under_index(x, noise)
        if isinstance(noise, FactorisedNoise) and not noise.shared:
            mean = self.weight_mu @ x + self.bias_mu
            return mean + noise.output * (self.weight_sigma @ (noise.input * x) + self.bias_sigma)
        if isinstance(noise, FactorisedNoise):
            epsilon_weight = jnp.outer(noise.output, noise.input)
            epsilon_bias = noise.output
        else:
            epsilon_weight, epsilon_bias = noise.weight, noise.bias
        weight = self.weight_mu + self.weight_sigma * epsilon_weight
        return weight @ x + self.bias_mu + self.bias_sigma * epsilon_bias

    def _under_index(self, x: Float[Array, " in"], noise: IndexedNoise) -> Float[Array, " out"]:
        index = noise.index
        if not noise.shared:
            deviation = jnp.einsum("oim,i->om", self.weight_sigma, x) + self.bias_sigma
            return self.weight_mu @ x + self.bias_mu + deviation @ index
        weight = self.weight_mu + self.weight_sigma @ index
        return weight @ x + self.bias_mu + self.bias_sigma @ index


def _scaled(normals: Float[Array, " size"]) -> dict[NoiseKind, Float[Array, " size"]]:
    """Return normals x for independent noise, f(x) = sgn(x) sqrt(|x|) for factorised noise."""
    factorised = jnp.sign(normals) * jnp.sqrt(jnp.abs(normals))
    return {"independent": normals, "factorised": factorised}


def _index(normals: Float[Array, " m"]) -> Float[Array, " m"]:
    """Return the point on the unit sphere in the direction of normals, uniformly distributed."""
    return normals / jnp.sqrt(jnp.sum(jnp.square(normals)))


Network = TypeVar("Network")

NetworkNoise = Any
"""A sample for a whole network: a tree like the network, with a `Noise` at each noisy layer."""


def is_noisy(node: object) -> bool:
    """Tell whether a node of a network's tree is a noisy layer."""
    return isinstance(node, NoisyLinear)


def noisy_layers(network: object) -> dict[str, NoisyLinear]:
    """Find every noisy layer of a network by its path, such as `"hidden.0"`, in tree order."""
    nodes, _ = jax.tree_util.tree_flatten_with_path(network, is_leaf=is_noisy)
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): node
        for path, node in nodes
        if isinstance(node, NoisyLinear)
    }


def sample_noise(network: object, key: PRNGKeyArray, *, shared: bool = True) -> NetworkNoise:
    """Sample noise for every noisy layer of a network at once.

    The result has the shape of the network itself: where the network has a noisy layer, it has
    that layer's noise, and everywhere else None. So a network passes `noise.value` to
    `self.value`. All normals come from one call, and no two layers share any of them, except for an
    index, which is the same in every layer.

    Args:
        network: a tree with noisy layers.
        key: random key.
        shared: whether a batch shares the sample. False if the caller vmaps over samples beside
            observations; both compute the same, each in the faster way for its case.
    """
    nodes, structure = jax.tree_util.tree_flatten(network, is_leaf=is_noisy)
    sizes = [_own_size(node) for node in nodes]
    own = sum(sizes)
    index_dims = {x.index_dim for x in nodes if is_noisy(x) and x.noise == "indexed"}
    if len(index_dims) > 1:
        raise ValueError(f"layers of one network share their index, got dimensions {index_dims}")
    normals = jax.random.normal(key, (own + sum(index_dims),))
    # f is applied to all of them together: the slices are then no more than parts of one array.
    values = _scaled(normals[:own] if index_dims else normals)
    index = _index(normals[own:]) if index_dims else normals
    samples: list[Noise | None] = []
    start = 0
    for node, size in zip(nodes, sizes, strict=True):
        sample = None
        if isinstance(node, NoisyLinear):
            of_layer = values[node.noise][start : start + size] if size > 0 else index
            sample = node.noise_from(of_layer, shared=shared)
        samples.append(sample)
        start += size
    return jax.tree_util.tree_unflatten(structure, samples)


def _own_size(node: Any) -> int:
    """Count the normals that belong to one node of a network alone."""
    return node.noise_size if isinstance(node, NoisyLinear) and node.noise != "indexed" else 0


def scaled(noise: NetworkNoise, factor: Float[Array, ""]) -> NetworkNoise:
    """Scale a sample, so that what it adds to every weight and bias is `factor` times as large."""

    def of(node: Any) -> Any:
        if isinstance(node, FactorisedNoise):
            return FactorisedNoise(node.input, factor * node.output, node.shared)
        return jax.tree.map(lambda x: factor * x, node)

    return jax.tree.map(of, noise, is_leaf=lambda node: isinstance(node, Noise))


def is_shared(noise: NetworkNoise | None) -> bool:
    """Tell whether a batch shares the noise of a network; True where there is no noise."""
    layers = jax.tree.leaves(noise, is_leaf=lambda node: isinstance(node, Noise))
    return all(layer.shared for layer in layers)


def without_noise(network: object) -> NetworkNoise:
    """Return the tree of `sample_noise` with None for every layer, which then uses its means."""
    return jax.tree.map(lambda _: None, network, is_leaf=is_noisy)


def with_sigma(network: Network, sigma: float) -> Network:
    """Return a network whose every sigma has one value."""

    def of(node: Any) -> Any:
        if not isinstance(node, NoisyLinear):
            return node
        sigmas = tuple(jnp.full_like(x, sigma) for x in (node.weight_sigma, node.bias_sigma))
        return eqx.tree_at(lambda layer: (layer.weight_sigma, layer.bias_sigma), node, sigmas)

    return jax.tree.map(of, network, is_leaf=is_noisy)


def mean_abs_sigma(layer: NoisyLinear) -> Float[Array, ""]:
    """Compute the mean of |sigma| over weights and biases: how much noise a layer has left."""
    sigmas = (layer.weight_sigma, layer.bias_sigma)
    total = sum(jnp.sum(jnp.abs(sigma)) for sigma in sigmas)
    return jnp.asarray(total) / sum(sigma.size for sigma in sigmas)
