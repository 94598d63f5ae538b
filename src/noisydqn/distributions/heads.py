"""Heads: what a network says of the return of each action, and the loss of one example of it.

A head is a value without arrays. The network asks it how many outputs an action has and how they
become an action value; the agent asks it for the loss. Everything is for one example.

| head               | outputs of an action                | error, for the priority |
|--------------------|-------------------------------------|-------------------------|
| `Expected`         | its value                           | TD error                |
| `Categorical`      | logits of atoms (C51)               | KL divergence           |
| `Quantile`         | quantiles at fixed fractions (QR)   | quantile loss           |
| `ImplicitQuantile` | a quantile for each fraction (IQN)  | quantile loss           |

The error of a distribution is its loss: an error of the means alone would be zero where only the
shape is wrong.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from noisydqn.distributions import losses
from noisydqn.distributions.bootstrap import Choice


class Example(NamedTuple):
    """What the loss of one example is made of."""

    returns_tm1: Float[Array, "actions n"]  # the online network's outputs at the earlier state
    fractions_tm1: Float[Array, " n"] | None  # that it was asked for
    a_tm1: Int[Array, ""]
    r_t: Float[Array, ""]
    discount_t: Float[Array, ""]
    returns_t: Float[Array, "actions m"]  # the target network's at the later state
    choice: Choice  # how the later state is valued


class Loss(NamedTuple):
    """The loss of one example, and the error that sets its priority."""

    loss: Float[Array, ""]
    error: Float[Array, ""]


@runtime_checkable  # tests check annotations with isinstance
class Head(Protocol):
    """What a network says of returns."""

    @property
    def outputs(self) -> int:
        """Outputs of an action; with fractions, for each of them."""
        ...

    def values(self, returns: Float[Array, "actions n"]) -> Float[Array, " actions"]:
        """Action values: the means of the returns."""
        ...

    def loss(self, example: Example) -> Loss:
        """The loss of one example."""
        ...


@dataclasses.dataclass(frozen=True)
class Expected:
    """One output for each action: its value.

    Args:
        error_loss: of a TD error, `losses.smooth_l1` or `losses.squared`.
    """

    error_loss: Callable[[Float[Array, ""]], Float[Array, ""]] = losses.smooth_l1

    @property
    def outputs(self) -> int:
        """One."""
        return 1

    def values(self, returns: Float[Array, "actions 1"]) -> Float[Array, " actions"]:
        """The outputs themselves."""
        return returns.reshape(-1)

    def loss(self, example: Example) -> Loss:
        """The loss of the TD error."""
        returns_tm1, _, a_tm1, r_t, discount_t, returns_t, choice = example
        q_tm1, q_t = self.values(returns_tm1), self.values(returns_t)
        error = losses.td_error(q_tm1, a_tm1, r_t, discount_t, q_t, choice)
        return Loss(self.error_loss(error), error)


@dataclasses.dataclass(frozen=True)
class Categorical:
    """Logits of evenly spaced atoms for each action (Bellemare et al. 2017, "C51").

    Args:
        atoms: how many there are.
        v_min: the lowest, in scaled rewards.
        v_max: the highest.
    """

    atoms: int
    v_min: float
    v_max: float

    @property
    def outputs(self) -> int:
        """One for each atom."""
        return self.atoms

    @property
    def support(self) -> Float[Array, " atoms"]:
        """The returns that the atoms stand for."""
        return jnp.linspace(self.v_min, self.v_max, self.atoms)

    def values(self, returns: Float[Array, "actions atoms"]) -> Float[Array, " actions"]:
        """The means of the distributions."""
        return jax.nn.softmax(returns) @ self.support

    def loss(self, example: Example) -> Loss:
        """The divergence from the projected target."""
        returns_tm1, _, a_tm1, r_t, discount_t, returns_t, choice = example
        target = losses.categorical_target(r_t, discount_t, returns_t, choice, self.support)
        loss = losses.categorical_loss(returns_tm1[a_tm1], target)
        return Loss(loss, loss)


@dataclasses.dataclass(frozen=True)
class Quantile:
    """Quantiles at the midpoints of equal shares, for each action (Dabney et al. 2018a, "QR").

    Args:
        quantiles: how many there are.
    """

    quantiles: int

    @property
    def outputs(self) -> int:
        """One for each quantile."""
        return self.quantiles

    def values(self, returns: Float[Array, "actions n"]) -> Float[Array, " actions"]:
        """The means of the quantiles."""
        return jnp.mean(returns, axis=-1)

    def loss(self, example: Example) -> Loss:
        """The quantile Huber loss."""
        return _quantile_loss(example, _midpoints(self.quantiles))


@dataclasses.dataclass(frozen=True)
class ImplicitQuantile:
    """A quantile for any fraction that the network is given (Dabney et al. 2018b, "IQN").

    Updates draw the fractions, N = N' for each example. Action values ask for K fixed ones, the
    midpoints of equal shares, instead of the paper's draws: the mean that is estimated is the
    same, the estimate better, and play with mean weights deterministic.

    Args:
        quantiles: fractions that an update draws for each example and state, N = N'.
        acting_quantiles: those of an action value, K.
        cosines: size of a fraction's embedding (equation 4).
    """

    quantiles: int
    acting_quantiles: int
    cosines: int = 64

    @property
    def outputs(self) -> int:
        """One, for each fraction."""
        return 1

    @property
    def acting_fractions(self) -> Float[Array, " k"]:
        """The midpoints of K equal shares."""
        return _midpoints(self.acting_quantiles)

    def draw_fractions(
        self, key: PRNGKeyArray, batch: int
    ) -> tuple[Float[Array, "batch n"], Float[Array, "batch n"]]:
        """Uniform fractions for the earlier states, and others for the later ones."""
        tm1, t = jax.random.uniform(key, (2, batch, self.quantiles))
        return tm1, t

    def values(self, returns: Float[Array, "actions n"]) -> Float[Array, " actions"]:
        """The means of the quantiles."""
        return jnp.mean(returns, axis=-1)

    def loss(self, example: Example) -> Loss:
        """The quantile Huber loss."""
        assert example.fractions_tm1 is not None  # noqa: S101 - this head's network needs them
        return _quantile_loss(example, example.fractions_tm1)


def _midpoints(number: int) -> Float[Array, " n"]:
    return (jnp.arange(number, dtype=jnp.float32) + 0.5) / number


def _quantile_loss(example: Example, fractions: Float[Array, " n"]) -> Loss:
    """A soft policy mixes quantiles of equal fractions (Vieillard et al. 2020, M-IQN)."""
    targets = example.r_t + example.discount_t * example.choice.expect(example.returns_t)
    loss = losses.quantile_loss(example.returns_tm1[example.a_tm1], fractions, targets)
    return Loss(loss, loss)
