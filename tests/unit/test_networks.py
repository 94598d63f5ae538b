"""Networks against XLA's own operations and the formula of the dueling heads."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from noisydqn import NoisyLinear, sample_noise
from noisydqn.heads import Categorical, Head, ImplicitQuantile, Quantile
from noisydqn.networks import (
    Conv,
    ConvTorso,
    Flatten,
    FractionEmbedding,
    NotebookTorso,
    QNetwork,
    conv2d,
    conv_max_pool,
    features,
    max_pool,
)

LAYOUT = ("NHWC", "HWIO", "NHWC")


def reference_conv(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x[None], kernel, (stride, stride), "VALID", dimension_numbers=LAYOUT
    )[0]


def assert_same_function(
    ours: Callable[[jax.Array, jax.Array], jax.Array],
    theirs: Callable[[jax.Array, jax.Array], jax.Array],
    x: jax.Array,
    kernel: jax.Array,
) -> None:
    """Equal results and equal gradients of both arguments."""

    def with_gradients(f: Callable[[jax.Array, jax.Array], jax.Array]) -> list[jax.Array]:
        @jax.jit
        def run(x: jax.Array, kernel: jax.Array) -> list[jax.Array]:
            result, vjp = jax.vjp(f, x, kernel)
            return [result, *vjp(jax.random.normal(jax.random.key(1), result.shape))]

        return run(x, kernel)

    for a, b in zip(with_gradients(ours), with_gradients(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("channels", [1, 3, 8])  # 8: more than there are output channels
@pytest.mark.parametrize(
    ("side", "size", "stride"),
    [(42, 4, 2), (42, 6, 3), (43, 4, 2), (20, 3, 1), (14, 3, 2), (9, 4, 4), (84, 8, 4), (5, 5, 1)],
)
def test_convolution_and_its_gradients(side: int, size: int, stride: int, channels: int) -> None:
    x_key, kernel_key = jax.random.split(jax.random.key(0))
    x = jax.random.normal(x_key, (side, side + 2, channels))
    kernel = jax.random.normal(kernel_key, (size, size, channels, 6 if channels < 8 else 4))
    assert_same_function(
        lambda x, k: conv2d(x, k, stride), lambda x, k: reference_conv(x, k, stride), x, kernel
    )


@pytest.mark.parametrize(("channels", "size", "pool"), [(1, 3, 4), (2, 3, 2), (3, 2, 3)])
def test_fused_convolution_and_maximum(channels: int, size: int, pool: int) -> None:
    """Against a convolution followed by a maximum, gradients too; 43 leaves a rest."""
    x_key, kernel_key = jax.random.split(jax.random.key(0))
    x = jax.random.normal(x_key, (43, 41, channels))
    kernel = jax.random.normal(kernel_key, (size, size, channels, 5))
    assert_same_function(
        lambda x, k: conv_max_pool(x, k, pool),
        lambda x, k: max_pool(reference_conv(x, k, 1), pool),
        x,
        kernel,
    )


def test_fused_maximum_counts_a_tie_once() -> None:
    """As on a black background: each block has one gradient, not one for each equal pixel."""
    kernel = jnp.ones((3, 3, 1, 2))
    gradient = jax.grad(lambda k: jnp.sum(conv_max_pool(jnp.ones((10, 10, 1)), k, 4)))(kernel)
    np.testing.assert_allclose(gradient, np.full((3, 3, 1, 2), 4.0))  # 2 x 2 blocks of input 1


@pytest.mark.parametrize("batch", [1, 16, 40])
def test_features_of_a_batch_in_pieces(batch: int) -> None:
    torso = NotebookTorso((42, 42), key=jax.random.key(0))
    assert torso.chunk == 16
    x = jax.random.normal(jax.random.key(1), (batch, 42, 42))
    np.testing.assert_allclose(features(torso, x), jax.vmap(torso)(x), rtol=1e-4, atol=1e-5)


def test_max_pool_drops_what_is_left_over() -> None:
    x = jnp.arange(5 * 6, dtype=jnp.float32).reshape(5, 6, 1)
    assert max_pool(x, 2)[..., 0].tolist() == [[7, 9, 11], [19, 21, 23]]


@pytest.mark.parametrize("shape", [(42, 42), (42, 42, 1), (50, 44, 3)])
def test_number_of_features(shape: tuple[int, ...]) -> None:
    for torso in (
        ConvTorso(shape, ((4, 4, 2), (6, 3, 1)), key=jax.random.key(0)),
        NotebookTorso(shape, key=jax.random.key(0)),
    ):
        assert torso(jnp.zeros(shape)).shape == (torso.out_features,)


def test_the_notebooks_torso_has_64_features() -> None:
    assert NotebookTorso((42, 42), key=jax.random.key(0)).out_features == 64


def test_the_notebooks_torso_is_conv_pool_relu() -> None:
    torso = NotebookTorso((42, 42), key=jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (42, 42))
    y = x[..., None]
    for conv in (torso.first, torso.second):
        y = reference_conv(y, conv.kernel, 1) + conv.bias
        height, width, channels = y.shape
        pooled = jax.lax.reduce_window(y, -jnp.inf, jax.lax.max, (4, 4, 1), (4, 4, 1), "VALID")
        assert pooled.shape == (height // 4, width // 4, channels)
        y = jax.nn.relu(pooled)
    np.testing.assert_allclose(torso(x), y.reshape(-1), rtol=1e-4, atol=1e-5)


def test_initial_range_of_a_convolution() -> None:
    conv = Conv(16, 32, 4, 2, key=jax.random.key(0))
    bound = 1 / np.sqrt(16 * 16)
    assert 0.95 * bound < float(jnp.max(jnp.abs(conv.kernel))) <= bound


def test_dueling_heads() -> None:
    """Q = V + A - mean over actions of A, in the noisy layers' own noise."""
    network = QNetwork(Flatten(5), (), 3, key=jax.random.key(0))
    noise = sample_noise(network, jax.random.key(1))
    x = jnp.arange(5.0)
    assert isinstance(network.value, NoisyLinear)
    assert isinstance(network.advantage, NoisyLinear)
    value = network.value(x, noise.value)
    advantage = network.advantage(x, noise.advantage)
    expected = [float(value[0] + advantage[a] - sum(advantage) / 3) for a in range(3)]
    np.testing.assert_allclose(network(x, noise), expected, rtol=1e-5)
    np.testing.assert_allclose(jnp.mean(network(x, noise)), value[0], rtol=1e-5)


