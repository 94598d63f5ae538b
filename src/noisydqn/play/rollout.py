"""Greedy play: one rollout for each kind of environment."""

from noisydqn.envs.device import DeviceEnvironment
from noisydqn.envs.host import HostEnvironment
from noisydqn.envs.protocol import Environment
from noisydqn.play.device_rollout import DeviceRollout
from noisydqn.play.host_rollout import HostRollout
from noisydqn.play.played import Rollout


def rollout(env: Environment) -> Rollout:
    """Return the rollout for an environment."""
    return env.by_kind(device=_device_rollout, host=_host_rollout)


def _device_rollout(env: DeviceEnvironment) -> Rollout:
    return DeviceRollout(env)


def _host_rollout(env: HostEnvironment) -> Rollout:
    return HostRollout(env)
