"""The noisy layer against the formulas of Fortunato et al. 2018."""

import itertools
import math
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from noisydqn import NoisyLinear, sample_noise
from noisydqn.networks import Flatten, QNetwork
from noisydqn.noisy import FactorisedNoise, IndependentNoise, mean_abs_sigma, noisy_layers

KINDS: list[Literal["factorised", "independent"]] = ["factorised", "independent"]
P, Q = 5, 3
DRAWS = 40_000

ABS_NORMAL_MEAN = math.sqrt(2 / math.pi)  # of |x|, x a unit normal: also the variance of f(x)


def epsilons(layer: NoisyLinear, draws: int = DRAWS) -> tuple[np.ndarray, np.ndarray]:
    """eps_w [draws, q, p] and eps_b [draws, q] of many draws, formed from the layer's output."""
    unit = eqx.tree_at(
        lambda m: (m.weight_mu, m.bias_mu, m.weight_sigma, m.bias_sigma),
        layer,
        (jnp.zeros((Q, P)), jnp.zeros(Q), jnp.ones((Q, P)), jnp.ones(Q)),
    )

    def one(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        noise = unit.sample_noise(key)
        bias = unit(jnp.zeros(P), noise)
        columns = jax.vmap(lambda x: unit(x, noise) - bias)(jnp.eye(P))
        return columns.T, bias

    weight, bias = jax.vmap(one)(jax.random.split(jax.random.key(1), draws))
    return np.asarray(weight), np.asarray(bias)


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


def test_initial_values_factorised() -> None:
    layer = NoisyLinear(400, 300, key=jax.random.key(0))
    bound = 1 / math.sqrt(400)
    for mu in (layer.weight_mu, layer.bias_mu):
        assert float(jnp.max(jnp.abs(mu))) <= bound
        assert float(jnp.max(jnp.abs(mu))) > 0.95 * bound
        # The variance of a uniform variable on ±b is b^2 / 3.
        assert float(jnp.var(mu)) == pytest.approx(bound**2 / 3, rel=0.15)
    # sigma_0 / sqrt(p) for weights and for biases: not sqrt(q).
    np.testing.assert_allclose(layer.weight_sigma, 0.5 / math.sqrt(400))
    np.testing.assert_allclose(layer.bias_sigma, 0.5 / math.sqrt(400))


def test_initial_values_independent() -> None:
    layer = NoisyLinear(400, 300, noise="independent", key=jax.random.key(0))
    bound = math.sqrt(3 / 400)
    assert 0.99 * bound < float(jnp.max(jnp.abs(layer.weight_mu))) <= bound
    np.testing.assert_allclose(layer.weight_sigma, 0.017)
    np.testing.assert_allclose(layer.bias_sigma, 0.017)


def test_sigma_init_zero_is_respected() -> None:
    for kind in KINDS:
        layer = NoisyLinear(P, Q, noise=kind, sigma_init=0.0, key=jax.random.key(0))
        assert not np.any(layer.weight_sigma)
        assert not np.any(layer.bias_sigma)


def test_moments_of_factorised_noise() -> None:
    weight, bias = epsilons(NoisyLinear(P, Q, key=jax.random.key(0)))
    # f(x) = sgn(x) sqrt(|x|) has mean 0, variance E|x| = sqrt(2/pi) and fourth moment E x^2 = 1.
    variance_f = ABS_NORMAL_MEAN
    four_sigma = 4 / math.sqrt(DRAWS)
    assert np.abs(bias.mean(0)).max() < four_sigma * math.sqrt(variance_f)
    np.testing.assert_allclose(
        bias.var(0), variance_f, atol=four_sigma * math.sqrt(1 - variance_f**2)
    )
    assert np.abs(weight.mean(0)).max() < four_sigma * variance_f
    np.testing.assert_allclose(weight.var(0), variance_f**2, atol=four_sigma)


def test_factorised_noise_is_an_outer_product() -> None:
    """Catches layers that say factorised and draw independent noise."""
    weight, bias = epsilons(NoisyLinear(P, Q, key=jax.random.key(0)), draws=50)
    for matrix, vector in zip(weight, bias, strict=True):
        assert np.linalg.matrix_rank(matrix, tol=1e-4) == 1
        # Each column is the bias noise times a number: the outputs' noise is shared.
        np.testing.assert_allclose(
            matrix / matrix[:1], np.repeat((vector / vector[0])[:, None], P, 1), rtol=1e-2
        )
    squares = (weight**2).reshape(50, -1)
    assert np.corrcoef(squares[:, 0], squares[:, 1])[0, 1] > 0.1


def test_correlations_of_factorised_noise() -> None:
    """Entries are uncorrelated, but squares in one row or column are not; see the formula."""
    weight, _ = epsilons(NoisyLinear(P, Q, key=jax.random.key(0)))
    flat = weight.reshape(DRAWS, -1)
    correlations = np.corrcoef(flat.T) - np.eye(P * Q)
    assert np.abs(correlations).max() < 5 / math.sqrt(DRAWS) * 2
    # cov(w_ji^2, w_jk^2) = E[f^4] E[f^2]^2 - E[f^2]^4 = v^2 - v^4, v = sqrt(2/pi).
    v = ABS_NORMAL_MEAN
    same_row = np.cov(weight[:, 0, 0] ** 2, weight[:, 0, 1] ** 2)[0, 1]
    assert same_row == pytest.approx(v**2 - v**4, abs=0.05)
    apart = np.cov(weight[:, 0, 0] ** 2, weight[:, 1, 1] ** 2)[0, 1]
    assert apart == pytest.approx(0, abs=0.05)


def test_moments_and_correlations_of_independent_noise() -> None:
    weight, bias = epsilons(NoisyLinear(P, Q, noise="independent", key=jax.random.key(0)))
    flat = np.concatenate([weight.reshape(DRAWS, -1), bias], axis=1)
    bound = 5 / math.sqrt(DRAWS)
    assert np.abs(flat.mean(0)).max() < bound
    np.testing.assert_allclose(flat.var(0), 1, atol=bound * math.sqrt(2))
    assert np.abs(np.corrcoef(flat.T) - np.eye(P * Q + Q)).max() < bound
    assert np.abs(np.corrcoef((flat**2).T) - np.eye(P * Q + Q)).max() < 2 * bound


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
        weight_noise, bias_noise = noise
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
        batch = jax.vmap(layer)(x, jax.vmap(layer.sample_noise)(keys))
        single = [layer(row, layer.sample_noise(k)) for row, k in zip(x, keys, strict=True)]
    np.testing.assert_allclose(batch, np.stack(single), rtol=1e-5, atol=1e-6)


def network(kind: Literal["factorised", "independent"] = "factorised") -> QNetwork:
    return QNetwork(Flatten(4), (8, 8), 3, noise=kind, key=jax.random.key(0))


@pytest.mark.parametrize("kind", KINDS)
def test_no_two_layers_share_a_draw(kind: Literal["factorised", "independent"]) -> None:
    """In particular not the value and the advantage heads, which have equally many inputs."""
    noise = sample_noise(network(kind), jax.random.key(1))
    draws = [np.ravel(x) for x in jax.tree.leaves(noise)]
    assert len(draws) == 8  # two arrays for each of two hidden layers and two heads
    for a, b in itertools.combinations(draws, 2):
        assert not set(a.tolist()) & set(b.tolist())


def test_noise_of_a_network_lies_where_its_layers_are() -> None:
    noise = sample_noise(network(), jax.random.key(1))
    assert noise.hidden[1].input.shape == (8,)
    assert noise.advantage.output.shape == (3,)
    assert noise.value.output.shape == (1,)
    assert list(noisy_layers(network())) == ["hidden.0", "hidden.1", "advantage", "value"]


def test_same_key_same_draw_other_key_other_draw() -> None:
    one, same, other = (sample_noise(network(), jax.random.key(k)) for k in (1, 1, 2))
    assert eqx.tree_equal(one, same)
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    assert all(not np.any(a == b) for a, b in pairs)


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_features": 0}, "at least one input"),
        ({"out_features": 0}, "at least one input and one output"),
        ({"noise": "gaussian"}, 'must be "factorised" or "independent", got \'gaussian\''),
        ({"sigma_init": -0.1}, "sigma_init must be zero or more, got -0.1"),
        ({"sigma_init": math.nan}, "sigma_init must be zero or more, got nan"),
    ],
)
def test_refuses_bad_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NoisyLinear(**{"in_features": P, "out_features": Q, "key": jax.random.key(0), **arguments})  # pyright: ignore[reportArgumentType]
