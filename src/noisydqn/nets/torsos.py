"""More torsos: plain layers, residual convolutions, and any module of the user's."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from noisydqn.errors import UserError
from noisydqn.imports import find
from noisydqn.nets.network import Conv, Torso, as_image

TorsoMaker = Callable[[tuple[int, ...], PRNGKeyArray], eqx.Module]
"""Makes a torso from the shape of an observation and a key: `module(x)` gives features [F]."""


class MLPTorso(Torso):
    """Plain layers, each followed by ReLU, on a flattened observation.

    Args:
        in_features: size of the observation.
        widths: of the layers.
        layer_norm: normalize what enters each ReLU (Ba et al. 2016).
    """

    layers: tuple[eqx.nn.Linear, ...]
    norms: tuple[eqx.nn.LayerNorm, ...] | None
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


def halve(x: Float[Array, "h w c"]) -> Float[Array, "h2 w2 c"]:
    """The maximum of 3 x 3 windows, every second one, the border padded: h2 = ceil(h / 2).

    Written as nine shifted planes: XLA's own is slow backwards on a CPU.
    """
    height, width = ((side + 1) // 2 for side in x.shape[:2])
    padded = jnp.pad(x, ((1, 2), (1, 2), (0, 0)), constant_values=-jnp.inf)
    best = padded[: 2 * height : 2, : 2 * width : 2]
    for place in range(1, 9):
        i, j = divmod(place, 3)
        best = jnp.maximum(best, padded[i : i + 2 * height : 2, j : j + 2 * width : 2])
    return best


def _same_size(conv: Conv, x: Float[Array, "h w c"]) -> Float[Array, "h w o"]:
    return conv(jnp.pad(x, ((1, 1), (1, 1), (0, 0))))


class ResidualStage(eqx.Module):
    """A convolution, a maximum that halves the image, and two residual blocks of two each."""

    first: Conv
    blocks: tuple[tuple[Conv, Conv], ...]

    def __init__(self, in_channels: int, channels: int, *, key: PRNGKeyArray) -> None:
        keys = jax.random.split(key, 5)
        self.first = Conv(in_channels, channels, 3, 1, key=keys[0])
        convs = [Conv(channels, channels, 3, 1, key=conv_key) for conv_key in keys[1:]]
        self.blocks = ((convs[0], convs[1]), (convs[2], convs[3]))

    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, "h2 w2 o"]:
        """Features of one image."""
        x = halve(_same_size(self.first, x))
        for one, other in self.blocks:
            x += _same_size(other, jax.nn.relu(_same_size(one, jax.nn.relu(x))))
        return x


class ImpalaTorso(Torso):
    """The residual convolutions of Espeholt et al. 2018 (figure 3, right), then ReLU.

    Args:
        shape: shape of the observation, [h, w] or [h, w, c].
        widths: channels of each stage, (16, 32, 32) in the paper.
    """

    stages: tuple[ResidualStage, ...]
    out_features: int = eqx.field(static=True)

    def __init__(
        self, shape: tuple[int, ...], widths: tuple[int, ...], *, key: PRNGKeyArray
    ) -> None:
        height, width, channels = (*shape, 1)[:3]
        sizes = (channels, *widths)
        self.stages = tuple(
            ResidualStage(inputs, outputs, key=stage_key)
            for inputs, outputs, stage_key in zip(
                sizes[:-1], sizes[1:], jax.random.split(key, len(widths)), strict=True
            )
        )
        for _ in widths:
            height, width = (height + 1) // 2, (width + 1) // 2
        self.out_features = height * width * sizes[-1]

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, " features"]:
        """Features of one image."""
        x = as_image(x)
        for stage in self.stages:
            x = stage(x)
        return jax.nn.relu(x).reshape(-1)


class UserTorso(Torso):
    """A module of the user's: its arrays are learned, all else stays as it is."""

    arrays: eqx.Module
    rest: eqx.Module = eqx.field(static=True)
    out_features: int = eqx.field(static=True)

    @staticmethod
    def make(name: str, shape: tuple[int, ...], key: PRNGKeyArray) -> "UserTorso":
        """What the function called `name` makes for observations of this shape.

        Raises:
            UserError: there is no such function, or what it makes is no torso.
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
