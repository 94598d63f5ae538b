"""The expected return alone."""

import dataclasses
from typing import Literal

from jaxtyping import Array, Float

from noisydqn.distributions import losses
from noisydqn.distributions.base import Distribution, Example, Loss
from noisydqn.options import convert_fields

LOSSES = {"smooth-l1": losses.smooth_l1, "squared": losses.squared}


@dataclasses.dataclass(frozen=True)
class Expected(Distribution):
    """One output for each action: its expected return."""

    loss: Literal["smooth-l1", "squared"] = "smooth-l1"
    """Loss of the TD error: "squared" is half its square; "smooth-l1" (the Huber loss) is the same
    up to an error of 1 and linear beyond."""

    def __post_init__(self) -> None:
        convert_fields(self)

    @property
    def num_outputs(self) -> int:
        """One."""
        return 1

    def values(self, outputs: Float[Array, "actions 1"]) -> Float[Array, " actions"]:
        """Return the outputs themselves."""
        return outputs.reshape(-1)

    def loss_of(self, example: Example) -> Loss:
        """Compute the loss of the TD error."""
        outputs_tm1, _, a_tm1, r_t, discount_t, outputs_t, choice = example
        q_tm1, q_t = self.values(outputs_tm1), self.values(outputs_t)
        error = losses.td_error(q_tm1, a_tm1, r_t, discount_t, q_t, choice)
        return Loss(LOSSES[self.loss](error), error)
