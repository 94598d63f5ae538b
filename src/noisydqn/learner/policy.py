"""A policy: a network and what its observations go through before it sees them."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from noisydqn.nets.network import QNetwork
from noisydqn.preprocessing import frames, normalize


class Policy(eqx.Module):
    """What is saved of a run and what plays: a network and the statistics of its observations."""

    network: QNetwork
    moments: normalize.Moments | None
    clip: float | None = eqx.field(static=True)
    frames: int = eqx.field(static=True)

    def preprocess(self, seen: Shaped[Array, "batch ..."]) -> Float[Array, "batch ..."]:
        """Turn a batch of raw observations, or of stacks of them, into what the network sees."""
        if self.moments is not None:
            x = normalize.normalize(seen, self.moments, self.clip)
        else:
            scale = 1 / 255 if seen.dtype == jnp.uint8 else 1.0
            x = seen.astype(jnp.float32) * scale
        return x if self.frames == 1 else frames.merge(x)

    def act(
        self,
        stack: Shaped[Array, "envs ..."],
        observation: Shaped[Array, "envs ..."],
        started: Bool[Array, " envs"],
        masks: Bool[Array, "envs actions"] | None = None,
    ) -> tuple[Shaped[Array, "envs ..."], Int[Array, " envs"], Float[Array, "envs actions"]]:
        """Choose the greedy actions under mean weights: the one step of all greedy play.

        Args:
            stack: what the last call returned, or `frames.start` of anything of its shape.
            observation: the newest observations, raw.
            started: where an episode starts with them; its frames are stacked anew.
            masks: the valid actions, where the environment has masks.

        Returns:
            The stack with the newest observations, the actions [envs], counted from 0, and the
            action values [envs, actions], -infinity for invalid actions.
        """
        stack = frames.push(stack, observation, started, self.frames)
        q = jax.vmap(self.network, in_axes=(0, None, 0))(self.preprocess(stack), None, masks)
        return stack, jnp.argmax(q, axis=-1).astype(jnp.int32), q
