"""From a config to its environment: in JAX where there is one, else Gymnasium's."""

import importlib
import json

from noisydqn.config import CATCHER, Config
from noisydqn.envs import device
from noisydqn.envs.catalogue import Maker
from noisydqn.envs.catcher import CatcherPixels
from noisydqn.envs.device import DeviceEnvironment
from noisydqn.envs.host import HostEnvironment
from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.errors import UserError

GYMNAX, PYTHON = "gymnax:", "python:"


def make_environment(
    config: Config, maker: Maker | None = None
) -> DeviceEnvironment | HostEnvironment:
    """The environment of a config, or one that `maker` makes.

    Raises:
        UserError: there is no such environment, or it cannot be used.
    """
    if maker is not None:
        return HostEnvironment.create(config, maker)
    if config.env.startswith(PYTHON):
        return HostEnvironment.create(config, _find_maker(config.env))
    if config.env == CATCHER:
        if json.loads(config.env_kwargs):
            raise UserError(f"--env-kwargs: {CATCHER} takes none")
        env = CatcherPixels()
    elif config.env.startswith(GYMNAX):
        from noisydqn.envs.gymnax import GymnaxEnvironment

        env = GymnaxEnvironment.create(config.env.removeprefix(GYMNAX), config.env_kwargs)
    else:
        return HostEnvironment.create(config, config.env)
    if config.vectorisation != "auto":
        raise UserError(
            f"--vectorisation {config.vectorisation} is for environments of Gymnasium; "
            f"{config.env} is in JAX"
        )
    limit = config.max_episode_steps
    return env if limit is None else device.TimeLimit(env, limit)


def environment_spec(env: DeviceEnvironment | HostEnvironment) -> EnvironmentSpec:
    """The interface of an environment."""
    return env.spec if isinstance(env, HostEnvironment) else device.environment_spec(env)


def maker_name(maker: Maker) -> str:
    """The name under which a maker is kept in a config: `"python:module.function"`."""
    name = getattr(maker, "__qualname__", type(maker).__qualname__)
    return f"{PYTHON}{getattr(maker, '__module__', '')}.{name}"


def _find_maker(name: str) -> Maker:
    module, _, function = name.removeprefix(PYTHON).rpartition(".")
    try:
        maker = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"{name} names nothing that can be imported ({error}): name a function in a module of "
            "this folder or of an installed package"
        ) from error
    return maker
