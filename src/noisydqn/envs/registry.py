"""Making of environments from names and other arguments."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium

from noisydqn.envs import bsuite, catcher, deep_sea, gymnax, python
from noisydqn.envs import gymnasium as by_id
from noisydqn.envs.catalogue import Entry
from noisydqn.envs.given import accept
from noisydqn.envs.jax_interface import JaxEnvironment
from noisydqn.envs.names import BSUITE, CATCHER, DEEP_SEA, GYMNAX, prefix
from noisydqn.envs.notices import Notices
from noisydqn.envs.options import EnvironmentOptions
from noisydqn.envs.protocol import Environment
from noisydqn.imports import PYTHON
from noisydqn.options import field_names

AnyEnvironment = (
    Entry | Callable[..., Any] | gymnasium.Env[Any, Any] | JaxEnvironment | tuple[Any, Any] | None
)
"""An environment as users pass it. A tuple holds an environment in JAX and its parameters; None
means the environment of the options."""

FAMILIES: dict[str, Callable[[EnvironmentOptions, Notices | None], Environment]] = {
    CATCHER: catcher.make,
    DEEP_SEA: deep_sea.make,
    BSUITE: bsuite.make,
    GYMNAX: gymnax.make,
    PYTHON: python.make,
}
"""The function that makes the environments of a name, or of all names with a prefix. All other
names are ids of Gymnasium."""


def make_environment(
    options: EnvironmentOptions, maker: Entry | None = None, notices: Notices | None = None
) -> Environment:
    """Make the environment of the options, or the one that `maker` makes or names.

    `notices` receives lines about problems of a Gymnasium environment that do not end a run.

    Raises:
        UserError: there is no such environment, or it cannot be used.
    """
    if maker is not None and not isinstance(maker, str):
        return python.make_by(maker, options, notices)
    if maker is not None:
        options = dataclasses.replace(options, env=maker)
    make = FAMILIES.get(options.env) or FAMILIES.get(prefix(options.env), by_id.make)
    return make(options, notices)


def environment_to_play(options: EnvironmentOptions, env: AnyEnvironment) -> Environment:
    """Make the environment of a run, or `env` instead, for play rather than training.

    Raises:
        UserError: as `make_environment`, or `env` is not an environment.
    """
    entry, brought = accept(env)
    if entry is not None:  # options of the run's environment do not apply
        options = EnvironmentOptions(env=options.env, step_timeout=options.step_timeout)
    return make_environment(with_brought(options, brought), entry)


def with_brought(options: EnvironmentOptions, brought: Mapping[str, Any]) -> EnvironmentOptions:
    """Return the options, updated by those that an environment from the user brought."""
    own = {name: value for name, value in brought.items() if name in field_names(type(options))}
    return dataclasses.replace(options, **own)
