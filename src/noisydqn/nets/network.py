"""Networks: a torso turns an observation into features, noisy layers turn those into values.

Convolutions are written as patches times a matrix on the CPU, where the gradient of XLA's own
convolution is several times slower inside a compiled loop; elsewhere they are XLA's.
"""

import abc
import itertools
import math
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PRNGKeyArray

from noisydqn.distributions.heads import Expected, Head, ImplicitQuantile
from noisydqn.nets.noisy import NetworkNoise, NoiseKind, NoisyLinear, without_noise


class Torso(eqx.Module):
    """Turns one observation into a vector of features."""

    out_features: eqx.AbstractVar[int]
    chunk: ClassVar[int | None] = None
    """How many observations fit a CPU's cache, if a batch is better taken in such pieces."""

    @abc.abstractmethod
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, " features"]:
        """Features of one observation."""


def _space_to_depth(x: Float[Array, "h w c"], block: int) -> Float[Array, "h2 w2 c2"]:
    height, width, channels = x.shape
    x = x.reshape(height // block, block, width // block, block, channels)
    return x.transpose(0, 2, 1, 3, 4).reshape(height // block, width // block, -1)


def _patches(x: Float[Array, "h w c"], size: int, stride: int) -> Float[Array, "oh ow k"]:
    """Every size x size window of `x`, flattened in the order row, column, channel."""
    out_height, out_width = ((side - size) // stride + 1 for side in x.shape[:2])
    windows = [
        x[
            i : i + stride * (out_height - 1) + 1 : stride,
            j : j + stride * (out_width - 1) + 1 : stride,
        ]
        for i in range(size)
        for j in range(size)
    ]
    return jnp.concatenate(windows, axis=-1)


def _conv_as_matmul(
    x: Float[Array, "h w c"], kernel: Float[Array, "k k c o"], stride: int
) -> Float[Array, "oh ow o"]:
    size, _, channels, out_channels = kernel.shape
    if stride == 1 and out_channels < channels:  # products of whole images, then shifts
        out_height, out_width = (side - size + 1 for side in x.shape[:2])
        products = x @ kernel.transpose(2, 0, 1, 3).reshape(channels, -1)
        products = products.reshape(*x.shape[:2], size, size, out_channels)
        shifted = [
            products[i : i + out_height, j : j + out_width, i, j]
            for i in range(size)
            for j in range(size)
        ]
        return jnp.asarray(sum(shifted))
    if stride > 1 and size % stride == 0:  # fewer, larger copies
        kernel = kernel.reshape(size // stride, stride, size // stride, stride, channels, -1)
        kernel = kernel.transpose(0, 2, 1, 3, 4, 5)
        height, width = ((side - size) // stride * stride + size for side in x.shape[:2])
        x = _space_to_depth(x[:height, :width], stride)
        size, stride = size // stride, 1
    patches = _patches(x, size, stride)
    flat = patches.reshape(-1, patches.shape[-1]) @ kernel.reshape(-1, out_channels)
    return flat.reshape(*patches.shape[:2], out_channels)


def _conv_xla(
    x: Float[Array, "h w c"], kernel: Float[Array, "k k c o"], stride: int
) -> Float[Array, "oh ow o"]:
    layout = ("NHWC", "HWIO", "NHWC")
    strides = (stride, stride)
    return jax.lax.conv_general_dilated(
        x[None], kernel, strides, "VALID", dimension_numbers=layout
    )[0]


def conv2d(
    x: Float[Array, "h w c"], kernel: Float[Array, "k k c o"], stride: int
) -> Float[Array, "oh ow o"]:
    """Convolve one image, without padding, the fastest way for the platform it is compiled for."""
    return jax.lax.platform_dependent(
        x,
        kernel,
        cpu=lambda x, kernel: _conv_as_matmul(x, kernel, stride),
        default=lambda x, kernel: _conv_xla(x, kernel, stride),
    )


class Conv(eqx.Module):
    """A convolution with bias. Weights and bias start uniform within ±1/sqrt(fan in)."""

    kernel: Float[Array, "k k c o"]
    bias: Float[Array, " o"]
    stride: int = eqx.field(static=True)

    def __init__(
        self, in_channels: int, out_channels: int, size: int, stride: int, *, key: PRNGKeyArray
    ) -> None:
        bound = 1 / math.sqrt(in_channels * size**2)
        kernel_key, bias_key = jax.random.split(key)
        shape = (size, size, in_channels, out_channels)
        self.kernel = jax.random.uniform(kernel_key, shape, minval=-bound, maxval=bound)
        self.bias = jax.random.uniform(bias_key, (out_channels,), minval=-bound, maxval=bound)
        self.stride = stride

    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, "oh ow o"]:
        """Convolve one image without padding."""
        return conv2d(x, self.kernel, self.stride) + self.bias


class Flatten(Torso):
    """The torso for vectors: hands the observation on as it is."""

    out_features: int = eqx.field(static=True)

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, " features"]:
        """Flatten one observation."""
        return x.reshape(-1)


def as_image(x: Float[Array, "..."]) -> Float[Array, "h w c"]:
    """An image with its channels last, be it one without a channel axis."""
    return x[..., None] if x.ndim == 2 else x


class ConvTorso(Torso):
    """Convolutions, each followed by ReLU, on one image [h, w] or [h, w, c].

    Args:
        shape: shape of the observation.
        layers: (channels, size, stride) of each convolution.
    """

    convs: tuple[Conv, ...]
    out_features: int = eqx.field(static=True)

    def __init__(
        self,
        shape: tuple[int, ...],
        layers: tuple[tuple[int, int, int], ...],
        *,
        key: PRNGKeyArray,
    ) -> None:
        height, width, channels = (*shape, 1)[:3]
        convs: list[Conv] = []
        for (out_channels, size, stride), layer_key in zip(
            layers, jax.random.split(key, len(layers)), strict=True
        ):
            convs.append(Conv(channels, out_channels, size, stride, key=layer_key))
            height, width = ((side - size) // stride + 1 for side in (height, width))
            channels = out_channels
        self.convs = tuple(convs)
        self.out_features = height * width * channels

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, " features"]:
        """Features of one image."""
        x = as_image(x)
        for conv in self.convs:
            x = jax.nn.relu(conv(x))
        return x.reshape(-1)


def max_pool(x: Float[Array, "h w c"], size: int) -> Float[Array, "h2 w2 c"]:
    """The maximum of every size x size block; rows and columns left over are dropped."""
    height, width = (side // size for side in x.shape[:2])
    blocks = x[: height * size, : width * size].reshape(height, size, width, size, -1)
    return jnp.max(blocks, axis=(1, 3))


def _phases(x: Float[Array, "h w c"], size: int, pool: int) -> dict[tuple[int, int], Array]:
    """Every `pool`-th pixel from each start that a window at some place in a block reaches."""
    height, width = ((side - size + 1) // pool for side in x.shape[:2])
    starts = [(i, j) for i in range(pool + size - 1) for j in range(pool + size - 1)]
    return {
        (i, j): x[i : i + pool * (height - 1) + 1 : pool, j : j + pool * (width - 1) + 1 : pool]
        for i, j in starts
    }


def conv_max_pool(
    x: Float[Array, "h w c"], kernel: Float[Array, "k k c o"], pool: int
) -> Float[Array, "h2 w2 o"]:
    """`max_pool(conv2d(x, kernel, 1), pool)` for few input channels, without the large middle.

    Written as sums over whole planes, which XLA fuses into one loop that keeps only the maximum
    so far: a tenth of the time of a convolution followed by a maximum, whose result is 16 times
    larger than what is kept of it.
    """
    return _differentiable_conv_max_pool(x, kernel, pool)


def _conv_max_pool_forward(
    x: Float[Array, "h w c"], kernel: Float[Array, "k k c o"], pool: int
) -> tuple[Array, tuple[Array, Array, Array]]:
    """The maxima, and what the gradient needs: the place of the first maximum in each block."""
    size, _, channels, _ = kernel.shape
    phases = _phases(x, size, pool)
    terms = [(k, m, c) for k in range(size) for m in range(size) for c in range(channels)]

    def plane(i: int, j: int) -> Array:
        y = sum(phases[i + k, j + m][..., c, None] * kernel[k, m, c] for k, m, c in terms)
        return jnp.asarray(y)

    best = plane(0, 0)
    place = jnp.zeros(best.shape, jnp.int8)
    for index in range(1, pool * pool):
        y = plane(*divmod(index, pool))
        place = jnp.where(y > best, jnp.int8(index), place)
        best = jnp.maximum(y, best)
    return best, (x, kernel, place)


def _conv_max_pool_backward(
    pool: int, saved: tuple[Array, Array, Array], gradient: Float[Array, "h2 w2 o"]
) -> tuple[Array, Array]:
    x, kernel, place = saved
    size, _, channels, out_channels = kernel.shape
    phases = _phases(x, size, pool)
    height, width = gradient.shape[:2]
    x_gradient = jnp.zeros_like(x)
    kernel_gradient = jnp.zeros((size * size * channels, out_channels))
    for i in range(pool):
        for j in range(pool):
            here = jnp.where(place == i * pool + j, gradient, 0).reshape(-1, out_channels)
            seen = [phases[i + k, j + m] for k in range(size) for m in range(size)]
            patches = jnp.concatenate(seen, axis=-1).reshape(-1, size * size * channels)
            kernel_gradient += patches.T @ here
            back = (here @ kernel.reshape(-1, out_channels).T).reshape(
                height, width, size, size, -1
            )
            for k in range(size):
                for m in range(size):
                    rows = slice(i + k, i + k + pool * (height - 1) + 1, pool)
                    columns = slice(j + m, j + m + pool * (width - 1) + 1, pool)
                    x_gradient = x_gradient.at[rows, columns].add(back[:, :, k, m])
    return x_gradient, kernel_gradient.reshape(kernel.shape)


_differentiable_conv_max_pool = jax.custom_vjp(
    lambda x, kernel, pool: _conv_max_pool_forward(x, kernel, pool)[0], nondiff_argnums=(2,)
)
_differentiable_conv_max_pool.defvjp(_conv_max_pool_forward, _conv_max_pool_backward)


class NotebookTorso(Torso):
    """The first notebook's torso: twice a 3x3 convolution, a 4x4 maximum and ReLU.

    For an image of 42 x 42: 64 channels of 10 x 10, then 16 of 2 x 2, 64 features.
    """

    first: Conv
    second: Conv
    out_features: int = eqx.field(static=True)

    chunk: ClassVar[int | None] = 16
    POOL: ClassVar = 4
    SMALLEST: ClassVar = 26  # pixels of the smallest image

    def __init__(self, shape: tuple[int, ...], *, key: PRNGKeyArray) -> None:
        height, width, channels = (*shape, 1)[:3]
        first_key, second_key = jax.random.split(key)
        self.first = Conv(channels, 64, 3, 1, key=first_key)
        self.second = Conv(64, 16, 3, 1, key=second_key)
        height, width = (((side - 2) // self.POOL - 2) // self.POOL for side in (height, width))
        self.out_features = height * width * 16

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, " features"]:
        """Features of one image."""
        pooled = conv_max_pool(as_image(x), self.first.kernel, self.POOL) + self.first.bias
        pooled = max_pool(self.second(jax.nn.relu(pooled)), self.POOL)
        return jax.nn.relu(pooled).reshape(-1)


def features(
    torso: Torso, observations: Float[Array, "batch ..."]
) -> Float[Array, "batch features"]:
    """The torso's features of a batch; on a CPU in pieces that stay in the cache, if it asks."""
    if torso.chunk is None or len(observations) <= torso.chunk:
        return jax.vmap(torso)(observations)
    return jax.lax.platform_dependent(
        observations,
        cpu=lambda x: jax.lax.map(torso, x, batch_size=torso.chunk),
        default=jax.vmap(torso),
    )


Layer = NoisyLinear | eqx.nn.Linear
"""A linear layer of the network; the plain one starts like the means of the noisy one."""

Norms = tuple[eqx.nn.LayerNorm, ...] | None
"""The normalization of each layer of a hidden stack, or None."""


class FractionEmbedding(eqx.Module):
    """Features of a fraction tau: `relu(sum_i w_i cos(pi i tau) + b)` (Dabney et al. 2018b, eq. 4).

    The layer is plain: it belongs to the representation, not to the head.
    """

    linear: eqx.nn.Linear

    def __init__(self, cosines: int, out_features: int, *, key: PRNGKeyArray) -> None:
        self.linear = eqx.nn.Linear(cosines, out_features, key=key)

    def __call__(self, tau: Float[Array, ""]) -> Float[Array, " features"]:
        """Features of one fraction."""
        order = jnp.arange(self.linear.in_features, dtype=jnp.float32)
        return jax.nn.relu(self.linear(jnp.cos(jnp.pi * order * tau)))


class QNetwork(eqx.Module):
    """Torso, hidden layers and heads: the returns of one observation's actions.

    With `dueling` two heads, value V and advantage A, give `Q = V + A - mean(A)`, the mean taken
    over actions, output by output (Wang et al. 2016, equation 9); otherwise the advantage head
    alone gives Q. With `dueling_hidden` each of the two heads is a stream: it has these hidden
    layers to itself, after those of `hidden`, which both share. With `noisy` hidden layers and
    heads are noisy, else plain, without noise to sample; without `noisy_hidden` the hidden layers
    stay plain all the same, those of the streams too. With `layer_norm` what enters the ReLU of
    each hidden layer is normalized (Ba et al. 2016).

    An implicit quantile head multiplies what enters the last hidden layer with an embedding of
    each fraction: the torso's features where there is one hidden layer, as in its paper. With
    `dueling_hidden` it multiplies what enters both streams.

    Raises:
        ValueError: `dueling_hidden` without `dueling`.
    """

    torso: Torso
    hidden: tuple[Layer, ...]
    advantage_hidden: tuple[Layer, ...]
    value_hidden: tuple[Layer, ...]
    advantage: Layer
    value: Layer | None
    embedding: FractionEmbedding | None
    norms: Norms
    advantage_norms: Norms
    value_norms: Norms
    head: Head = eqx.field(static=True)

    def __init__(
        self,
        torso: Torso,
        hidden: tuple[int, ...],
        num_actions: int,
        *,
        head: Head | None = None,
        dueling: bool = True,
        dueling_hidden: tuple[int, ...] = (),
        noisy: bool = True,
        noisy_hidden: bool = True,
        layer_norm: bool = False,
        noise: NoiseKind = "factorised",
        sigma_init: float | None = None,
        key: PRNGKeyArray,
    ) -> None:
        if dueling_hidden and not dueling:
            raise ValueError(f"dueling_hidden {dueling_hidden} needs dueling: there are no streams")

        def layer(inputs: int, outputs: int, key: PRNGKeyArray, noisy: bool = noisy) -> Layer:
            if not noisy:
                return eqx.nn.Linear(inputs, outputs, key=key)
            return NoisyLinear(inputs, outputs, noise=noise, sigma_init=sigma_init, key=key)

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
        self.head = head = Expected() if head is None else head
        self.advantage = layer(last, num_actions * head.outputs, keys[0])
        self.value = layer(last, head.outputs, keys[1]) if dueling else None
        self.embedding = None
        if isinstance(head, ImplicitQuantile):
            width = sizes[self.embedded_depth]
            self.embedding = FractionEmbedding(head.cosines, width, key=embedding_key)

    @property
    def embedded_depth(self) -> int:
        """How many shared hidden layers come before the product with a fraction's embedding."""
        return len(self.hidden) if self.advantage_hidden else max(len(self.hidden) - 1, 0)

    def __call__(
        self, x: Float[Array, "..."], noise: NetworkNoise | None, *, own_noise: bool = False
    ) -> Float[Array, " actions"]:
        """Action values [A] of one observation, with a draw of `sample_noise` or, if None, none.

        `own_noise` says that the caller vmaps over `noise` too: see `NoisyLinear`.
        """
        return self.values(self.torso(x), noise, own_noise=own_noise)

    def values(
        self,
        features: Float[Array, " features"],
        noise: NetworkNoise | None,
        *,
        own_noise: bool = False,
    ) -> Float[Array, " actions"]:
        """Action values [A] of the torso's features: the means of the returns."""
        head = self.head
        fractions = head.acting_fractions if isinstance(head, ImplicitQuantile) else None
        return head.values(self.returns(features, noise, fractions, own_noise=own_noise))

    def returns(
        self,
        features: Float[Array, " features"],
        noise: NetworkNoise | None,
        fractions: Float[Array, " n"] | None = None,
        *,
        own_noise: bool = False,
    ) -> Float[Array, "actions n"]:
        """The head's outputs [A, N] of the torso's features, N fractions being asked for if any."""
        draw = without_noise(self) if noise is None else noise

        def shared(x: Array, start: int, end: int) -> Array:
            layers, norms = self.hidden[start:end], self.norms and self.norms[start:end]
            return _hidden(layers, norms, draw.hidden[start:end], x, own_noise)

        depth = len(self.hidden)
        if self.embedding is None:
            return self._heads(shared(features, 0, depth), draw, own_noise)
        assert fractions is not None  # noqa: S101 - the caller knows its head
        last = self.embedded_depth
        embedded = shared(features, 0, last) * jax.vmap(self.embedding)(fractions)
        returns = jax.vmap(lambda x: self._heads(shared(x, last, depth), draw, own_noise))
        return returns(embedded)[..., 0].T

    def _heads(
        self, x: Float[Array, " features"], draw: NetworkNoise, own_noise: bool
    ) -> Float[Array, "actions outputs"]:
        outputs = self.head.outputs
        stream = self.advantage_hidden, self.advantage_norms, draw.advantage_hidden
        advantage = _apply(
            self.advantage, _hidden(*stream, x, own_noise), draw.advantage, own_noise
        )
        if outputs > 1:  # one output stays a vector, of which XLA makes the better program
            advantage = advantage.reshape(-1, outputs)
        if self.value is not None:
            stream = self.value_hidden, self.value_norms, draw.value_hidden
            value = _apply(self.value, _hidden(*stream, x, own_noise), draw.value, own_noise)
            advantage = value + advantage - jnp.mean(advantage, axis=0)
        return advantage.reshape(-1, outputs)


def _hidden(
    layers: tuple[Layer, ...],
    norms: Norms,
    draws: tuple[Any, ...],  # that of a plain layer is the layer without its arrays
    x: Array,
    own_noise: bool,
) -> Array:
    """Apply hidden layers, each followed by its normalization, if any, and ReLU."""
    for i, layer in enumerate(layers):
        x = _apply(layer, x, draws[i], own_noise)
        x = jax.nn.relu(x if norms is None else norms[i](x))
    return x


def _apply(layer: Layer, x: Array, noise: Any, own_noise: bool) -> Array:
    if isinstance(layer, NoisyLinear):
        return layer(x, noise, own_noise=own_noise)
    return layer(x)
