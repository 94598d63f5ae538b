"""Environments that a user's function makes, given by name (`python:module.function`) or itself."""

from noisydqn.envs.catalogue import Entry
from noisydqn.envs.device import DeviceEnvironment
from noisydqn.envs.host import HostEnvironment
from noisydqn.envs.notices import Notices
from noisydqn.envs.options import EnvironmentOptions
from noisydqn.envs.protocol import Environment
from noisydqn.errors import MadeInJaxError
from noisydqn.imports import find


def make(options: EnvironmentOptions, notices: Notices | None = None) -> Environment:
    """Make an environment by the function that its name finds.

    Raises:
        UserError: the function is not found, or as `make_by`.
    """
    return make_by(find(options.env), options, notices)


def make_by(
    maker: Entry, options: EnvironmentOptions, notices: Notices | None = None
) -> Environment:
    """Make an environment by a function that returns one of Gymnasium or one in JAX.

    The function is called once to see which of the two it returns.

    Raises:
        UserError: it cannot be made or used.
    """
    try:
        return HostEnvironment.create(options, maker, notices)
    except MadeInJaxError as made:
        return DeviceEnvironment.from_options(options, made.env, made.params)
