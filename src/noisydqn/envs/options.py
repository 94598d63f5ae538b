"""The options of an environment. None of them affects a compiled program: its interface does."""

import dataclasses
import json
from typing import Annotated, Literal

import tyro

from noisydqn.errors import ConfigError
from noisydqn.options import ABOVE_ZERO, JsonObject, at_least, convert_fields, shown

CATCHER = "noisydqn/Catcher-v0"


@dataclasses.dataclass(frozen=True)
class EnvironmentOptions:
    """Environment."""

    env: Annotated[str, tyro.conf.Suppress] = CATCHER
    """Name of the environment."""
    env_kwargs: Annotated[str, JsonObject] = "{}"
    """Arguments of the environment as a JSON object, such as '{"gravity": -5}'."""
    max_episode_steps: Annotated[int | None, at_least(1)] = None
    """Steps after which an episode is truncated. Default: the environment's own limit."""
    vectorization: Literal["auto", "sync", "subprocess", "own"] = "auto"
    """How Gymnasium's environments are vectorized: "sync" steps them one after the other in this
    process, "subprocess" runs each in a process (for slow ones), "own" uses the environment's
    vector entry point; "auto" is "own" for Atari, otherwise "sync"."""
    step_timeout: Annotated[float, ABOVE_ZERO] = 600.0
    """Seconds that a step or a reset in a worker process may take. A worker that takes longer
    hangs: the run is saved and ends."""

    def __post_init__(self) -> None:
        convert_fields(self)
        try:
            kwargs = json.loads(self.env_kwargs)
        except (ValueError, RecursionError):
            kwargs = None
        if not isinstance(kwargs, dict):
            raise ConfigError(
                f"--env-kwargs must be a JSON object such as '{{\"gravity\": -5}}', "
                f"got {shown(self.env_kwargs)}"
            )
