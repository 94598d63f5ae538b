"""Stacks of the newest frames, for acting.

The replay buffer stores single frames and forms the stacks of a batch itself. Of images and
vectors, only images are stacked.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Shaped

from noisydqn.types import Mixed


def by_kind(stacked: Callable[..., Any], other: Callable[..., Any], *observations: Any) -> Any:
    """Apply a function to the arrays that frames are stacked of, another to the other vectors.

    Args:
        stacked: for observations of one array, and for images beside vectors.
        other: for vectors beside images.
        observations: the arguments of both; the result has their form.
    """
    first = observations[0]
    if not isinstance(first, Mixed):
        return stacked(*observations)
    images = jax.tree.map(stacked, *(x.images for x in observations))
    return Mixed(images, jax.tree.map(other, *(x.vectors for x in observations)))


def start(observation: Shaped[Array, "envs ..."] | Mixed, frames: int) -> Any:
    """Stack the first frame of an episode with itself, [envs, frames, ...].

    If `frames` is 1, nothing is stacked: the result is `observation`.
    """
    if frames == 1:
        return observation

    def start(x: Array) -> Array:
        return jnp.repeat(x[:, None], frames, axis=1)

    return by_kind(start, lambda x: x, observation)


def push(
    stack: Shaped[Array, "envs ..."] | Mixed,
    observation: Shaped[Array, "envs ..."] | Mixed,
    started: Bool[Array, " envs"],
    frames: int,
) -> Any:
    """Add the newest frame and drop the oldest; where an episode `started`, start a new stack."""
    if frames == 1:
        return observation

    def push(stack: Array, newest: Array) -> Array:
        moved = jnp.concatenate([stack[:, 1:], newest[:, None]], axis=1)
        fresh = start(newest, frames)
        return jnp.where(started.reshape(-1, *[1] * (moved.ndim - 1)), fresh, moved)

    return by_kind(push, lambda _, newest: newest, stack, observation)


def merge(stack: Shaped[Array, "envs frames ..."]) -> Shaped[Array, "envs ..."]:
    """Merge the frames of a stack of one array into one array.

    Frames of images become channels: [envs, 4, 84, 84, 3] gives [envs, 84, 84, 12]. Vectors are
    joined: [envs, 4, 8] gives [envs, 32].
    """
    if stack.ndim == 2:
        return stack
    images = stack[..., None] if stack.ndim == 4 else stack
    moved = jnp.moveaxis(images, 1, -2)
    return moved.reshape(*moved.shape[:-2], -1)
