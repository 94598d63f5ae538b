"""Value-based reinforcement learning that explores by the learned noise in its own weights."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import gymnasium

if TYPE_CHECKING:
    from noisydqn.config import Config
    from noisydqn.errors import UserError
    from noisydqn.noisy import NoisyLinear, sample_noise
    from noisydqn.policy import GreedyPolicy, load_policy
    from noisydqn.presets import PRESETS
    from noisydqn.training.run import Result, resume, train

__all__ = [
    "PRESETS",
    "Config",
    "GreedyPolicy",
    "NoisyLinear",
    "Result",
    "UserError",
    "load_policy",
    "resume",
    "sample_noise",
    "train",
]

_HOMES = {
    "Config": "noisydqn.config",
    "GreedyPolicy": "noisydqn.policy",
    "NoisyLinear": "noisydqn.noisy",
    "PRESETS": "noisydqn.presets",
    "Result": "noisydqn.training.run",
    "UserError": "noisydqn.errors",
    "load_policy": "noisydqn.policy",
    "resume": "noisydqn.training.run",
    "sample_noise": "noisydqn.noisy",
    "train": "noisydqn.training.run",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for: JAX is slow to import."""
    if name not in _HOMES:
        raise AttributeError(f"module 'noisydqn' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


gymnasium.register(
    "noisydqn/Catcher-v0", "noisydqn.envs.gymnasium:CatcherEnv", max_episode_steps=10_000
)
