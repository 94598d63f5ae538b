"""From a config to the parts of a run."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray, Shaped

from noisydqn import losses
from noisydqn.agent import Agent
from noisydqn.config import Config
from noisydqn.envs import normalise
from noisydqn.envs.catcher import CatcherPixels
from noisydqn.envs.device import DeviceEnvironment
from noisydqn.networks import ConvTorso, Flatten, NotebookTorso, QNetwork, Torso
from noisydqn.noisy import noisy_layers
from noisydqn.replay import Replay

CONV_LAYERS = ((16, 6, 3), (32, 3, 2))
"""The tuned torso for Catcher: (channels, size, stride) of each convolution."""


class Policy(eqx.Module):
    """What is saved of a run and what plays: a network and the statistics of its observations."""

    network: QNetwork
    moments: normalise.Moments | None
    clip: float | None = eqx.field(static=True)

    def preprocess(self, observations: Shaped[Array, "..."]) -> Float[Array, "..."]:
        """What the network sees of raw observations."""
        if self.moments is not None:
            return normalise.normalise(observations, self.moments, self.clip)
        scale = 1 / 255 if observations.dtype == jnp.uint8 else 1.0
        return observations.astype(jnp.float32) * scale


def make_environment(config: Config) -> DeviceEnvironment:
    """The environment of a config."""
    del config  # so far there is one
    return CatcherPixels()


def make_policy(config: Config, env: DeviceEnvironment, key: PRNGKeyArray) -> Policy:
    """A policy with fresh weights for `env`."""
    observation = jax.eval_shape(lambda: env.observe(env.reset_env(key, env.default_params)[1]))
    torso_key, head_key, sigma_key = jax.random.split(key, 3)
    network = QNetwork(
        _make_torso(config, observation.shape, torso_key),
        config.hidden,
        env.num_actions,
        dueling=config.dueling,
        noise=config.noise,
        sigma_init=config.sigma_init,
        key=head_key,
    )
    if config.sigma_distribution == "kaiming-uniform":
        network = _with_kaiming_sigmas(network, sigma_key)
    running = config.normalise_observations == "running"
    moments = normalise.init(observation.shape) if running else None
    return Policy(network, moments, config.observation_clip)


def _with_kaiming_sigmas(network: QNetwork, key: PRNGKeyArray) -> QNetwork:
    """Every constant sigma s of a layer with p inputs, drawn anew within ±s * sqrt(6 / p)."""

    def sigmas(network: QNetwork) -> list[Array]:
        layers = noisy_layers(network).values()
        return [sigma for layer in layers for sigma in (layer.weight_sigma, layer.bias_sigma)]

    inputs = [layer.in_features for layer in noisy_layers(network).values() for _ in range(2)]
    drawn = [
        sigma * math.sqrt(6 / p) * jax.random.uniform(sigma_key, sigma.shape, minval=-1)
        for sigma, p, sigma_key in zip(
            sigmas(network), inputs, jax.random.split(key, len(inputs)), strict=True
        )
    ]
    return eqx.tree_at(sigmas, network, drawn)


def _make_torso(config: Config, shape: tuple[int, ...], key: PRNGKeyArray) -> Torso:
    if config.torso == "flat":
        return Flatten(int(np.prod(shape)))
    if config.torso == "notebook":
        return NotebookTorso(shape, key=key)
    return ConvTorso(shape, CONV_LAYERS, key=key)


def make_agent(config: Config) -> Agent:
    """The learning rule of a config."""
    start, final = config.learning_rate, config.learning_rate_final
    rate = start if final is None else optax.linear_schedule(start, final, config.schedule_updates)
    if config.optimiser == "adamw":
        optimiser = optax.adamw(rate, eps=config.adam_epsilon, weight_decay=config.weight_decay)
    else:
        optimiser = optax.adam(rate, eps=config.adam_epsilon)
    return Agent(
        optimiser=optimiser,
        loss=losses.smooth_l1 if config.loss == "smooth-l1" else losses.squared,
        double=config.double,
        target_period=config.target_period,
        sigma_penalty=config.sigma_penalty,
    )


def make_replay(config: Config) -> Replay:
    """The replay memory of a config."""
    return Replay(
        capacity=config.replay_capacity,
        num_envs=config.num_envs,
        n_step=config.n_step,
        discount=config.discount,
        prioritised=config.replay == "prioritised",
        priority_offset=config.priority_offset,
    )
