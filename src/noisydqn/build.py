"""From a config to the parts of a run."""

import math
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PRNGKeyArray

from noisydqn.config.config import Config
from noisydqn.distributions import DISTRIBUTIONS, Distribution
from noisydqn.distributions.bootstrap import Munchausen
from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.errors import UserError
from noisydqn.imports import PYTHON
from noisydqn.learner.agent import Agent
from noisydqn.learner.policy import Policy
from noisydqn.learner.replay import Replay
from noisydqn.nets.network import QNetwork
from noisydqn.nets.noisy import noisy_layers
from noisydqn.nets.torsos import (
    ConvTorso,
    Flatten,
    ImpalaTorso,
    MLPTorso,
    NotebookTorso,
    Torso,
    UserTorso,
)
from noisydqn.options import field_names
from noisydqn.preprocessing import frames, normalize

Value = TypeVar("Value", int, float, tuple[int, ...])

CONV_LAYERS = {
    "catcher": ((16, 6, 3), (32, 3, 2)),
    "minatar": ((16, 3, 1),),
    "nature": ((32, 8, 4), (64, 4, 2), (64, 3, 1)),
}
"""(channels, size, stride) of each convolution of a torso."""

NATURE_PIXELS, MINATAR_PIXELS = 36, 3
"""The smallest images for which "auto" takes these torsos."""


def make_policy(config: Config, spec: EnvironmentSpec, key: PRNGKeyArray) -> Policy:
    """A policy with fresh weights for an environment."""
    observation = spec.observation
    running = config.normalize_observations == "running"
    moments = normalize.init(observation.shape).rounded if running else None
    shape = observation.shape
    if config.frame_stack > 1:
        stack = jax.ShapeDtypeStruct((1, config.frame_stack, *shape), jnp.float32)
        shape = jax.eval_shape(frames.merge, stack).shape[1:]
    torso_key, network_key, sigma_key = jax.random.split(key, 3)
    network = QNetwork(
        _make_torso(config, torso_name(config, observation), shape, torso_key),
        config.hidden,
        spec.num_actions,
        distribution=make_distribution(config),
        dueling=config.dueling,
        dueling_hidden=config.dueling_hidden,
        noisy=config.noisy,
        noisy_hidden=config.noise_in == "all",
        layer_norm=config.layer_norm,
        noise=config.noise,
        sigma_init=config.sigma_init,
        key=network_key,
    )
    if config.noisy and config.sigma_distribution == "kaiming-uniform":
        network = _with_kaiming_sigmas(network, sigma_key)
    return Policy(network, moments, config.observation_clip, config.frame_stack)


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


def choose_torso(shape: tuple[int, ...], dtype: Any) -> str:
    """Choose the torso that "auto" stands for, by shape and type of one stored observation.

    Convolutions are for images and boards, [height, width, channels] of any type, or
    [height, width] of bytes or booleans. Other numbers [h, w], such as stacked vectors, are flat.
    """
    has_planes = len(shape) == 3 or (len(shape) == 2 and np.dtype(dtype).kind in "ub")
    if not has_planes or min(shape[:2]) < MINATAR_PIXELS:
        return "flat"
    return "nature" if min(shape[:2]) >= NATURE_PIXELS else "minatar"


def torso_name(config: Config, observation: jax.ShapeDtypeStruct) -> str:
    """Name the torso that a config has for observations that are stored like this.

    Raises:
        UserError: it has convolutions, for which the observations are no images or too small.
    """
    shape = observation.shape
    if config.torso == "auto":
        return choose_torso(shape, observation.dtype)
    least = 0
    if config.torso in CONV_LAYERS:
        least = 1
        for _, size, stride in reversed(CONV_LAYERS[config.torso]):
            least = (least - 1) * stride + size
    elif config.torso == "notebook":
        least = NotebookTorso.SMALLEST
    elif config.torso == "impala":
        least = 1
    if least > 0 and (len(shape) not in (2, 3) or min(shape) < 1 or min(shape[:2]) < least):
        raise UserError(
            f"--torso {config.torso} needs images of {least} x {least} or more, but observations "
            f"are {list(shape)}: choose --torso auto, flat or mlp"
        )
    return config.torso


def _make_torso(config: Config, name: str, shape: tuple[int, ...], key: PRNGKeyArray) -> Torso:
    if name == "flat":
        return Flatten(int(np.prod(shape)))
    if name == "mlp":
        widths = _given(config.torso_widths, (128, 128))
        return MLPTorso(int(np.prod(shape)), widths, layer_norm=config.layer_norm, key=key)
    if name == "impala":
        return ImpalaTorso(shape, _given(config.torso_widths, (16, 32, 32)), key=key)
    if name.startswith(PYTHON):
        return UserTorso.make(name, shape, key)
    if name == "notebook":
        return NotebookTorso(shape, key=key)
    return ConvTorso(shape, CONV_LAYERS[name], key=key)


def _given(value: Value | None, default: Value) -> Value:
    return default if value is None else value


def make_distribution(config: Config) -> Distribution:
    """Make the distribution of a config, with its defaults for options that are not given."""
    kind = DISTRIBUTIONS[config.distribution]
    options = {name: getattr(config, name) for name in field_names(kind)}
    return kind(**{name: value for name, value in options.items() if value is not None})


def _make_optimizer(config: Config) -> optax.GradientTransformation:
    start, final = config.learning_rate, config.learning_rate_final
    rate = start if final is None else optax.linear_schedule(start, final, config.schedule_updates)
    if config.optimizer == "adamw":
        optimizer = optax.adamw(rate, eps=config.adam_epsilon, weight_decay=config.weight_decay)
    else:
        optimizer = optax.adam(rate, eps=config.adam_epsilon)
    if config.max_gradient_norm is None:
        return optimizer
    return optax.chain(optax.clip_by_global_norm(config.max_gradient_norm), optimizer)


def make_agent(config: Config) -> Agent:
    """The learning rule of a config."""
    munchausen = Munchausen(
        scale=_given(config.munchausen_scale, 0.9),
        temperature=_given(config.munchausen_temperature, 0.03),
        minimum=_given(config.munchausen_minimum, -1.0),
    )
    return Agent(
        optimizer=_make_optimizer(config),
        double=config.double,
        munchausen=munchausen if config.munchausen else None,
        target_period=config.target_period,
        target_rate=config.target_rate,
        sigma_penalty=config.sigma_penalty,
    )


def make_replay(config: Config) -> Replay:
    """The replay memory of a config."""
    return Replay(
        capacity=config.replay_capacity,
        num_envs=config.num_envs,
        n_step=config.n_step,
        discount=config.discount,
        prioritized=config.replay == "prioritized",
        priority_offset=config.priority_offset,
        frames=config.frame_stack,
    )
