"""Torsos: what turns an observation into a vector of features."""

import abc
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from noisydqn.errors import UserError
from noisydqn.imports import find
from noisydqn.nets.convolutions import Conv, as_image, conv_max_pool, max_pool
from noisydqn.types import Mixed

Norms = tuple[eqx.nn.LayerNorm, ...] | None
"""The normalization before each ReLU of a torso, or None."""

TorsoMaker = Callable[[tuple[int, ...], PRNGKeyArray], eqx.Module]
"""Makes a torso from the shape of an observation and a key: `module(x)` gives features [F]."""


class Torso(eqx.Module):
    """Turns one observation into a vector of features."""

    out_features: eqx.AbstractVar[int]
    chunk: ClassVar[int | None] = None
    """How many observations fit a CPU's cache, if a batch is better taken in such pieces."""

    @abc.abstractmethod
    def __call__(self, x: Any) -> Float[Array, " features"]:
        """Features of one observation."""


class Flatten(Torso):
    """The torso for vectors: hands the observation on as it is."""

    out_features: int = eqx.field(static=True)

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, " features"]:
        """Flatten one observation."""
        return x.reshape(-1)


class MLPTorso(Torso):
    """Plain layers, each followed by ReLU, on a flattened observation.

    Args:
        in_features: size of the observation.
        widths: of the layers.
        layer_norm: normalize what enters each ReLU (Ba et al. 2016).
    """

    layers: tuple[eqx.nn.Linear, ...]
    norms: Norms
    out_features: int = eqx.field(static=True)

    def __init__(
        self, in_features: int, widths: tuple[int, ...], *, layer_norm: bool, key: PRNGKeyArray
    ) -> None:
        sizes = (in_features, *widths)
        self.layers = tuple(
            eqx.nn.Linear(inputs, outputs, key=layer_key)
            for inputs, outputs, layer_key in zip(
                sizes[:-1], sizes[1:], jax.random.split(key, len(widths)), strict=True
            )
        )
        self.norms = tuple(eqx.nn.LayerNorm(width) for width in widths) if layer_norm else None
        self.out_features = sizes[-1]

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, " features"]:
        """Features of one observation."""
        x = x.reshape(-1)
        for i, layer in enumerate(self.layers):
            x = layer(x)
            x = jax.nn.relu(x if self.norms is None else self.norms[i](x))
        return x


