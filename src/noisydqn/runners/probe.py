"""A look at exploration: what the noise of a network is worth, and how the explorer stands."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from noisydqn.learner import lens
from noisydqn.learner.agent import values
from noisydqn.nets.network import QNetwork
from noisydqn.nets.noisy import mean_abs_sigma, noisy_layers

PROBE_SAMPLES, PROBE_OBSERVATIONS = 32, 32
"""Noise samples and recent observations on which action values are compared."""


class Probe(NamedTuple):
    """The worth of a network's noise at some moment."""

    sigma: Float[Array, " layers"]  # mean |sigma| of each noisy layer
    action_change: Float[Array, ""]  # share of observations where noise changes the greedy action
    noise: dict[str, Float[Array, ""]]  # what else noise does; nothing without noisy layers
    exploration: dict[str, Float[Array, ""]]  # the explorer's metrics


def probe_noise(
    network: QNetwork,
    observations: Float[Array, "batch ..."],
    exploration: dict[str, Float[Array, ""]],
    key: PRNGKeyArray,
) -> Probe:
    """Measure sigma, and what noise does to values and greedy actions on some observations."""
    layers = noisy_layers(network).values()
    if not layers:
        return Probe(jnp.zeros(0), jnp.float32(0), {}, exploration)
    mean_q = values(network, observations, None)
    q = lens.values_under_noise(network, observations, jax.random.split(key, PROBE_SAMPLES))
    noise = {
        "q_spread": lens.q_spread(q),
        "action_gap": lens.action_gap(mean_q),
        "action_entropy": lens.action_entropy(q),
    }
    sigma = jnp.stack([mean_abs_sigma(layer) for layer in layers])
    return Probe(sigma, lens.action_change(q, mean_q), noise, exploration)
