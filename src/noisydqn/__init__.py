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
    from noisydqn.training.evaluate import Evaluation
    from noisydqn.training.folder import load_config
    from noisydqn.training.run import Result, resume, train
    from noisydqn.training.saved import evaluate, record

__all__ = [
    "PRESETS",
    "Config",
    "Evaluation",
    "GreedyPolicy",
    "NoisyLinear",
    "Result",
    "UserError",
    "evaluate",
    "load_config",
    "load_policy",
    "record",
    "resume",
    "sample_noise",
    "train",
]

_HOMES = {
    "Config": "noisydqn.config",
    "Evaluation": "noisydqn.training.evaluate",
    "GreedyPolicy": "noisydqn.policy",
    "NoisyLinear": "noisydqn.noisy",
    "PRESETS": "noisydqn.presets",
    "Result": "noisydqn.training.run",
    "UserError": "noisydqn.errors",
    "evaluate": "noisydqn.training.saved",
    "load_config": "noisydqn.training.folder",
    "load_policy": "noisydqn.policy",
    "record": "noisydqn.training.saved",
    "resume": "noisydqn.training.run",
    "sample_noise": "noisydqn.noisy",
    "train": "noisydqn.training.run",
}
"""Where the public names are; each is imported when it is first asked for, as JAX is slow to."""


def __getattr__(name: str) -> Any:
    """Import a public name."""
    if name not in _HOMES:
        raise AttributeError(f"module 'noisydqn' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """List the public names, also those not imported yet."""
    return [*_HOMES, *(name for name in globals() if name.startswith("__"))]


gymnasium.register(
    "noisydqn/Catcher-v0", "noisydqn.envs.gymnasium:CatcherEnv", max_episode_steps=10_000
)
