"""Presets: named configurations, and the choice of one for an environment."""

import re

from noisydqn.config.config import Config, variant_name
from noisydqn.envs.names import ATARI, BSUITE, CATCHER, DEEP_SEA, GYMNAX, MINATAR, namespace, prefix
from noisydqn.presets import parallel, replay

_ALL = (*replay.PRESETS, *parallel.PRESETS)
PRESETS: dict[str, Config] = {config.preset: config for config, _ in _ALL}
DESCRIPTIONS = {config.preset: description for config, description in _ALL}

DEFAULT_PRESET = "catcher"
IN_JAX = "default-jax"
"""The preset of environments in JAX that have no other."""

OWN = {
    CATCHER: "catcher",
    "LunarLander-v3": "lunarlander",
    "CartPole-v1": "cartpole",
    "Acrobot-v1": "acrobot",
    "MountainCar-v0": "mountaincar",
    "Pendulum-v1": "pendulum",
    DEEP_SEA: "deepsea",
    "MinAtar/Breakout-v1": "minatar",
    "ALE/Pong-v5": "atari",
}
"""Presets of single environments."""

FAMILIES = {ATARI: "atari", MINATAR: "minatar", GYMNAX: IN_JAX, BSUITE: "deepsea"}
"""Presets of the environments whose names have a namespace or a prefix."""

DEFAULTS = {"replay": "default", "parallel": "default-parallel"}
"""Presets of the environments that have none, by learner."""

COUNTERPARTS = {
    "cartpole": "cartpole-parallel",
    "cartpole-parallel": "cartpole",
    "acrobot": "acrobot-parallel",
    "acrobot-parallel": "acrobot",
    "lunarlander": "lunarlander-parallel",
    "lunarlander-parallel": "lunarlander",
    "rainbow-lunarlander": "lunarlander-parallel",
    "mountaincar": "default-jax",
    "sparse": "default-jax",
    "minatar": "minatar-replay",
    "minatar-replay": "minatar",
    "atari": "atari-parallel",
    "rainbow": "atari-parallel",
    "atari-parallel": "atari",
    "pong-laptop": "atari",
}
"""For each preset: the one that the other learner has for it, if not its default."""


def config_for(env: str, learner: str | None = None) -> Config:
    """Return the options for an environment: those of its preset or family, or the defaults.

    Args:
        env: the environment.
        learner: the learner that is asked for, if any.
    """
    if env in OWN:
        return with_learner(PRESETS[OWN[env]], learner)
    family = FAMILIES.get(namespace(env)) or FAMILIES.get(prefix(env), "default")
    if prefix(env) == GYMNAX and env.endswith("-MinAtar"):
        family = "minatar"
    config = with_learner(PRESETS[family], learner)
    return config.replace(env=env, preset=re.sub(r"[^\w.-]+", "-", env))


def with_learner(preset: Config, learner: str | None) -> Config:
    """Return a preset or, where another learner is asked for, its counterpart of that learner."""
    if learner not in DEFAULTS or variant_name("learner", preset.learner) == learner:
        return preset
    counterpart = COUNTERPARTS.get(preset.preset, DEFAULTS[learner])
    return PRESETS[counterpart].replace(env=preset.environment.env)
