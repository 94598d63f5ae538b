"""Categorical distributions over fixed returns (Bellemare et al. 2017, "C51")."""

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from noisydqn.distributions import losses
from noisydqn.distributions.base import MAX_OUTPUTS, Distribution, Example, Loss
from noisydqn.errors import ConfigError
from noisydqn.options import FINITE, at_least, at_most, convert_fields


@dataclasses.dataclass(frozen=True)
class Categorical(Distribution):
    """Logits of evenly spaced atoms for each action (C51)."""

    atoms: Annotated[int, at_least(2), at_most(MAX_OUTPUTS)] = 51
    """Number of atoms, the returns that have a probability."""
    v_min: Annotated[float, FINITE] = -10.0
    """Lowest return that is represented, in rewards as they are learned from: clipped, scaled and
    normalized."""
    v_max: Annotated[float, FINITE] = 10.0
    """Highest return that is represented, in the same units."""

    def __post_init__(self) -> None:
        convert_fields(self)
        check_range(self.v_min, self.v_max)

    @property
    def num_outputs(self) -> int:
        """One for each atom."""
        return self.atoms

    @property
    def support(self) -> Float[Array, " atoms"]:
        """The returns that the atoms stand for."""
        return jnp.linspace(self.v_min, self.v_max, self.atoms)

    def loss_of(self, example: Example) -> Loss:
        """Compute the divergence from the projected target."""
        logits_tm1, _, a_tm1, r_t, discount_t, logits_t, choice = example
        target = losses.categorical_target(r_t, discount_t, logits_t, choice, self.support)
        loss = losses.categorical_loss(logits_tm1[a_tm1], target)
        return Loss(loss, loss)

    def greedy_return(self, outputs: Float[Array, "actions atoms"]) -> Float[Array, " atoms"]:
        """Return the probabilities of the greedy action's atoms."""
        return jax.nn.softmax(outputs[jnp.argmax(self.values(outputs))])

    def backup(
        self,
        r_t: Float[Array, ""],
        discount_t: Float[Array, ""],
        following: Float[Array, " atoms"],
    ) -> Float[Array, " atoms"]:
        """Project the return one step earlier onto the atoms.

        It is projected after every step, as one-step targets are: the mixture of probabilities
        that `mix` takes is then exact.
        """
        return losses.project(r_t + discount_t * self.support, following, self.support)

    def loss_to(
        self,
        outputs: Float[Array, "actions atoms"],
        query: Float[Array, " n"] | None,
        action: Int[Array, ""],
        target: Float[Array, " m"],
    ) -> Loss:
        """Compute the divergence from the probabilities of the target."""
        del query
        loss = losses.categorical_loss(outputs[action], jax.lax.stop_gradient(target))
        return Loss(loss, loss)


def check_range(v_min: float, v_max: float) -> None:
    """Refuse an empty range of returns.

    Raises:
        ConfigError: `v_min` is not below `v_max`.
    """
    if not v_min < v_max:
        raise ConfigError(f"--v-min {v_min} must be below --v-max {v_max}")
