"""Distributions: what a network says about the return of each action, and the loss of an example.

A distribution is a frozen dataclass without arrays. Its fields are its options. The network asks
it how many outputs an action has and how those become an action value; the agent asks it for the
loss. Everything is for one example; the caller vmaps.

| distribution       | outputs of an action               | error, for the priority |
|--------------------|------------------------------------|-------------------------|
| `Expected`         | its value                          | TD error                |
| `Categorical`      | logits of atoms (C51)              | KL divergence           |
| `Quantile`         | quantiles at fixed fractions (QR)  | quantile loss           |
| `ImplicitQuantile` | a quantile for each fraction (IQN) | quantile loss           |
| `HLGauss`          | logits of a histogram (HL-Gauss)   | KL divergence           |

Except for `Expected`, the error is the loss: an error of the means alone would be zero where only
the shape is wrong.

Some distributions answer a query: the network takes N numbers beside the observation and gives one
output for each. The distribution samples the queries of updates, says which query gives action
values, and makes the layer that embeds a query. A distribution without queries leaves these three
methods as they are, and nothing is computed for them.

For returns over many steps (`lambda_returns.py`) a distribution says in which form a return is
passed backwards, how it changes by a step, how two are mixed, and the loss that it is the target
of. Where the expected return is all that is passed on, nothing has to be said.
"""

import abc
from typing import NamedTuple, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from noisydqn.distributions.bootstrap import Choice, Greedy

MAX_OUTPUTS = 10_000
"""The most outputs of an action, and the most fractions of a query."""


class Example(NamedTuple):
    """One transition, as the loss sees it."""

    outputs_tm1: Float[Array, "actions n"]  # of the online network, at the state
    query_tm1: Float[Array, " n"] | None  # that those outputs answer
    a_tm1: Int[Array, "*d"]  # with several dimensions until the joint action is the only one
    r_t: Float[Array, ""]
    discount_t: Float[Array, ""]
    outputs_t: Float[Array, "actions_t m"]  # of the target network, at the next state
    choice: Choice  # how the next state is valued


class Loss(NamedTuple):
    """The loss of one example, and the error that sets its priority."""

    loss: Float[Array, ""]
    error: Float[Array, ""]


class Queries(NamedTuple):
    """The queries of one update, different for each example and state."""

    tm1: Float[Array, "batch n"]  # at the state
    t: Float[Array, "batch n"]  # at the next state


class Embedding(eqx.Module):
    """A layer that embeds one number of a query: features to multiply those of a state with."""

    @abc.abstractmethod
    def __call__(self, number: Float[Array, ""]) -> Float[Array, " features"]:
        """Embed one number."""


@runtime_checkable  # so that annotations can be checked with isinstance
class Distribution(Protocol):
    """What a network says about the return of each action."""

    @property
    def num_outputs(self) -> int:
        """Outputs of an action; with a query, for each of its numbers (there it has to be 1)."""
        ...

    @property
    def support(self) -> Float[Array, " n"] | None:
        """Returns whose logits the outputs are. None: the outputs are returns themselves."""
        return None

    def values(self, outputs: Float[Array, "actions n"]) -> Float[Array, " actions"]:
        """Compute the action values: the mean returns."""
        support = self.support
        if support is None:
            return jnp.mean(outputs, axis=-1)
        return jax.nn.softmax(outputs) @ support

    def loss_of(self, example: Example) -> Loss:
        """Compute the loss of one example."""
        ...

    # Returns over many steps, in a form of m numbers: here the expected return alone

    def greedy_return(self, outputs: Float[Array, "actions n"]) -> Float[Array, " m"]:
        """Describe the return of the greedy action."""
        return jnp.max(self.values(outputs), keepdims=True)

    def backup(
        self, r_t: Float[Array, ""], discount_t: Float[Array, ""], following: Float[Array, " m"]
    ) -> Float[Array, " m"]:
        """Describe `r_t + discount_t * Z` where `following` describes Z."""
        return r_t + discount_t * following

    def mix(
        self,
        key: PRNGKeyArray,
        share: float,
        first: Float[Array, " m"],
        second: Float[Array, " m"],
    ) -> Float[Array, " m"]:
        """Describe the mixture of two returns, the first with probability `share`."""
        del key
        return share * first + (1 - share) * second

    def loss_to(
        self,
        outputs: Float[Array, "actions n"],
        query: Float[Array, " n"] | None,
        action: Int[Array, ""],
        target: Float[Array, " m"],
    ) -> Loss:
        """Compute the loss of outputs at a state whose return `target` describes.

        Args:
            outputs: of the network that is trained.
            query: that they answer.
            action: the action taken.
            target: the return that followed.
        """
        nothing = jnp.zeros_like(outputs), Greedy(jnp.int32(0))
        return self.loss_of(Example(outputs, query, action, target[0], jnp.float32(0), *nothing))

    def sample_queries(self, key: PRNGKeyArray, batch_size: int) -> Queries | None:
        """Sample the queries of one update."""
        del key, batch_size
        return None

    def acting_query(self) -> Float[Array, " k"] | None:
        """Return the query whose answer gives the action values."""
        return None

    def embedding(self, out_features: int, *, key: PRNGKeyArray) -> Embedding | None:
        """Make the layer that embeds a query, with fresh weights.

        Args:
            out_features: size of an embedding.
            key: random key for its weights.
        """
        del out_features, key
        return None
