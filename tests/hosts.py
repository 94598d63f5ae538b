"""Environments of Gymnasium as runs make them."""

from typing import Any

from noisydqn.envs.host import HostEnvironment
from tests import probes

SMALL = probes.SMALL.replace(env="python:tests", torso="auto", updates_per_step=0.5)


def make(entry: Any, **options: Any) -> HostEnvironment:
    """Make an environment with small options, some of them changed."""
    return HostEnvironment.create(SMALL.replace(**options).environment, entry)
