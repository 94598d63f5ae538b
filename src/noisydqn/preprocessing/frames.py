"""Stacks of the newest frames, for acting. The replay buffer assembles its own from its rows."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Shaped


def start(observation: Shaped[Array, "envs ..."], frames: int) -> Shaped[Array, "envs ..."]:
    """Make the stack [envs, frames, ...] at the start of an episode: its first frame, repeated.

    If `frames` is 1, return the observation itself.
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
    """Add the newest frame; where an episode `started`, start a new stack."""
    if frames == 1:
        return observation
    moved = jnp.concatenate([stack[:, 1:], observation[:, None]], axis=1)
    fresh = start(observation, frames)
    return jnp.where(started.reshape(-1, *[1] * (moved.ndim - 1)), fresh, moved)


def merge(stack: Shaped[Array, "envs frames ..."]) -> Shaped[Array, "envs ..."]:
    """Merge a stack into one array: images side by side as channels, vectors end to end."""
    if stack.ndim == 2:
        return stack
    images = stack[..., None] if stack.ndim == 4 else stack
    moved = jnp.moveaxis(images, 1, -2)
    return moved.reshape(*moved.shape[:-2], -1)
