"""The residual torso of IMPALA (Espeholt et al. 2018), and that of "Beyond The Rainbow"."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from noisydqn.nets.convolutions import Conv, adaptive_max_pool, as_image, conv2d, window_max
from noisydqn.nets.spectral import spectrally_normalized
from noisydqn.nets.torsos import Norms, Torso, normalized_relu

IMPALA_CHANNELS = (16, 32, 32)
"""Channels of IMPALA's stages."""

BTR_CHANNELS, BTR_POOL = (32, 64, 64), 6
"""Channels of the stages of "Beyond The Rainbow", twice IMPALA's, and windows along each side of
the pooling."""


def halve(x: Float[Array, "h w c"]) -> Float[Array, "h2 w2 c"]:
    """Take the maximum of every second 3 x 3 window, the border padded: h2 = ceil(h / 2)."""
    return window_max(jnp.pad(x, ((1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf), 3, 2)


def _same_size(
    x: Float[Array, "h w c"], kernel: Float[Array, "3 3 c o"], bias: Float[Array, " o"]
) -> Float[Array, "h w o"]:
    return conv2d(jnp.pad(x, ((1, 1), (1, 1), (0, 0))), kernel, 1) + bias


class ResidualStage(eqx.Module):
    """A convolution, a maximum that halves the image, and two residual blocks of two each.

    Args:
        in_channels: channels of its input.
        channels: of all its convolutions.
        layer_norm: normalize the channels before the ReLU in front of each block's convolution.
        spectral_norm: normalize the kernels of the blocks spectrally. The first convolution, which
            is in no block, keeps its own.
    """

    first: Conv
    blocks: tuple[tuple[Conv, Conv], ...]
    norms: Norms
    spectral_norm: bool = eqx.field(static=True)

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        layer_norm: bool = False,
        spectral_norm: bool = False,
        key: PRNGKeyArray,
    ) -> None:
        keys = jax.random.split(key, 5)
        self.first = Conv(in_channels, channels, 3, 1, key=keys[0])
        convs = [Conv(channels, channels, 3, 1, key=conv_key) for conv_key in keys[1:]]
        self.blocks = ((convs[0], convs[1]), (convs[2], convs[3]))
        self.norms = tuple(eqx.nn.LayerNorm(channels) for _ in convs) if layer_norm else None
        self.spectral_norm = spectral_norm

    def kernels(self) -> list[Float[Array, "3 3 c c"]]:
        """Return the kernels with which the blocks convolve, in order."""
        kernels = [conv.kernel for conv in itertools.chain(*self.blocks)]
        if not self.spectral_norm:
            return kernels
        return list(jax.vmap(spectrally_normalized)(jnp.stack(kernels)))  # small: all at once

    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, "h2 w2 o"]:
        """Features of one image."""
        x = halve(_same_size(x, self.first.kernel, self.first.bias))
        kernels = self.kernels()
        for block, convs in enumerate(self.blocks):
            inner = x
            for i, conv in enumerate(convs, start=2 * block):
                inner = _same_size(normalized_relu(self.norms, i, inner), kernels[i], conv.bias)
            x += inner
        return x


class ImpalaTorso(Torso):
    """The residual convolutions of Espeholt et al. 2018 (figure 3, right), then ReLU.

    With `BTR_CHANNELS`, `spectral_norm` and a `pool` of `BTR_POOL` it is the torso of "Beyond The
    Rainbow" (Clark et al. 2024): twice the channels, spectral normalization in the residual blocks
    and adaptive max-pooling to 6 x 6. An image of 84 x 84 then has 6 * 6 * 64 = 2304 features
    instead of 11 * 11 * 64 = 7744, so the next layer is smaller. Unlike there, sigma is exact:
    `noisydqn.nets.spectral` says how.

    Args:
        shape: shape of the observation, [h, w] or [h, w, c].
        widths: channels of each stage.
        layer_norm: normalize the channels before each ReLU.
        spectral_norm: normalize the kernels of the residual blocks spectrally.
        pool: windows along each side of the adaptive max-pooling of what the stages give; None
            does not pool.
    """

    stages: tuple[ResidualStage, ...]
    norms: Norms
    pool: int | None = eqx.field(static=True)
    out_features: int = eqx.field(static=True)

    def __init__(
        self,
        shape: tuple[int, ...],
        widths: tuple[int, ...] = IMPALA_CHANNELS,
        *,
        layer_norm: bool = False,
        spectral_norm: bool = False,
        pool: int | None = None,
        key: PRNGKeyArray,
    ) -> None:
        height, width, channels = (*shape, 1)[:3]
        sizes = (channels, *widths)
        self.stages = tuple(
            ResidualStage(*pair, layer_norm=layer_norm, spectral_norm=spectral_norm, key=stage_key)
            for pair, stage_key in zip(
                itertools.pairwise(sizes), jax.random.split(key, len(widths)), strict=True
            )
        )
        self.norms = (eqx.nn.LayerNorm(sizes[-1]),) if layer_norm else None
        self.pool = pool
        for _ in widths:
            height, width = (height + 1) // 2, (width + 1) // 2
        if pool is not None:
            height, width = min(height, pool), min(width, pool)
        self.out_features = height * width * sizes[-1]

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, " features"]:
        """Features of one image."""
        x = as_image(x)
        for stage in self.stages:
            x = stage(x)
        x = normalized_relu(self.norms, 0, x)
        return (x if self.pool is None else adaptive_max_pool(x, self.pool)).reshape(-1)
