"""Whether training is still made of numbers."""

import numpy as np

from noisydqn.errors import DivergedError
from noisydqn.learner.policy import Policy
from noisydqn.runners.report import SeedChunk
from noisydqn.trees import named


def check(chunk: SeedChunk, policy: Policy, before: int, steps: tuple[int, int]) -> None:
    """Check what a chunk learned.

    Args:
        chunk: what happened in it.
        policy: as it is after it.
        before: updates made before it.
        steps: environment steps before it and after.

    Raises:
        DivergedError: something is NaN or infinite. It says what, in which layers, and since which
            update: NaN never goes away, so the updates that were finite came first.
    """
    made = chunk.updates - before
    finite = round(chunk.metrics["finite"] * made) if made else 0
    bad = [name for name, x in named(policy).items() if not np.isfinite(np.asarray(x)).all()]
    if finite == made and not bad:
        return
    values = ", ".join(f"{name} {chunk.metrics[name]}" for name in ("loss", "gradient_norm"))
    layers = (
        f"{len(bad)} arrays of weights are not finite, first {bad[0]}"
        if bad
        else ("all weights are finite")
    )
    since = f"update {before + finite + 1:,}" if finite < made else f"update {chunk.updates:,}"
    raise DivergedError(
        f"training diverged at {since}, between steps {steps[0]:,} and {steps[1]:,} ({values}; "
        f"{layers}): lower --learning-rate, or look for extreme rewards and observations"
    )
