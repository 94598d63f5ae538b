"""From a name or what users pass to an environment. Names are told apart here alone."""

from collections.abc import Callable
from typing import Any

import gymnasium

from noisydqn.config.config import CATCHER, Config
from noisydqn.envs import catcher, gymnax, python
from noisydqn.envs import gymnasium as by_id
from noisydqn.envs.catalogue import Entry
from noisydqn.envs.device import JaxEnvironment
from noisydqn.envs.given import accept
from noisydqn.envs.host import Notices
from noisydqn.envs.protocol import Environment
from noisydqn.imports import PYTHON

AnyEnvironment = (
    Entry | Callable[..., Any] | gymnasium.Env[Any, Any] | JaxEnvironment | tuple[Any, Any] | None
)
"""Environments as users pass them; a tuple holds one in JAX and its parameters, and None is the
environment of the config."""

FAMILIES: dict[str, Callable[[Config, Notices | None], Environment]] = {
    CATCHER: catcher.make,
    gymnax.GYMNAX: gymnax.make,
    PYTHON: python.make,
}
"""What makes the environments of a name, or of the names that start with a prefix "...:". All
other names are ids of Gymnasium."""


def make_environment(
    config: Config, maker: Entry | None = None, notices: Notices | None = None
) -> Environment:
    """Make the environment of a config, or one that `maker` makes or names.

    `notices` is told of what goes wrong in one of Gymnasium's but ends nothing.

    Raises:
        UserError: there is no such environment, or it cannot be used.
    """
    if maker is not None and not isinstance(maker, str):
        return python.make_by(maker, config, notices)
    if maker is not None:
        config = config.replace(env=maker)
    return _family(config.env)(config, notices)


def _family(name: str) -> Callable[[Config, Notices | None], Environment]:
    for key, make in FAMILIES.items():
        if name == key or (key.endswith(":") and name.startswith(key)):
            return make
    return by_id.make


def environment_to_play(config: Config, env: AnyEnvironment) -> Environment:
    """Make the environment of a run, or the given one instead, to play in and not to train in.

    Raises:
        UserError: as `make_environment`, or `env` is no environment.
    """
    entry, brought = accept(env)
    # One instance is enough: options that need several are those of training.
    playing: dict[str, Any] = {"num_envs": 1, "evaluation_every": 0, "stop_at_evaluation": None}
    if entry is not None:  # it need not be made as that of the run was
        playing |= {"env_kwargs": "{}", "max_episode_steps": None, "vectorization": "auto"}
    return make_environment(config.replace(**playing | brought), entry)
