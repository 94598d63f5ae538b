"""A policy: a network and what its observations go through before it sees them."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from noisydqn.nets.network import QNetwork
from noisydqn.preprocessing import frames, normalize


class Policy(eqx.Module):
    """What is saved of a run and what plays: a network and the statistics of its observations."""

    network: QNetwork
    moments: normalize.Moments | None
    clip: float | None = eqx.field(static=True)
    frames: int = eqx.field(static=True)

    def preprocess(self, seen: Shaped[Array, "batch ..."]) -> Float[Array, "batch ..."]:
        """What the network sees of a batch of raw observations, or of stacks of them."""
        if self.moments is not None:
            x = normalize.normalize(seen, self.moments, self.clip)
        else:
            scale = 1 / 255 if seen.dtype == jnp.uint8 else 1.0
            x = seen.astype(jnp.float32) * scale
        return x if self.frames == 1 else frames.merge(x)
