"""The options of preprocessing."""

import dataclasses
from typing import Annotated, Literal

from noisydqn.options import ABOVE_ZERO, between, convert_fields

MAX_FRAMES = 16


@dataclasses.dataclass(frozen=True)
class PreprocessingOptions:
    """Preprocessing: how observations and rewards are transformed before learning."""

    frame_stack: Annotated[int, between(1, MAX_FRAMES)] = 1
    """Number of newest observations that the network sees at once."""
    normalize_observations: Literal["running", "scale"] = "scale"
    """"running" centers and scales each element by its running mean and variance; "scale" divides
    bytes by 255 and leaves other numbers as they are."""
    observation_clip: Annotated[float | None, ABOVE_ZERO] = 10.0
    """Bound on the absolute value of a "running" normalized observation. If none, no bound."""
    normalize_rewards: bool = False
    """Divide rewards by the running standard deviation of the discounted return."""
    reward_scale: Annotated[float, ABOVE_ZERO] = 1.0
    """Factor that rewards are multiplied by before learning."""
    reward_clip: Annotated[float | None, ABOVE_ZERO] = None
    """Bound on the absolute value of a reward before scaling. If none, no bound."""

    def __post_init__(self) -> None:
        convert_fields(self)
