"""Value-based reinforcement learning that explores by the learned noise in its own weights."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import gymnasium

if TYPE_CHECKING:
    from noisydqn.config.config import Config
    from noisydqn.envs.spec import Statistic
    from noisydqn.errors import UserError
    from noisydqn.nets.noisy import NoisyLinear, sample_noise
    from noisydqn.play.evaluate import Evaluation
    from noisydqn.play.policy import GreedyPolicy
    from noisydqn.presets import PRESETS
    from noisydqn.runners.explorer import Explorer
    from noisydqn.runs.api import resume, train
    from noisydqn.runs.callbacks import Callback, Training
    from noisydqn.runs.diagnosis import doctor
    from noisydqn.runs.folder import load_config
    from noisydqn.runs.loaded import load_runs
    from noisydqn.runs.preset_file import load_preset
    from noisydqn.runs.result import Result
    from noisydqn.runs.saved import evaluate, load_policy, record
    from noisydqn.runs.trackers import Tracker

__all__ = [
    "PRESETS",
    "Callback",
    "Config",
    "Evaluation",
    "Explorer",
    "GreedyPolicy",
    "NoisyLinear",
    "Result",
    "Statistic",
    "Tracker",
    "Training",
    "UserError",
    "doctor",
    "evaluate",
    "load_config",
    "load_policy",
    "load_preset",
    "load_runs",
    "record",
    "resume",
    "sample_noise",
    "train",
]

_HOMES = {
    "Callback": "noisydqn.runs.callbacks",
    "Config": "noisydqn.config.config",
    "Evaluation": "noisydqn.play.evaluate",
    "Explorer": "noisydqn.runners.explorer",
    "GreedyPolicy": "noisydqn.play.policy",
    "NoisyLinear": "noisydqn.nets.noisy",
    "PRESETS": "noisydqn.presets",
    "Result": "noisydqn.runs.result",
    "Statistic": "noisydqn.envs.spec",
    "Tracker": "noisydqn.runs.trackers",
    "Training": "noisydqn.runs.callbacks",
    "UserError": "noisydqn.errors",
    "doctor": "noisydqn.runs.diagnosis",
    "evaluate": "noisydqn.runs.saved",
    "load_config": "noisydqn.runs.folder",
    "load_policy": "noisydqn.runs.saved",
    "load_preset": "noisydqn.runs.preset_file",
    "load_runs": "noisydqn.runs.loaded",
    "record": "noisydqn.runs.saved",
    "resume": "noisydqn.runs.api",
    "sample_noise": "noisydqn.nets.noisy",
    "train": "noisydqn.runs.api",
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
    "noisydqn/Catcher-v0", "noisydqn.envs.catcher_gymnasium:CatcherEnv", max_episode_steps=10_000
)
gymnasium.register("noisydqn/DeepSea-v0", "noisydqn.envs.deep_sea_gymnasium:DeepSeaEnv")
