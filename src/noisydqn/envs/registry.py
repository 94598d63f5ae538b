"""From a config to its environment: in JAX where there is one, else Gymnasium's."""

import json
from typing import Any

import gymnasium

from noisydqn.config.config import CATCHER, Config
from noisydqn.envs import device
from noisydqn.envs.catalogue import Entry
from noisydqn.envs.catcher import CatcherPixels
from noisydqn.envs.device import DeviceEnvironment
from noisydqn.envs.given import accept
from noisydqn.envs.host import HostEnvironment, Notices
from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.errors import UserError
from noisydqn.imports import PYTHON, find

GYMNAX = "gymnax:"

AnyEnvironment = Entry | gymnasium.Env[Any, Any] | None
"""Environments as users pass them; None is that of the config."""


def make_environment(
    config: Config, maker: Entry | None = None, notices: Notices | None = None
) -> DeviceEnvironment | HostEnvironment:
    """The environment of a config, or one that `maker` makes or names.

    `notices` is told of what goes wrong in one of Gymnasium's but ends nothing.

    Raises:
        UserError: there is no such environment, or it cannot be used.
    """
    if isinstance(maker, str):
        config = config.replace(env=maker)
    elif maker is not None:
        return HostEnvironment.create(config, maker, notices)
    if config.env.startswith(PYTHON):
        return HostEnvironment.create(config, find(config.env), notices)
    if config.env == CATCHER:
        if json.loads(config.env_kwargs):
            raise UserError(f"--env-kwargs: {CATCHER} takes none")
        env = CatcherPixels()
    elif config.env.startswith(GYMNAX):
        from noisydqn.envs.gymnax import GymnaxEnvironment

        env = GymnaxEnvironment.create(config.env.removeprefix(GYMNAX), config.env_kwargs)
    else:
        return HostEnvironment.create(config, config.env, notices)
    if config.vectorization != "auto":
        raise UserError(
            f"--vectorization {config.vectorization} is for environments of Gymnasium; "
            f"{config.env} is in JAX"
        )
    limit = config.max_episode_steps
    return env if limit is None else device.TimeLimit(env, limit)


def environment_to_play(config: Config, env: AnyEnvironment) -> DeviceEnvironment | HostEnvironment:
    """The environment of a run, or one that is given instead, to play in and not to train in.

    Raises:
        UserError: as `make_environment`, or `env` is no environment.
    """
    entry, brought = accept(env)
    # One instance is enough: options that need several are those of training.
    playing: dict[str, Any] = {"num_envs": 1, "evaluation_every": 0, "stop_at_evaluation": None}
    if entry is not None:  # it need not be made as that of the run was
        playing |= {"env_kwargs": "{}", "max_episode_steps": None, "vectorization": "auto"}
    return make_environment(config.replace(**playing | brought), entry)


def environment_spec(env: DeviceEnvironment | HostEnvironment) -> EnvironmentSpec:
    """The interface of an environment."""
    return env.spec if isinstance(env, HostEnvironment) else device.environment_spec(env)
