"""Detection of training that diverged."""

import numpy as np

from noisydqn.errors import DIVERGED, DivergedError
from noisydqn.learner.policy import Policy
from noisydqn.runners.report import SeedChunk
from noisydqn.trees import named


def check_finite(chunk: SeedChunk, policy: Policy, before: int, steps: tuple[int, int]) -> None:
    """Refuse a chunk whose losses, gradients or weights are not finite.

    Args:
        chunk: the chunk.
        policy: the policy after the chunk.
        before: number of updates before the chunk.
        steps: environment steps before and after the chunk.

    Raises:
        DivergedError: a value is NaN or infinite. The message names the values, the layers and the
            update: NaN never goes away, so the finite updates of the chunk came first.
    """
    num_updates = chunk.updates - before
    finite = round(np.nan_to_num(chunk.metrics["finite"] * num_updates)) if num_updates else 0
    bad = [name for name, x in named(policy).items() if not np.isfinite(np.asarray(x)).all()]
    if finite == num_updates and not bad:
        return
    values = ", ".join(f"{name} {chunk.metrics[name]}" for name in ("loss", "gradient_norm"))
    layers = (
        f"{len(bad)} arrays of weights are not finite, first {bad[0]}"
        if bad
        else "all weights are finite"
    )
    first = before + finite + 1 if finite < num_updates else chunk.updates
    raise DivergedError(
        f"{DIVERGED} at update {first:,}, between steps {steps[0]:,} and {steps[1]:,} "
        f"({values}; {layers}): lower --learning-rate, or look for extreme rewards and observations"
    )
