"""The noisy layer in JAX. Its statistics: tests/reference/test_layers.py, for all frameworks."""

import itertools
from functools import partial
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from noisydqn import NoisyLinear, sample_noise
from noisydqn.nets.network import QNetwork
from noisydqn.nets.noisy import (
    FactorisedNoise,
    IndependentNoise,
    is_shared,
    mean_abs_sigma,
    noisy_layers,
    without_noise,
)
from noisydqn.nets.torsos import Flatten
from noisydqn.trees import Flat

KINDS: list[Literal["factorised", "independent"]] = ["factorised", "independent"]
P, Q = 5, 3


def slow_output(layer: NoisyLinear, x: np.ndarray, noise: object) -> np.ndarray:
    """The layer, written out weight by weight."""
    y = np.zeros(layer.out_features)
    for j in range(layer.out_features):
        if isinstance(noise, FactorisedNoise):
            bias_noise = float(noise.output[j])
        else:
            assert isinstance(noise, IndependentNoise)
            bias_noise = float(noise.bias[j])
        y[j] = float(layer.bias_mu[j]) + float(layer.bias_sigma[j]) * bias_noise
        for i in range(layer.in_features):
            if isinstance(noise, FactorisedNoise):
                weight_noise = float(noise.output[j]) * float(noise.input[i])
            else:
                assert isinstance(noise, IndependentNoise)
                weight_noise = float(noise.weight[j, i])
            weight = float(layer.weight_mu[j, i]) + float(layer.weight_sigma[j, i]) * weight_noise
            y[j] += weight * x[i]
    return y


