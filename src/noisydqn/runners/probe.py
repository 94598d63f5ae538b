"""A look at a run: what the noise is worth, how the explorer stands, what is learned from."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Shaped

from noisydqn.learner import lens
from noisydqn.learner.agent import values
from noisydqn.nets.network import QNetwork
from noisydqn.nets.noisy import mean_abs_sigma, noisy_layers
from noisydqn.shards import ONE, Shards
from noisydqn.types import Mixed

PROBE_SAMPLES, PROBE_OBSERVATIONS = 32, 32
"""Noise samples and recent observations on which action values are compared."""

MOST_ROWS, FEWEST_ROWS = 256, 32
"""Observations in which elements are looked for that never change; with fewer, none is."""


class Probe(NamedTuple):
    """The worth of a network's noise at some moment, and what is learned from."""

    sigma: Float[Array, " layers"]  # mean |sigma| of each noisy layer
    action_change: Float[Array, ""]  # share of observations where noise changes the greedy action
    noise: dict[str, Float[Array, ""]]  # what else noise does; nothing without noisy layers
    exploration: dict[str, Float[Array, ""]]  # the explorer's metrics
    data: dict[str, Float[Array, ""]]  # as `probe_data` returns it


def probe_data(
    rewards: Float[Array, "..."],
    observations: Shaped[Array, "rows ..."],
    rows: Int[Array, ""],
    shards: Shards = ONE,
) -> dict[str, Float[Array, ""]]:
    """Measure what is learned from.

    Args:
        rewards: as they are learned from, clipped and scaled; where there is none yet, 0.
        observations: some of those that are kept, as they are stored.
        rows: how many different ones are among them.
        shards: the devices that have such data; all of it counts.

    Returns:
        The least and the greatest reward, and the number of elements that are the same in all
        observations: NaN where these are not vectors of numbers, or too few.
    """
    constant = jnp.float32(jnp.nan)
    if observations.ndim == 2 and jnp.issubdtype(observations.dtype, jnp.floating):
        observations, rows = shards.joined(observations), shards.total(rows)
        same = jnp.sum(jnp.all(observations == observations[:1], axis=0), dtype=jnp.float32)
        constant = jnp.where(rows < FEWEST_ROWS, jnp.nan, same)
    return {
        "reward_min": shards.least(jnp.min(rewards)),
        "reward_max": shards.greatest(jnp.max(rewards)),
        "constant_observations": constant,
    }


def probe_noise(
    network: QNetwork,
    observations: Float[Array, "batch ..."] | Mixed,
    masks: Bool[Array, "batch actions"] | None,
    exploration: dict[str, Float[Array, ""]],
    data: dict[str, Float[Array, ""]],
    key: PRNGKeyArray,
) -> Probe:
    """Measure sigma, and what noise does to values and greedy actions on some observations."""
    layers = noisy_layers(network).values()
    if not layers:
        return Probe(jnp.zeros(0), jnp.float32(0), {}, exploration, data)
    mean_q = values(network, observations, None, masks)
    keys = jax.random.split(key, PROBE_SAMPLES)
    q = lens.values_under_noise(network, observations, keys, masks)
    noise = {
        "q_spread": lens.q_spread(q),
        "action_gap": lens.action_gap(mean_q),
        "action_entropy": lens.action_entropy(q),
    }
    sigma = jnp.stack([mean_abs_sigma(layer) for layer in layers])
    return Probe(sigma, lens.action_change(q, mean_q), noise, exploration, data)


def of_all(probe: Probe, shards: Shards) -> Probe:
    """Average over devices what each measured on observations and with an explorer of its own."""
    own = probe.action_change, probe.noise, probe.exploration
    action_change, noise, exploration = shards.mean(own)
    return probe._replace(action_change=action_change, noise=noise, exploration=exploration)