@pytest.mark.parametrize("head", [Categorical(7, -1.0, 1.0), Quantile(7), ImplicitQuantile(7, 4)])
def test_dueling_heads_of_distributions(head: Head) -> None:
    """The mean is taken over actions, output by output, and not over the outputs."""
    network = QNetwork(Flatten(5), (), 3, head=head, key=jax.random.key(0))
    noise = sample_noise(network, jax.random.key(1))
    x = jnp.arange(5.0)
    fractions = None
    if network.embedding is not None:
        fractions = jnp.linspace(0.1, 0.7, 7)
        x_of = [x * network.embedding(tau) for tau in fractions]
    else:
        x_of = [x] * 7
    assert network.value is not None
    expected = np.zeros((3, 7))
    for i, features_i in enumerate(x_of):
        value = network.value(features_i, noise.value)  # pyright: ignore[reportCallIssue]
        advantage = network.advantage(features_i, noise.advantage)  # pyright: ignore[reportCallIssue]
        output = 0 if network.embedding is not None else i
        of_actions = [float(advantage[a * head.outputs + output]) for a in range(3)]
        for a in range(3):
            expected[a, i] = float(value[output]) + of_actions[a] - sum(of_actions) / 3
    returns = network.returns(x, noise, fractions)
    np.testing.assert_allclose(returns, expected, rtol=1e-4, atol=1e-5)
    if isinstance(head, Categorical):
        np.testing.assert_allclose(jnp.sum(jax.nn.softmax(returns), axis=1), 1, rtol=1e-5)