@pytest.mark.parametrize("kind", KINDS)
def test_agrees_with_a_loop_over_weights(kind: Literal["factorised", "independent"]) -> None:
    layer = NoisyLinear(P, Q, noise=kind, key=jax.random.key(2))
    x = np.linspace(-1, 2, P)
    noise = layer.sample_noise(jax.random.key(3))
    np.testing.assert_allclose(layer(jnp.asarray(x), noise), slow_output(layer, x, noise), 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_without_noise_uses_the_means(kind: Literal["factorised", "independent"]) -> None:
    layer = NoisyLinear(P, Q, noise=kind, key=jax.random.key(2))
    x = jnp.linspace(-1, 2, P)
    np.testing.assert_allclose(layer(x, None), layer.weight_mu @ x + layer.bias_mu, 1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_mu_and_sigma_receive_the_gradient_of_the_formula(
    kind: Literal["factorised", "independent"],
) -> None:
    layer = NoisyLinear(P, Q, noise=kind, key=jax.random.key(2))
    noise = layer.sample_noise(jax.random.key(3))
    x = jnp.linspace(-1, 2, P)
    gradient = jax.grad(lambda m: jnp.sum(m(x, noise)))(layer)
    if isinstance(noise, FactorisedNoise):
        weight_noise, bias_noise = jnp.outer(noise.output, noise.input), noise.output
    else:
        assert isinstance(noise, IndependentNoise)
        weight_noise, bias_noise = noise.weight, noise.bias
    # d/d mu_w = x, d/d sigma_w = x * eps_w, d/d mu_b = 1, d/d sigma_b = eps_b.
    np.testing.assert_allclose(gradient.weight_mu, np.tile(x, (Q, 1)), rtol=1e-5)
    np.testing.assert_allclose(gradient.weight_sigma, x * weight_noise, rtol=1e-5)
    np.testing.assert_allclose(gradient.bias_mu, np.ones(Q))
    np.testing.assert_allclose(gradient.bias_sigma, bias_noise, rtol=1e-6)
    assert np.all(np.asarray(gradient.bias_sigma) != 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shared", [True, False])
def test_batches_agree_with_single_examples(
    kind: Literal["factorised", "independent"], shared: bool
) -> None:
    layer = NoisyLinear(P, Q, noise=kind, key=jax.random.key(2))
    x = jax.random.normal(jax.random.key(4), (6, P))
    keys = jax.random.split(jax.random.key(5), 6)
    if shared:
        noise = layer.sample_noise(keys[0])
        batch = jax.vmap(layer, in_axes=(0, None))(x, noise)
        single = [layer(row, noise) for row in x]
    else:
        sample = partial(layer.sample_noise, shared=False)
        batch = jax.vmap(layer)(x, jax.vmap(sample)(keys))
        single = [layer(row, layer.sample_noise(k)) for row, k in zip(x, keys, strict=True)]
    np.testing.assert_allclose(batch, np.stack(single), rtol=1e-5, atol=1e-6)


def network(kind: Literal["factorised", "independent"] = "factorised") -> QNetwork:
    return QNetwork(Flatten(4), (8, 8), 3, noise=kind, key=jax.random.key(0))


@pytest.mark.parametrize("kind", KINDS)
def test_no_two_layers_share_a_sample(kind: Literal["factorised", "independent"]) -> None:
    """In particular not the value and the advantage heads, which have equally many inputs."""
    noise = sample_noise(network(kind), jax.random.key(1))
    arrays = [np.ravel(x) for x in jax.tree.leaves(noise)]
    assert len(arrays) == 8  # two arrays for each of two hidden layers and two heads
    for a, b in itertools.combinations(arrays, 2):
        assert not set(a.tolist()) & set(b.tolist())


def test_noise_of_a_network_lies_where_its_layers_are() -> None:
    noise = sample_noise(network(), jax.random.key(1))
    assert noise.hidden[1].input.shape == (8,)
    assert noise.advantage.output.shape == (3,)
    assert noise.value.output.shape == (1,)
    assert list(noisy_layers(network())) == ["hidden.0", "hidden.1", "advantage", "value"]


def test_same_key_same_sample_other_key_other_sample() -> None:
    one, same, other = (sample_noise(network(), jax.random.key(k)) for k in (1, 1, 2))
    assert eqx.tree_equal(one, same)
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    assert all(not np.any(a == b) for a, b in pairs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shared", [True, False])
def test_a_sample_knows_whether_it_is_shared(
    kind: Literal["factorised", "independent"], shared: bool
) -> None:
    """Also after it was sampled under vmap, laid flat, compiled and taken apart."""
    sample = partial(sample_noise, network(kind), shared=shared)
    keys = jax.random.split(jax.random.key(0), 3)
    flat = jax.jit(jax.vmap(lambda key: Flat.of(sample(key))))(keys)
    for noise in (sample(keys[0]), flat.tree, jax.tree.map(lambda x: x[0], flat).tree):
        assert noise.value.shared is shared
        assert is_shared(noise) is shared


def test_no_noise_counts_as_shared() -> None:
    assert is_shared(None)
    assert is_shared(without_noise(network()))


@pytest.mark.parametrize("shared", [True, False])
def test_only_shared_noise_forms_the_noisy_weight(shared: bool) -> None:
    """As an outer product; for separate samples that would be one matrix for each example."""
    layer = NoisyLinear(P, Q, key=jax.random.key(2))
    noise = layer.sample_noise(jax.random.key(3), shared=shared)
    program = str(jax.make_jaxpr(layer)(jnp.zeros(P), noise))
    assert (f"f32[{Q},{P}] = mul" in program) is shared


def test_layers_hold_no_noise() -> None:
    """So that a copy of the weights never copies noise: the arrays are the four learned ones."""
    layer = NoisyLinear(P, Q, key=jax.random.key(0))
    assert len(jax.tree.leaves(layer)) == 4


def test_mean_abs_sigma() -> None:
    layer = NoisyLinear(1, 2, key=jax.random.key(0))
    layer = eqx.tree_at(
        lambda m: (m.weight_sigma, m.bias_sigma),
        layer,
        (jnp.array([[-1.0], [2]]), jnp.array([3.0, 0])),
    )
    assert float(mean_abs_sigma(layer)) == pytest.approx(6 / 4)
