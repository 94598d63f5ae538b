"""A policy: a network and what its observations go through before it sees them."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from noisydqn.nets.network import QNetwork
from noisydqn.preprocessing import frames, normalize
from noisydqn.preprocessing.moments import Rounded
from noisydqn.types import Mixed


class Policy(eqx.Module):
    """What is saved of a run and what plays: a network and the statistics of its observations."""

    network: QNetwork
    moments: Rounded | None  # of an array, or of each vector beside images
    clip: float | None = eqx.field(static=True)
    frames: int = eqx.field(static=True)

    def preprocess(self, seen: Shaped[Array, "batch ..."] | Mixed) -> Any:
        """Turn a batch of raw observations, or of stacks of them, into what the network sees."""
        if isinstance(seen, Mixed):
            images = {path: self._merged(_scaled(x)) for path, x in seen.images.items()}
            return Mixed(images, {path: self._vector(path, x) for path, x in seen.vectors.items()})
        if isinstance(self.moments, normalize.Moments):
            return self._merged(normalize.normalize(seen, self.moments, self.clip))
        return self._merged(_scaled(seen))

    def _merged(self, x: Float[Array, "batch ..."]) -> Float[Array, "batch ..."]:
        return x if self.frames == 1 else frames.merge(x)

    def _vector(self, path: str, x: Float[Array, "batch size"]) -> Float[Array, "batch size"]:
        """Preprocess a vector beside images."""
        if isinstance(self.moments, dict):
            return normalize.normalize(x, self.moments[path], self.clip)
        return x

    def act(
        self,
        stack: Shaped[Array, "envs ..."] | Mixed,
        observation: Shaped[Array, "envs ..."] | Mixed,
        started: Bool[Array, " envs"],
        masks: Bool[Array, "envs actions"] | None = None,
    ) -> tuple[Any, Int[Array, " envs *d"], Float[Array, "envs *d actions"]]:
        """Choose the greedy actions under mean weights: the one step of all greedy play.

        Args:
            stack: what the last call returned, or `frames.start` of anything of its shape.
            observation: the newest observations, raw.
            started: where an episode starts with them; its frames are stacked anew.
            masks: the valid actions, where the environment has masks.

        Returns:
            The stack with the newest observations, the actions [envs], counted from 0, and the
            action values [envs, actions], -infinity for invalid actions. With several dimensions
            the actions are [envs, D] and the values [envs, D, n].
        """
        stack = frames.push(stack, observation, started, self.frames)
        q = jax.vmap(self.network, in_axes=(0, None, 0))(self.preprocess(stack), None, masks)
        return stack, jnp.argmax(q, axis=-1).astype(jnp.int32), q


def _scaled(x: Shaped[Array, "batch ..."]) -> Float[Array, "batch ..."]:
    """Divide bytes by 255, and leave other numbers as they are."""
    scale = 1 / 255 if x.dtype == jnp.uint8 else 1.0
    return x.astype(jnp.float32) * scale