def test_action_values_are_means_at_the_acting_fractions() -> None:
    head = ImplicitQuantile(8, 4)
    network = QNetwork(Flatten(5), (6, 7), 3, head=head, key=jax.random.key(0))
    x, noise = jnp.linspace(-1, 1, 5), sample_noise(network, jax.random.key(1))
    for draw in (noise, None):
        returns = network.returns(x, draw, head.acting_fractions)
        assert returns.shape == (3, 4)
        np.testing.assert_allclose(network(x, draw), jnp.mean(returns, axis=1), rtol=1e-5)
    own = network(x, noise, own_noise=True)
    np.testing.assert_allclose(own, network(x, noise), rtol=1e-3, atol=1e-5)


def test_a_fractions_embedding() -> None:
    """Equation 4 of Dabney et al. 2018b, written out."""
    embedding = FractionEmbedding(6, 4, key=jax.random.key(0))
    weight, bias = embedding.linear.weight, embedding.linear.bias
    assert bias is not None
    expected = [
        max(sum(math.cos(math.pi * i * 0.3) * float(weight[j, i]) for i in range(6)) + b, 0)
        for j, b in enumerate(bias.tolist())
    ]
    np.testing.assert_allclose(embedding(jnp.float32(0.3)), expected, atol=1e-6)


def test_without_dueling_the_head_alone_gives_the_values() -> None:
    network = QNetwork(Flatten(5), (), 3, dueling=False, key=jax.random.key(0))
    x = jnp.arange(5.0)
    assert isinstance(network.advantage, NoisyLinear)
    np.testing.assert_allclose(network(x, None), network.advantage(x, None))


def test_plain_layers_start_like_the_means_and_have_nothing_to_draw() -> None:
    network = QNetwork(Flatten(5), (7,), 3, noisy=False, key=jax.random.key(0))
    x = jnp.linspace(-1, 1, 5)
    draw = sample_noise(network, jax.random.key(1))
    assert jax.tree.leaves(draw) == []
    np.testing.assert_array_equal(network(x, draw), network(x, None))
    bound = 1 / np.sqrt(5)
    weight = np.asarray(network.hidden[0].weight)  # pyright: ignore[reportAttributeAccessIssue]
    assert 0.8 * bound < np.abs(weight).max() <= bound


@pytest.mark.parametrize("noise", ["factorised", "independent"])
def test_a_draw_of_ones_own_gives_the_same_values(noise: Any) -> None:
    network = QNetwork(Flatten(5), (7,), 3, noise=noise, key=jax.random.key(0))
    x, draw = jnp.linspace(-1, 1, 5), sample_noise(network, jax.random.key(1))
    np.testing.assert_allclose(network(x, draw, own_noise=True), network(x, draw), rtol=1e-4)


def test_evaluation_is_deterministic_and_noise_is_not() -> None:
    network = QNetwork(Flatten(5), (7,), 3, key=jax.random.key(0))
    x = jnp.arange(5.0)
    assert (network(x, None) == network(x, None)).all()
    one, other = (network(x, sample_noise(network, jax.random.key(k))) for k in (0, 1))
    assert not jnp.any(one == other)
    silent = eqx.tree_at(
        lambda n: (
            [m.weight_sigma for m in (*n.hidden, n.advantage, n.value)]
            + [m.bias_sigma for m in (*n.hidden, n.advantage, n.value)]
        ),
        network,
        replace_fn=jnp.zeros_like,
    )
    np.testing.assert_allclose(
        silent(x, sample_noise(network, jax.random.key(0))), network(x, None), rtol=1e-6
    )
