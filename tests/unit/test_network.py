"""Networks against XLA's own operations and the formula of the dueling heads."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from noisydqn import PRESETS, NoisyLinear, sample_noise
from noisydqn.distributions import Categorical, Distribution, ImplicitQuantile, Quantile
from noisydqn.envs.encoding import numbered
from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.nets.convolutions import Conv, conv2d, conv_max_pool, max_pool
from noisydqn.nets.network import QNetwork
from noisydqn.nets.noisy import FactorisedNoise, Noise, noisy_layers
from noisydqn.nets.torsos import ConvTorso, Flatten, NotebookTorso, features
from noisydqn.runners import build

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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_fused_maximum_counts_a_tie_once() -> None:
    """As on a black background: each block has one gradient, not one for each equal pixel."""
    kernel = jnp.ones((3, 3, 1, 2))
    gradient = jax.grad(lambda k: jnp.sum(conv_max_pool(jnp.ones((10, 10, 1)), k, 4)))(kernel)
    np.testing.assert_allclose(gradient, np.full((3, 3, 1, 2), 4.0))  # 2 x 2 blocks of input 1


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 16, 40])
def test_features_of_a_batch_in_pieces(batch: int) -> None:
    torso = NotebookTorso((42, 42), key=jax.random.key(0))
    assert torso.chunk == 16
    x = jax.random.normal(jax.random.key(1), (batch, 42, 42))
    np.testing.assert_allclose(features(torso, x), jax.vmap(torso)(x), rtol=1e-4, atol=1e-5)


def test_max_pool_drops_what_is_left_over() -> None:
    x = jnp.arange(5 * 6, dtype=jnp.float32).reshape(5, 6, 1)
    assert max_pool(x, 2)[..., 0].tolist() == [[7, 9, 11], [19, 21, 23]]


@pytest.mark.slow
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


@pytest.mark.parametrize(
    "distribution", [Categorical(7, -1.0, 1.0), Quantile(7), ImplicitQuantile(7, 4)]
)
def test_dueling_heads_of_distributions(distribution: Distribution) -> None:
    """The mean is taken over actions, output by output, and not over the outputs."""
    network = QNetwork(Flatten(5), (), 3, distribution=distribution, key=jax.random.key(0))
    noise = sample_noise(network, jax.random.key(1))
    x = jnp.arange(5.0)
    query = None
    if network.embedding is not None:
        query = jnp.linspace(0.1, 0.7, 7)
        x_of = [x * network.embedding(tau) for tau in query]
    else:
        x_of = [x] * 7
    assert network.value is not None
    expected = np.zeros((3, 7))
    for i, features_i in enumerate(x_of):
        value = network.value(features_i, noise.value)  # pyright: ignore[reportCallIssue]
        advantage = network.advantage(features_i, noise.advantage)  # pyright: ignore[reportCallIssue]
        output = 0 if network.embedding is not None else i
        of_actions = [float(advantage[a * distribution.num_outputs + output]) for a in range(3)]
        for a in range(3):
            expected[a, i] = float(value[output]) + of_actions[a] - sum(of_actions) / 3
    outputs = network.outputs(x, noise, query)
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-5)
    if isinstance(distribution, Categorical):
        np.testing.assert_allclose(jnp.sum(jax.nn.softmax(outputs), axis=1), 1, rtol=1e-5)


def layer_written_out(layer: Any, noise: FactorisedNoise, x: np.ndarray) -> np.ndarray:
    mu, sigma = np.asarray(layer.weight_mu), np.asarray(layer.weight_sigma)
    output = np.asarray(noise.output)
    weight = mu + sigma * np.outer(output, np.asarray(noise.input))
    return x @ weight.T + np.asarray(layer.bias_mu) + np.asarray(layer.bias_sigma) * output


def hidden_written_out(layers: Any, noise: Any, norms: Any, x: np.ndarray) -> np.ndarray:
    """Hidden layers, each followed by layer normalization, if any, and ReLU."""
    for i, (layer, sample) in enumerate(zip(layers, noise, strict=True)):
        x = layer_written_out(layer, sample, x)
        if norms is not None:
            x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
            x = x * np.asarray(norms[i].weight) + np.asarray(norms[i].bias)
        x = np.maximum(x, 0)
    return x


def separate(noise: Any) -> Any:
    """Turn a noise sample into one that a batch does not share."""

    def changed(sample: Any) -> Any:
        return type(sample)(*jax.tree.leaves(sample), shared=False)

    return jax.tree.map(changed, noise, is_leaf=lambda node: isinstance(node, Noise))


def filled(tree: Any, rng: np.random.Generator) -> Any:
    """Unit normals in place of shapes, so that nothing is compiled to make them."""
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), tree)


@pytest.mark.parametrize(
    ("distribution", "hidden", "layer_norm"),
    [
        (Categorical(7, -1.0, 1.0), (6,), True),
        (ImplicitQuantile(7, 4), (6,), True),
        (ImplicitQuantile(7, 4), (), False),
    ],
)
def test_dueling_streams(
    distribution: Distribution, hidden: tuple[int, ...], layer_norm: bool
) -> None:
    """Each head has hidden layers to itself; a query's embedding multiplies what enters both."""
    shapes = jax.eval_shape(
        lambda: QNetwork(
            Flatten(5),
            hidden,
            3,
            distribution=distribution,
            dueling_hidden=(8, 4),
            layer_norm=layer_norm,
            key=jax.random.key(0),
        )
    )
    rng = np.random.default_rng(0)
    network: Any = filled(shapes, rng)
    noise: Any = filled(jax.eval_shape(lambda: sample_noise(shapes, jax.random.key(0))), rng)
    x = np.linspace(-1, 2, 5, dtype=np.float32)
    fractions = np.linspace(0.1, 0.7, 7, dtype=np.float32)
    entering = hidden_written_out(network.hidden, noise.hidden, network.norms, x)
    if network.embedding is not None:
        linear = network.embedding.linear
        order = np.arange(linear.weight.shape[1])
        embedded = np.cos(np.pi * order * fractions[:, None]) @ linear.weight.T
        entering = entering * np.maximum(embedded + linear.bias, 0)  # [7, features]
    advantage = hidden_written_out(
        network.advantage_hidden, noise.advantage_hidden, network.advantage_norms, entering
    )
    value = hidden_written_out(
        network.value_hidden, noise.value_hidden, network.value_norms, entering
    )
    a = layer_written_out(network.advantage, noise.advantage, advantage)
    v = layer_written_out(network.value, noise.value, value)
    a, v = (a.reshape(3, 7), v) if network.embedding is None else (a.T, v.T)
    expected = v + a - a.sum(0) / 3
    query = None if network.embedding is None else jnp.asarray(fractions)
    for sample in (noise, separate(noise)):
        outputs = network.outputs(jnp.asarray(x), sample, query)
        np.testing.assert_allclose(outputs, expected, rtol=1e-3, atol=1e-3 * np.ptp(expected))


