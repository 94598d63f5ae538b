"""A look at exploration: what the noise of a network is worth, and how the explorer stands."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from noisydqn.learner.agent import values
from noisydqn.nets.network import QNetwork
from noisydqn.nets.noisy import mean_abs_sigma, noisy_layers, sample_noise

PROBE_SAMPLES, PROBE_OBSERVATIONS = 8, 32
"""Noise samples and recent observations on which greedy actions are compared."""


class Probe(NamedTuple):
    """The worth of a network's noise at some moment."""

    sigma: Float[Array, " layers"]  # mean |sigma| of each noisy layer
    action_change: Float[Array, ""]  # share of observations where noise changes the greedy action
    exploration: dict[str, Float[Array, ""]]  # the explorer's metrics


def probe_noise(
    network: QNetwork,
    observations: Float[Array, "batch ..."],
    masks: Bool[Array, "batch actions"] | None,
    exploration: dict[str, Float[Array, ""]],
    key: PRNGKeyArray,
) -> Probe:
    """Measure sigma, and how often noise changes the greedy action on some observations."""
    layers = noisy_layers(network).values()
    if not layers:
        return Probe(jnp.zeros(0), jnp.float32(0), exploration)
    mean_action = jnp.argmax(values(network, observations, None, masks), axis=-1)

    def changed(key: PRNGKeyArray) -> Array:
        q = values(network, observations, sample_noise(network, key), masks)
        return jnp.argmax(q, axis=-1) != mean_action

    change = jnp.mean(jax.lax.map(changed, jax.random.split(key, PROBE_SAMPLES)))
    sigma = jnp.stack([mean_abs_sigma(layer) for layer in layers])
    return Probe(sigma, change, exploration)
