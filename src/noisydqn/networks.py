"""Networks: a torso turns an observation into features, noisy layers turn those into values.

Convolutions are written as patches times a matrix on the CPU, where the gradient of XLA's own
convolution is ten times slower inside a compiled loop; elsewhere they are XLA's.
"""

import math
from typing import Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from noisydqn.noisy import NetworkNoise, NoiseKind, NoisyLinear, without_noise


class Torso(Protocol):
    """Turns one observation into a vector of features."""

    @property
    def out_features(self) -> int:
        """How many features there are."""
        ...

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, " features"]:
        """Features of one observation."""
        ...


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


class Flatten(eqx.Module):
    """The torso for vectors: hands the observation on as it is."""

    out_features: int = eqx.field(static=True)

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, " features"]:
        """Flatten one observation."""
        return x.reshape(-1)


def _as_image(x: Float[Array, "..."]) -> Float[Array, "h w c"]:
    return x[..., None] if x.ndim == 2 else x


class ConvTorso(eqx.Module):
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
        x = _as_image(x)
        for conv in self.convs:
            x = jax.nn.relu(conv(x))
        return x.reshape(-1)


class NotebookTorso(eqx.Module):
    """The first notebook's torso: twice a 3x3 convolution, a 4x4 maximum and ReLU.

    For an image of 42 x 42: 64 channels of 10 x 10, then 16 of 2 x 2, 64 features.
    """

    first: Conv
    second: Conv
    out_features: int = eqx.field(static=True)

    def __init__(self, shape: tuple[int, ...], *, key: PRNGKeyArray) -> None:
        height, width, channels = (*shape, 1)[:3]
        first_key, second_key = jax.random.split(key)
        self.first = Conv(channels, 64, 3, 1, key=first_key)
        self.second = Conv(64, 16, 3, 1, key=second_key)
        height, width = (((side - 2) // 4 - 2) // 4 for side in (height, width))
        self.out_features = height * width * 16

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, " features"]:
        """Features of one image."""
        x = _as_image(x)
        for conv in (self.first, self.second):
            x = jax.nn.relu(max_pool(conv(x), 4))
        return x.reshape(-1)


def max_pool(x: Float[Array, "h w c"], size: int) -> Float[Array, "h2 w2 c"]:
    """The maximum of every size x size block; rows and columns left over are dropped."""
    height, width = (side // size for side in x.shape[:2])
    blocks = x[: height * size, : width * size].reshape(height, size, width, size, -1)
    return jnp.max(blocks, axis=(1, 3))


class QNetwork(eqx.Module):
    """Torso, noisy hidden layers and noisy heads: the action values of one observation.

    With `dueling` two heads, value V and advantage A, give `Q = V + A - mean(A)`, the mean taken
    over actions (Wang et al. 2016, equation 9); otherwise the advantage head alone gives Q.
    """

    torso: Torso
    hidden: tuple[NoisyLinear, ...]
    advantage: NoisyLinear
    value: NoisyLinear | None

    def __init__(
        self,
        torso: Torso,
        hidden: tuple[int, ...],
        num_actions: int,
        *,
        dueling: bool = True,
        noise: NoiseKind = "factorised",
        sigma_init: float | None = None,
        key: PRNGKeyArray,
    ) -> None:
        keys = jax.random.split(key, len(hidden) + 2)
        sizes = (torso.out_features, *hidden)

        def layer(inputs: int, outputs: int, key: PRNGKeyArray) -> NoisyLinear:
            return NoisyLinear(inputs, outputs, noise=noise, sigma_init=sigma_init, key=key)

        self.torso = torso
        self.hidden = tuple(
            layer(inputs, outputs, hidden_key)
            for inputs, outputs, hidden_key in zip(sizes[:-1], sizes[1:], keys[2:], strict=True)
        )
        self.advantage = layer(sizes[-1], num_actions, keys[0])
        self.value = layer(sizes[-1], 1, keys[1]) if dueling else None

    def __call__(
        self, x: Float[Array, "..."], noise: NetworkNoise | None
    ) -> Float[Array, " actions"]:
        """Action values [A] of one observation, with a draw of `sample_noise` or, if None, none."""
        return self.values(self.torso(x), noise)

    def values(
        self, features: Float[Array, " features"], noise: NetworkNoise | None
    ) -> Float[Array, " actions"]:
        """Action values [A] of the torso's features."""
        draw = without_noise(self) if noise is None else noise
        for layer, layer_noise in zip(self.hidden, draw.hidden, strict=True):
            features = jax.nn.relu(layer(features, layer_noise))
        advantage = self.advantage(features, draw.advantage)
        if self.value is None:
            return advantage
        return self.value(features, draw.value) + advantage - jnp.mean(advantage)
