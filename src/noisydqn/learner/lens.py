"""The noise lens: action values under many noise samples, and what they say of the noise."""

from functools import partial

import jax
import jax.numpy as jnp
from jax.scipy.special import entr
from jaxtyping import Array, Bool, Float, Key

from noisydqn.nets.network import QNetwork, features
from noisydqn.nets.noisy import NetworkNoise, sample_noise
from noisydqn.types import Mixed

HELD = 8
"""Noise samples that are in memory at once."""


def values_under_noise(
    network: QNetwork,
    observations: Float[Array, "batch ..."] | Mixed,
    keys: Key[Array, " samples"],
    masks: Bool[Array, "batch actions"] | None = None,
) -> Float[Array, "samples batch *d actions"]:
    """Compute the action values of a batch under a noise sample for each key.

    A batch shares each sample. The torso, which has no noise, sees the batch once.

    Args:
        network: with noisy layers.
        observations: of the batch, preprocessed.
        keys: of the samples, a multiple of `HELD`.
        masks: the valid actions; the value of others is -infinity. None if all are valid.
    """
    seen = features(network, observations)

    def under_one(noise: NetworkNoise) -> Float[Array, "batch *d actions"]:
        return jax.vmap(network.values, in_axes=(0, None, 0))(seen, noise, masks)

    def under_some(keys: Key[Array, " held"]) -> Float[Array, "held batch *d actions"]:
        # Outside of the inner loop: XLA would compute a sample anew for every weight it enters.
        samples = jax.vmap(partial(sample_noise, network))(keys)
        return jax.lax.map(under_one, samples)

    return jnp.concatenate(jax.lax.map(under_some, keys.reshape(-1, HELD)))


def action_change(
    q: Float[Array, "samples *batch actions"], mean_q: Float[Array, "*batch actions"]
) -> Float[Array, ""]:
    """Compute how often the greedy action under noise is not that of the mean weights.

    With several dimensions, how often the choice in one is not: the mean over dimensions.
    """
    return jnp.mean(jnp.argmax(q, axis=-1) != jnp.argmax(mean_q, axis=-1))


def q_spread(q: Float[Array, "samples *batch actions"]) -> Float[Array, ""]:
    """Compute the standard deviation over noise samples, averaged over a batch's valid actions."""
    return jnp.mean(jnp.std(q, axis=0, ddof=1), where=jnp.isfinite(q[0]))


def action_gap(mean_q: Float[Array, "*batch actions"]) -> Float[Array, ""]:
    """Compute how far the best action's value lies above the second best, averaged over a batch.

    With several dimensions it is the gap between the choices in one, averaged over them, too. The
    gap is 0 where a single action is valid.
    """
    best = jnp.sort(mean_q, axis=-1)[..., -2:]
    return jnp.mean(jnp.where(best[..., 0] == -jnp.inf, 0, best[..., -1] - best[..., 0]))


def action_entropy(q: Float[Array, "samples *batch actions"]) -> Float[Array, ""]:
    """Compute the entropy of the greedy action under noise, in nats, averaged over a batch.

    With several dimensions it is that of the choice in one, averaged over them, too.

    The entropy is that of the shares of samples in which each action is greedy. With K samples it
    is at most log(K), and some (actions - 1) / 2K below the true one (Miller 1955).
    """
    shares = jnp.mean(jax.nn.one_hot(jnp.argmax(q, axis=-1), q.shape[-1]), axis=0)
    return jnp.mean(jnp.sum(entr(shares), axis=-1))
