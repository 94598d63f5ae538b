"""The options of an environment, which affect a compiled program only through its interface."""

import dataclasses
import json
from typing import Annotated, Any, Literal

import tyro

from noisydqn.envs.actions import MAX_ACTIONS
from noisydqn.envs.images import AUTO, NONE
from noisydqn.envs.names import CATCHER
from noisydqn.errors import ConfigError
from noisydqn.options import (
    ABOVE_ZERO,
    EACH_NAME,
    NAME,
    JsonObject,
    at_least,
    between,
    convert_fields,
    shown,
)

MAX_JSON, MAX_DEPTH = 2**16, 20
"""Characters of the arguments of an environment, and lists and objects inside one another."""


@dataclasses.dataclass(frozen=True)
class EnvironmentOptions:
    """The environment: its arguments, its time limit and how it is vectorized."""

    env: Annotated[str, NAME, tyro.conf.Suppress] = CATCHER
    """Name of the environment."""
    env_kwargs: Annotated[str, JsonObject] = "{}"
    """Arguments of the environment as a JSON object, such as '{"gravity": -5}'."""
    max_episode_steps: Annotated[int | None, at_least(1)] = None
    """Steps after which an episode is truncated. If none, the environment's own limit."""
    images: Annotated[tuple[str, ...], EACH_NAME] = (AUTO,)
    """Parts of a Dict or Tuple observation that are images and get a torso with convolutions, by
    their keys, such as "arm.camera", or places, such as "0". Name all of them; "auto" takes bytes
    from 0 to 255 with two or three axes, "none" joins all parts to one vector."""
    action_bins: Annotated[int | None, between(2, MAX_ACTIONS)] = None
    """Values of each number of actions that are a Box, at even distances from its lower to its
    upper bound. If none, 3."""
    vectorization: Literal["auto", "sync", "subprocess", "own"] = "auto"
    """How Gymnasium's environments are vectorized: "sync" steps them one after the other in this
    process; "subprocess" runs each in its own process, for slow environments; "own" uses the
    environment's vector entry point; "auto" is "own" for Atari, otherwise "sync"."""
    step_timeout: Annotated[float, ABOVE_ZERO] = 600.0
    """Seconds that a step or a reset in a worker process may take. If one takes longer, the run is
    saved and ends."""

    def __post_init__(self) -> None:
        convert_fields(self)
        self._check_images()
        try:
            kwargs = json.loads(self.env_kwargs[: MAX_JSON + 1])
        except (ValueError, RecursionError):
            kwargs = None
        if not isinstance(kwargs, dict) and len(self.env_kwargs) <= MAX_JSON:
            raise ConfigError(
                f"--env-kwargs must be a JSON object such as '{{\"gravity\": -5}}', "
                f"got {shown(self.env_kwargs)}"
            )
        if len(self.env_kwargs) > MAX_JSON or not _is_shallow(kwargs):
            raise ConfigError(
                f"--env-kwargs must have at most {MAX_JSON:,} characters, and lists and objects at "
                f"most {MAX_DEPTH} deep, got {shown(self.env_kwargs)}"
            )
        if not " ".join(self.env_kwargs.split()).isprintable():
            raise ConfigError(
                f"--env-kwargs must be printable, got {shown(self.env_kwargs)}: write other "
                'characters as "\\u0000"'
            )

    def _check_images(self) -> None:
        words = {AUTO, NONE} & set(self.images)
        if not self.images or (words and len(self.images) > 1):
            raise ConfigError(
                f"--images must be {AUTO}, {NONE}, or the keys of all images, got "
                f"{' '.join(self.images) or 'nothing'}"
            )


def _is_shallow(value: Any) -> bool:
    """Tell whether a value of JSON has at most `MAX_DEPTH` lists and objects inside one another."""
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH + 1):
        inside = (list(x.values()) if isinstance(x, dict) else x for x in level)
        level = [y for x in inside if isinstance(x, list) for y in x]
    return not level
