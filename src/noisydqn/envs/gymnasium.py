"""Environments of Gymnasium by id: `LunarLander-v3`, `ALE/Pong-v5`, `module:Id`."""

from noisydqn.config.config import Config
from noisydqn.envs.host import HostEnvironment, Notices


def make(config: Config, notices: Notices | None = None) -> HostEnvironment:
    """Make an environment of Gymnasium by its id; raises as `HostEnvironment.create`."""
    return HostEnvironment.create(config, config.env, notices)
