"""Environments of gymnax, by name: `gymnax:CartPole-v1`."""

import difflib
import json

from noisydqn.envs.device import DeviceEnvironment
from noisydqn.envs.names import GYMNAX
from noisydqn.envs.notices import Notices
from noisydqn.envs.options import EnvironmentOptions
from noisydqn.errors import UserError, in_one_line


def make(options: EnvironmentOptions, notices: Notices | None = None) -> DeviceEnvironment:
    """Make an environment of gymnax by its name.

    Raises:
        UserError: gymnax is not installed or has no such environment, the environment cannot be
            made, or its actions are not discrete.
    """
    del notices
    name, kwargs = options.env.removeprefix(GYMNAX), options.env_kwargs
    try:
        import gymnax
    except ImportError as error:
        raise UserError(
            f"{options.env} needs a package that is not installed ({error}): "
            "pip install 'noisydqn[gymnax]'"
        ) from error
    if name not in gymnax.registered_envs:
        near = difflib.get_close_matches(name, gymnax.registered_envs, n=3, cutoff=0.4)
        known = ", ".join(near or gymnax.registered_envs)
        raise UserError(f"no environment '{options.env}': there are {known}")
    try:
        env, params = gymnax.make(name, **json.loads(kwargs))
    except Exception as error:  # of an installed package, which may raise anything
        reason = in_one_line(error)
        raise UserError(f"{options.env} with --env-kwargs {kwargs}: {reason}") from error
    key = f"{options.env} {kwargs} {params}"
    return DeviceEnvironment.from_options(options, env, params, cache_key=key)