def normalize_channels(norm: eqx.nn.LayerNorm, x: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
    """Normalize the channels of each pixel (Ba et al. 2016).

    Mean and variance are taken over the channels alone, separately for each pixel, and each
    channel has a learned scale and offset. Published code for images does both this and the norm
    over height, width and channels together. This is the norm behind the published results of PQN
    (Gallici et al. 2024) and Hadamax (Kooi et al. 2025), by flax's default.
    """
    return jax.vmap(jax.vmap(norm))(x)


def normalized_relu(norms: Norms, index: int, x: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
    """Apply ReLU, after the normalization at `index` if there are any."""
    return jax.nn.relu(x if norms is None else normalize_channels(norms[index], x))


class ConvTorso(Torso):
    """Convolutions, each followed by ReLU, on one image [h, w] or [h, w, c].

    Args:
        shape: shape of the observation.
        layers: (channels, size, stride) of each convolution.
        layer_norm: normalize the channels before each ReLU.
    """

    convs: tuple[Conv, ...]
    norms: Norms
    out_features: int = eqx.field(static=True)

    def __init__(
        self,
        shape: tuple[int, ...],
        layers: tuple[tuple[int, int, int], ...],
        *,
        layer_norm: bool = False,
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
        widths = [out_channels for out_channels, _, _ in layers]
        self.norms = tuple(map(eqx.nn.LayerNorm, widths)) if layer_norm else None
        self.out_features = height * width * channels

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, " features"]:
        """Features of one image."""
        x = as_image(x)
        for i, conv in enumerate(self.convs):
            x = normalized_relu(self.norms, i, conv(x))
        return x.reshape(-1)


class NotebookTorso(Torso):
    """The first notebook's torso: twice a 3x3 convolution, a 4x4 maximum and ReLU.

    For an image of 42 x 42: 64 channels of 10 x 10, then 16 of 2 x 2, 64 features.

    Args:
        shape: shape of the observation.
        layer_norm: normalize the channels before each ReLU, so after the maximum.
    """

    first: Conv
    second: Conv
    norms: Norms
    out_features: int = eqx.field(static=True)

    chunk: ClassVar[int | None] = 16
    POOL: ClassVar = 4
    SMALLEST: ClassVar = 26  # pixels of the smallest image

    def __init__(
        self, shape: tuple[int, ...], *, layer_norm: bool = False, key: PRNGKeyArray
    ) -> None:
        height, width, channels = (*shape, 1)[:3]
        first_key, second_key = jax.random.split(key)
        self.first = Conv(channels, 64, 3, 1, key=first_key)
        self.second = Conv(64, 16, 3, 1, key=second_key)
        self.norms = tuple(map(eqx.nn.LayerNorm, (64, 16))) if layer_norm else None
        height, width = (((side - 2) // self.POOL - 2) // self.POOL for side in (height, width))
        self.out_features = height * width * 16

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, " features"]:
        """Features of one image."""
        pooled = conv_max_pool(as_image(x), self.first.kernel, self.POOL) + self.first.bias
        pooled = max_pool(self.second(normalized_relu(self.norms, 0, pooled)), self.POOL)
        return normalized_relu(self.norms, 1, pooled).reshape(-1)


class MixedTorso(Torso):
    """A torso for each image and for each vector, whose features are joined.

    The order is that of the sorted paths, images first.

    Args:
        images: torsos by path.
        vectors: torsos by path.
    """

    images: dict[str, Torso]
    vectors: dict[str, Torso]
    out_features: int = eqx.field(static=True)

    def __init__(self, images: dict[str, Torso], vectors: dict[str, Torso]) -> None:
        self.images, self.vectors = images, vectors
        self.out_features = sum(x.out_features for x in (*images.values(), *vectors.values()))

    def pairs(self, x: Mixed) -> list[tuple[Torso, Array]]:
        """List each torso with the part of an observation, or of a batch, that it sees."""
        images = [(self.images[path], x.images[path]) for path in sorted(self.images)]
        return images + [(self.vectors[path], x.vectors[path]) for path in sorted(self.vectors)]

    def __call__(self, x: Mixed) -> Float[Array, " features"]:
        """Features of one observation."""
        return jnp.concatenate([torso(part) for torso, part in self.pairs(x)])


class UserTorso(Torso):
    """A module of the user's: its arrays are learned, all else stays as it is."""

    arrays: eqx.Module
    rest: eqx.Module = eqx.field(static=True)
    out_features: int = eqx.field(static=True)

    @staticmethod
    def make(name: str, shape: tuple[int, ...], key: PRNGKeyArray) -> "UserTorso":
        """Make a torso by the function called `name`, for observations of this shape.

        Raises:
            UserError: there is no such function, or what it makes is not a torso.
        """
        module: object = find(name)(shape, key)
        if not isinstance(module, eqx.Module) or not callable(module):
            raise UserError(
                f"--torso {name} made {type(module).__name__}, expected an equinox.Module that is "
                "called with one observation"
            )
        arrays, rest = eqx.partition(module, eqx.is_array)
        for leaf in jax.tree.leaves(arrays):
            if leaf.dtype != jnp.float32:
                raise UserError(
                    f"--torso {name} has an array of {leaf.dtype}, expected float32: keep what is "
                    "not learned in static fields"
                )
        seen = jax.ShapeDtypeStruct(shape, jnp.float32)
        features = eqx.filter_eval_shape(module, seen)
        if not isinstance(features, jax.ShapeDtypeStruct) or len(features.shape) != 1:
            shown = getattr(features, "shape", type(features).__name__)
            raise UserError(
                f"--torso {name} gives {shown} for an observation of {shape}, expected a vector"
            )
        return UserTorso(arrays, rest, features.shape[0])

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, " features"]:
        """Features of one observation."""
        module = eqx.combine(self.arrays, self.rest)
        return module(x)  # pyright: ignore[reportCallIssue]


def features(torso: Torso, observations: Any) -> Float[Array, "batch features"]:
    """The torso's features of a batch; on a CPU in pieces that stay in the cache, if it asks."""
    if isinstance(torso, MixedTorso):
        parts = [features(*pair) for pair in torso.pairs(observations)]
        return jnp.concatenate(parts, axis=-1)
    if torso.chunk is None or len(observations) <= torso.chunk:
        return jax.vmap(torso)(observations)
    return jax.lax.platform_dependent(
        observations,
        cpu=lambda x: jax.lax.map(torso, x, batch_size=torso.chunk),
        default=jax.vmap(torso),
    )
