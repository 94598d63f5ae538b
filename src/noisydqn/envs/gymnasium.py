"""Environments of Gymnasium by id: `LunarLander-v3`, `ALE/Pong-v5`, `module:Id`."""

from noisydqn.envs.host import HostEnvironment
from noisydqn.envs.notices import Notices
from noisydqn.envs.options import EnvironmentOptions


def make(options: EnvironmentOptions, notices: Notices | None = None) -> HostEnvironment:
    """Make an environment of Gymnasium by its id; raises as `HostEnvironment.create`."""
    return HostEnvironment.create(options, options.env, notices)
