"""The Hadamax torso (Kooi et al. 2025): maxima of products of two parallel convolutions."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from noisydqn.nets.convolutions import (
    Conv,
    as_image,
    conv2d,
    max_pool,
    same_padding,
    window_max,
)
from noisydqn.nets.torsos import Torso, normalize_channels

LAYERS = ((32, 8, 4, 4), (64, 4, 2, 2), (64, 3, 3, 1))
"""(channels, size, pool, stride) of each stage: the convolutions of Mnih et al. 2015 with a stride
of 1, and then the maximum of pool x pool windows at every stride-th pixel."""

EPSILON = 1e-6
"""Epsilon of the normalization, as published."""


class HadamaxStage(eqx.Module):
    """Two parallel convolutions, each normalized and then GELU; the maximum of their product.

    Convolutions and maxima are padded so that the image has ceil(h / stride) rows afterwards. As
    published, kernels start normal by Glorot and Bengio 2010 and biases at zero, and GELU is
    its approximation by tanh.

    Args:
        in_channels: channels of its input.
        channels: of each of the two convolutions.
        size: of their kernels.
        pool: size of the windows of the maximum.
        stride: every how many pixels there is a window.
    """

    convs: tuple[Conv, Conv]
    norms: tuple[eqx.nn.LayerNorm, eqx.nn.LayerNorm]
    pool: int = eqx.field(static=True)
    stride: int = eqx.field(static=True)

    def __init__(
        self,
        in_channels: int,
        channels: int,
        size: int,
        pool: int,
        stride: int,
        *,
        key: PRNGKeyArray,
    ) -> None:
        one, other = jax.random.split(key)
        self.convs = (
            _glorot(in_channels, channels, size, one),
            _glorot(in_channels, channels, size, other),
        )
        self.norms = (
            eqx.nn.LayerNorm(channels, eps=EPSILON),
            eqx.nn.LayerNorm(channels, eps=EPSILON),
        )
        self.pool = pool
        self.stride = stride

    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, "h2 w2 o"]:
        """Features of one image."""
        # Both at once: on a CPU the patches of the image are then copied once.
        kernel = jnp.concatenate([conv.kernel for conv in self.convs], axis=-1)
        both = conv2d(_padded(x, kernel.shape[0], 1, 0.0), kernel, 1)
        one, other = (
            jax.nn.gelu(normalize_channels(norm, path + conv.bias), approximate=True)
            for path, conv, norm in zip(
                jnp.split(both, 2, axis=-1), self.convs, self.norms, strict=True
            )
        )
        product = _padded(one * other, self.pool, self.stride, -jnp.inf)
        if self.pool == self.stride:
            return max_pool(product, self.pool)
        return window_max(product, self.pool, self.stride)


def _glorot(in_channels: int, channels: int, size: int, key: PRNGKeyArray) -> Conv:
    conv = Conv(in_channels, channels, size, 1, key=key)
    kernel = jax.nn.initializers.glorot_normal()(key, conv.kernel.shape, jnp.float32)
    bias = jnp.zeros(channels, jnp.float32)
    return eqx.tree_at(lambda conv: (conv.kernel, conv.bias), conv, (kernel, bias))


def _padded(
    x: Float[Array, "h w c"], size: int, stride: int, value: float
) -> Float[Array, "h2 w2 c"]:
    rows, columns = (same_padding(side, size, stride) for side in x.shape[:2])
    return jnp.pad(x, (rows, columns, (0, 0)), constant_values=value)


class HadamaxTorso(Torso):
    """The convolutional encoder of Kooi et al. 2025 (appendix B).

    Its layer normalization is part of it and needs no option. The dense layer that follows there
    is the first of the network's hidden layers, with ReLU in place of GELU.

    Args:
        shape: shape of the observation, [h, w] or [h, w, c].
        layers: (channels, size, pool, stride) of each stage.
    """

    stages: tuple[HadamaxStage, ...]
    out_features: int = eqx.field(static=True)

    def __init__(
        self,
        shape: tuple[int, ...],
        layers: tuple[tuple[int, int, int, int], ...] = LAYERS,
        *,
        key: PRNGKeyArray,
    ) -> None:
        height, width, channels = (*shape, 1)[:3]
        stages: list[HadamaxStage] = []
        for layer, layer_key in zip(layers, jax.random.split(key, len(layers)), strict=True):
            stages.append(HadamaxStage(channels, *layer, key=layer_key))
            channels, _, _, stride = layer
            height, width = -(-height // stride), -(-width // stride)
        self.stages = tuple(stages)
        self.out_features = height * width * channels

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, " features"]:
        """Features of one image."""
        x = as_image(x)
        for stage in self.stages:
            x = stage(x)
        return x.reshape(-1)
