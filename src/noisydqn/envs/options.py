"""The options of an environment, which affect a compiled program only through its interface."""

import dataclasses
import json
from typing import Annotated, Literal

import tyro

from noisydqn.envs.names import CATCHER
from noisydqn.errors import ConfigError
from noisydqn.options import ABOVE_ZERO, JsonObject, at_least, convert_fields, shown


@dataclasses.dataclass(frozen=True)
class EnvironmentOptions:
    """The environment: its arguments, its time limit and how it is vectorized."""

    env: Annotated[str, tyro.conf.Suppress] = CATCHER
    """Name of the environment."""
    env_kwargs: Annotated[str, JsonObject] = "{}"
    """Arguments of the environment as a JSON object, such as '{"gravity": -5}'."""
    max_episode_steps: Annotated[int | None, at_least(1)] = None
    """Steps after which an episode is truncated. If none, the environment's own limit."""
    vectorization: Literal["auto", "sync", "subprocess", "own"] = "auto"
    """How Gymnasium's environments are vectorized: "sync" steps them one after the other in this
    process; "subprocess" runs each in its own process, for slow environments; "own" uses the
    environment's vector entry point; "auto" is "own" for Atari, otherwise "sync"."""
    step_timeout: Annotated[float, ABOVE_ZERO] = 600.0
    """Seconds that a step or a reset in a worker process may take. If one takes longer, the run is
    saved and ends."""

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