def test_streams_share_neither_weights_nor_noise() -> None:
    """And leave all other layers and their names as they are without streams."""
    key = jax.random.key(0)
    distribution = ImplicitQuantile(7, 4)

    def make(**options: Any) -> QNetwork:
        return QNetwork(Flatten(5), (5,), 5, distribution=distribution, key=key, **options)

    without, streams = jax.eval_shape(make), make(dueling_hidden=(5,))
    keys = jax.random.split(key, 3)
    others = {
        "hidden.0": NoisyLinear(5, 5, key=keys[2]),
        "advantage": NoisyLinear(5, 5, key=keys[0]),
        "value": NoisyLinear(5, 1, key=keys[1]),
    }
    assert list(noisy_layers(without)) == list(others)
    layers = noisy_layers(streams)
    assert eqx.tree_equal({name: layers.pop(name) for name in others}, others)
    embedding = distribution.embedding(5, key=jax.random.fold_in(key, 3))
    assert eqx.tree_equal(streams.embedding, embedding)
    assert list(layers) == ["advantage_hidden.0", "value_hidden.0"]
    ours, theirs = (np.asarray(layer.weight_mu) for layer in layers.values())
    assert not np.isin(ours, [theirs, others["hidden.0"].weight_mu]).any()
    noise = sample_noise(streams, key)
    ours, theirs = (noise.advantage_hidden[0], noise.value_hidden[0])
    ours, theirs = (np.concatenate(jax.tree.leaves(noise)) for noise in (ours, theirs))
    assert not np.isin(ours, theirs).any()


