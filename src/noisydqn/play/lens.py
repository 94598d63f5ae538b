"""The noise lens of a video: what noise would make of each action's value."""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Key, PRNGKeyArray, Shaped

from noisydqn.compilation import Program, program_for
from noisydqn.learner.lens import values_under_noise
from noisydqn.learner.policy import Policy
from noisydqn.nets.noisy import noisy_layers
from noisydqn.play.played import Shot

SAMPLES = 32
"""Noise samples of a video. All its pictures have the same ones, so that bars do not flicker."""
BATCH = 16
"""Pictures whose values are computed in one call."""
LENS = 1
"""Number of the key of the noise samples among those that are folded from a video's key."""


def _values(
    policy: Policy, seen: Shaped[Array, "batch ..."], keys: Key[Array, " samples"]
) -> Float[Array, "samples batch actions"]:
    return values_under_noise(policy.network, policy.preprocess(seen), keys)


def _program(policy: Policy, seen: jax.ShapeDtypeStruct) -> Program[Array]:
    keys = jax.ShapeDtypeStruct((SAMPLES,), jax.random.key(0).dtype)
    batch = jax.ShapeDtypeStruct((BATCH, *seen.shape), seen.dtype)
    return program_for("video", _values, policy, batch, keys)


def lens_programs(policy: Policy, observation: jax.ShapeDtypeStruct) -> tuple[Program[Any], ...]:
    """Return the programs of `under_noise` for policies like `policy`; none without noise."""
    if not noisy_layers(policy.network):
        return ()
    frames = () if policy.frames == 1 else (policy.frames,)
    shape = (*frames, *observation.shape)
    return (_program(policy, jax.ShapeDtypeStruct(shape, observation.dtype)),)


def under_noise(
    shots: Iterable[Shot], policy: Policy, key: PRNGKeyArray
) -> Iterator[tuple[Shot, np.ndarray]]:
    """Yield each shot with its action values under noise [samples, actions].

    There are no samples if no layer of the policy is noisy. Shots are taken `BATCH` at a time.

    Args:
        shots: of a video.
        policy: the policy that plays in it.
        key: of the video.
    """
    if not noisy_layers(policy.network):
        yield from ((shot, np.zeros((0, len(shot.q)))) for shot in shots)
        return
    keys = jax.random.split(jax.random.fold_in(key, LENS), SAMPLES)
    left = iter(shots)
    while batch := list(itertools.islice(left, BATCH)):
        seen = np.stack([*(shot.seen for shot in batch), *[batch[-1].seen] * (BATCH - len(batch))])
        compute = _program(policy, jax.ShapeDtypeStruct(seen.shape[1:], seen.dtype))
        noisy = np.asarray(compute(policy, seen, keys))
        yield from ((shot, noisy[:, i]) for i, shot in enumerate(batch))
