"""The noise lens of a video: what noise would make of each action's value."""

import itertools
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Key, PRNGKeyArray

from noisydqn.compilation import Program, program_for
from noisydqn.dimensions import end_to_end
from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.learner.lens import values_under_noise
from noisydqn.learner.policy import Policy
from noisydqn.nets.noisy import noisy_layers
from noisydqn.play.played import Shot
from noisydqn.preprocessing import frames
from noisydqn.trees import zeros
from noisydqn.types import Observation

SAMPLES = 32
"""Noise samples of a video. All its pictures have the same ones, so that bars do not flicker."""
BATCH = 16
"""Pictures whose values are computed in one call."""
LENS = 1
"""Number of the key of the noise samples among those that are folded from a video's key."""


def _values(
    policy: Policy,
    seen: Observation,
    masks: Bool[Array, "batch actions"] | None,
    keys: Key[Array, " samples"],
) -> Float[Array, "samples batch *d actions"]:
    return values_under_noise(policy.network, policy.preprocess(seen), keys, masks)


def _program(policy: Policy, spec: EnvironmentSpec) -> Program[Array]:
    keys = jax.ShapeDtypeStruct((SAMPLES,), jax.random.key(0).dtype)
    newest = jax.eval_shape(partial(zeros, spec.observation, BATCH))
    seen = jax.eval_shape(partial(frames.start, frames=policy.frames), newest)
    masks = jax.eval_shape(partial(spec.blank_masks, BATCH))
    return program_for("video", _values, policy, seen, masks, keys)


def lens_programs(policy: Policy, spec: EnvironmentSpec) -> tuple[Program[Any], ...]:
    """Return the programs of `under_noise` for policies like `policy`; none without noise."""
    return (_program(policy, spec),) if noisy_layers(policy.network) else ()


def under_noise(
    shots: Iterable[Shot], policy: Policy, spec: EnvironmentSpec, key: PRNGKeyArray
) -> Iterator[tuple[Shot, np.ndarray]]:
    """Yield each shot with its action values under noise [samples, actions].

    There are no samples if no layer of the policy is noisy. Shots are taken `BATCH` at a time.

    Args:
        shots: of a video.
        policy: the policy that plays in it.
        spec: the interface of its environment.
        key: of the video.
    """
    if not noisy_layers(policy.network):
        yield from ((shot, np.zeros((0, len(shot.q)))) for shot in shots)
        return
    keys = jax.random.split(jax.random.fold_in(key, LENS), SAMPLES)
    left = iter(shots)
    while batch := list(itertools.islice(left, BATCH)):
        whole = [*batch, *[batch[-1]] * (BATCH - len(batch))]
        seen = jax.tree.map(lambda *x: np.stack(x), *(shot.seen for shot in whole))
        masks = np.stack([shot.q for shot in whole]) > -np.inf if spec.masked else None
        noisy = np.asarray(_program(policy, spec)(policy, seen, masks, keys))
        noisy = end_to_end(noisy, spec.action_sizes)
        yield from ((shot, noisy[:, i]) for i, shot in enumerate(batch))