def test_streams_need_two_heads() -> None:
    with pytest.raises(ValueError, match=r"dueling_hidden \(4,\) needs dueling"):
        QNetwork(Flatten(5), (), 3, dueling=False, dueling_hidden=(4,), key=jax.random.key(0))


def test_rainbows_network_for_pong() -> None:
    """The layers of Hessel et al. 2018: convolutions, then two streams of 512 noisy units."""
    seen = jax.ShapeDtypeStruct((84, 84), jnp.uint8)
    policy = jax.eval_shape(
        lambda: build.make_policy(
            PRESETS["rainbow"].program, EnvironmentSpec(seen, 6, numbered(6)), jax.random.key(0)
        )
    )
    paths, _ = jax.tree_util.tree_flatten_with_path(policy.network)
    shapes = {jax.tree_util.keystr(path, simple=True, separator="."): x.shape for path, x in paths}
    convolutions = {
        "torso.convs.0": ((8, 8, 4, 32), (32,)),
        "torso.convs.1": ((4, 4, 32, 64), (64,)),
        "torso.convs.2": ((3, 3, 64, 64), (64,)),
    }
    noisy = {
        "advantage_hidden.0": (512, 7 * 7 * 64),
        "value_hidden.0": (512, 7 * 7 * 64),
        "advantage": (6 * 51, 512),
        "value": (51, 512),
    }
    expected: dict[str, tuple[int, ...]] = {}
    for name, (kernel, bias) in convolutions.items():
        expected |= {f"{name}.kernel": kernel, f"{name}.bias": bias}
    for name, weight in noisy.items():
        for of in ("mu", "sigma"):
            expected |= {f"{name}.weight_{of}": weight, f"{name}.bias_{of}": weight[:1]}
    assert shapes == expected


def test_action_values_are_means_of_answers_to_the_acting_query() -> None:
    distribution = ImplicitQuantile(8, 4)
    network = QNetwork(Flatten(5), (6, 7), 3, distribution=distribution, key=jax.random.key(0))
    x, noise = jnp.linspace(-1, 1, 5), sample_noise(network, jax.random.key(1))
    for sample in (noise, None):
        outputs = network.outputs(x, sample, distribution.acting_query())
        assert outputs.shape == (3, 4)
        np.testing.assert_allclose(network(x, sample), jnp.mean(outputs, axis=1), rtol=1e-5)
    np.testing.assert_allclose(network(x, separate(noise)), network(x, noise), rtol=1e-3, atol=1e-5)


def test_without_dueling_the_head_alone_gives_the_values() -> None:
    network = QNetwork(Flatten(5), (), 3, dueling=False, key=jax.random.key(0))
    x = jnp.arange(5.0)
    assert isinstance(network.advantage, NoisyLinear)
    np.testing.assert_allclose(network(x, None), network.advantage(x, None))


def test_plain_layers_start_like_the_means_and_have_nothing_to_sample() -> None:
    network = QNetwork(Flatten(5), (7,), 3, noisy=False, key=jax.random.key(0))
    x = jnp.linspace(-1, 1, 5)
    noise = sample_noise(network, jax.random.key(1))
    assert jax.tree.leaves(noise) == []
    np.testing.assert_array_equal(network(x, noise), network(x, None))
    bound = 1 / np.sqrt(5)
    weight = np.asarray(network.hidden[0].weight)  # pyright: ignore[reportAttributeAccessIssue]
    assert 0.8 * bound < np.abs(weight).max() <= bound


@pytest.mark.parametrize("kind", ["factorised", "independent"])
def test_a_separate_sample_gives_the_same_values(kind: Any) -> None:
    network = QNetwork(Flatten(5), (7,), 3, noise=kind, key=jax.random.key(0))
    x, noise = jnp.linspace(-1, 1, 5), sample_noise(network, jax.random.key(1))
    np.testing.assert_allclose(network(x, separate(noise)), network(x, noise), rtol=1e-4)


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
