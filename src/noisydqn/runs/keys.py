"""The keys of a run: all of its randomness comes from its seed."""

from typing import NamedTuple

import jax


class SeedKeys(NamedTuple):
    """The independent keys of one seed."""

    training: jax.Array
    selection: jax.Array  # of the evaluations that select the best weights
    report: jax.Array  # of the evaluation in the summary: other episodes than the selection's
    video: jax.Array


def seed_keys(seed: int) -> SeedKeys:
    """Derive the keys of a seed."""
    return SeedKeys(*jax.random.split(jax.random.key(seed), len(SeedKeys._fields)))
