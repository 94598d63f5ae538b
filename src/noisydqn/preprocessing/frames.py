"""Stacks of the newest frames, for acting.

The replay buffer stores single frames and forms the stacks of a batch itself.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Shaped


def start(observation: Shaped[Array, "envs ..."], frames: int) -> Shaped[Array, "envs ..."]:
    """Stack the first frame of an episode with itself, [envs, frames, ...].

    If `frames` is 1, nothing is stacked: the result is `observation`.
    """
    if frames == 1:
        return observation
    return jnp.repeat(observation[:, None], frames, axis=1)


def push(
    stack: Shaped[Array, "envs ..."],
    observation: Shaped[Array, "envs ..."],
    started: Bool[Array, " envs"],
    frames: int,
) -> Shaped[Array, "envs ..."]:
    """Add the newest frame and drop the oldest; where an episode `started`, start a new stack."""
    if frames == 1:
        return observation
    moved = jnp.concatenate([stack[:, 1:], observation[:, None]], axis=1)
    fresh = start(observation, frames)
    return jnp.where(started.reshape(-1, *[1] * (moved.ndim - 1)), fresh, moved)


def merge(stack: Shaped[Array, "envs frames ..."]) -> Shaped[Array, "envs ..."]:
    """Merge the frames of a stack into one array.

    Frames of images become channels: [envs, 4, 84, 84, 3] gives [envs, 84, 84, 12]. Vectors are
    joined: [envs, 4, 8] gives [envs, 32].
    """
    if stack.ndim == 2:
        return stack
    images = stack[..., None] if stack.ndim == 4 else stack
    moved = jnp.moveaxis(images, 1, -2)
    return moved.reshape(*moved.shape[:-2], -1)
