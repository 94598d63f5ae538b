"""From a name or what users pass to an environment. Names are told apart here alone."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium

from noisydqn.envs import catcher, gymnax, python
from noisydqn.envs import gymnasium as by_id
from noisydqn.envs.catalogue import Entry
from noisydqn.envs.given import accept
from noisydqn.envs.jax_interface import JaxEnvironment
from noisydqn.envs.notices import Notices
from noisydqn.envs.options import CATCHER, EnvironmentOptions
from noisydqn.envs.protocol import Environment
from noisydqn.imports import PYTHON
from noisydqn.options import field_names

AnyEnvironment = (
    Entry | Callable[..., Any] | gymnasium.Env[Any, Any] | JaxEnvironment | tuple[Any, Any] | None
)
"""Environments as users pass them; a tuple holds one in JAX and its parameters, and None is the
environment of the options."""

FAMILIES: dict[str, Callable[[EnvironmentOptions, Notices | None], Environment]] = {
    CATCHER: catcher.make,
    gymnax.GYMNAX: gymnax.make,
    PYTHON: python.make,
}
"""What makes the environments of a name, or of the names that start with a prefix "...:". All
other names are ids of Gymnasium."""


def make_environment(
    options: EnvironmentOptions, maker: Entry | None = None, notices: Notices | None = None
) -> Environment:
    """Make the environment of the options, or one that `maker` makes or names.

    `notices` is told of what goes wrong in one of Gymnasium's but ends nothing.

    Raises:
        UserError: there is no such environment, or it cannot be used.
    """
    if maker is not None and not isinstance(maker, str):
        return python.make_by(maker, options, notices)
    if maker is not None:
        options = dataclasses.replace(options, env=maker)
    return _family(options.env)(options, notices)


def _family(name: str) -> Callable[[EnvironmentOptions, Notices | None], Environment]:
    for key, make in FAMILIES.items():
        if name == key or (key.endswith(":") and name.startswith(key)):
            return make
    return by_id.make


def environment_to_play(options: EnvironmentOptions, env: AnyEnvironment) -> Environment:
    """Make the environment of a run, or the given one instead, to play in and not to train in.

    Raises:
        UserError: as `make_environment`, or `env` is no environment.
    """
    entry, brought = accept(env)
    if entry is not None:  # it need not be made as that of the run was
        options = EnvironmentOptions(env=options.env, step_timeout=options.step_timeout)
    return make_environment(with_brought(options, brought), entry)


def with_brought(options: EnvironmentOptions, brought: Mapping[str, Any]) -> EnvironmentOptions:
    """Return the options with those that an environment brought which was handed in."""
    own = {name: value for name, value in brought.items() if name in field_names(type(options))}
    return dataclasses.replace(options, **own)
