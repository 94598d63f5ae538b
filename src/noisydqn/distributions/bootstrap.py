"""How the next state of a transition is valued: by one action, or by a soft policy.

Everything is for one example; the caller vmaps. Both kinds of choice offer the same two methods:
`expect` gives the mean over the actions chosen, `branches` each of them with its probability.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class Greedy(NamedTuple):
    """A choice of one action.

    Chosen by the online network it gives double Q-learning (van Hasselt et al. 2016, equation 4),
    by the target network plain Q-learning.
    """

    action: Int[Array, "*d"]  # of several dimensions until the joint action is the only one

    @staticmethod
    def of(q_selector: Float[Array, "*d actions"]) -> "Greedy":
        """Choose the greedy action by the selecting network's values."""
        return Greedy(jnp.argmax(q_selector, axis=-1))

    def expect(self, returns: Float[Array, "actions ..."]) -> Float[Array, "..."]:
        """Select the return of the chosen action."""
        return returns[self.action]

    def branches(
        self, x: Float[Array, "actions n"]
    ) -> tuple[Float[Array, "1"], Float[Array, "1 n"], Float[Array, "1"]]:
        """Return probabilities, rows of `x` and bonuses of the actions that may be taken."""
        return jnp.ones(1), x[self.action][None], jnp.zeros(1)


class Soft(NamedTuple):
    """A choice by a policy whose entropy earns a bonus."""

    policy: Float[Array, "*d actions"]  # probabilities
    bonus: Float[Array, "*d actions"]  # added to the return of each action: -tau ln pi

    def expect(self, returns: Float[Array, "actions ..."]) -> Float[Array, "..."]:
        """Compute the mean return under the policy, bonuses included."""
        return jnp.tensordot(self.policy, returns, 1) + jnp.dot(self.policy, self.bonus)

    def branches(
        self, x: Float[Array, "actions n"]
    ) -> tuple[Float[Array, " actions"], Float[Array, "actions n"], Float[Array, " actions"]]:
        """Return probabilities, rows of `x` and bonuses of the actions that may be taken."""
        return self.policy, x, self.bonus


Choice = Greedy | Soft


@dataclasses.dataclass(frozen=True)
class Munchausen:
    """Munchausen targets (Vieillard et al. 2020, equation 2), with policies softmax(q / tau).

        r + alpha [tau ln pi(a_tm1 | s_tm1)]_{l_0}^0
          + discount * sum_a pi(a | s_t) (q(s_t, a) - tau ln pi(a | s_t))

    The policy of the first term is the target network's, as in the paper. With double Q-learning
    that of the second is the selecting network's, and q the target network's, which for tau to 0
    is double Q-learning; otherwise both are the target network's. With n-step returns the first
    term is added for `a_tm1` alone, not for the actions between.

    With actions of D dimensions, whose values are means over them, the softmax over all joint
    actions is independent in every dimension, where its temperature is D tau. The log-probability
    of a joint action is the sum over dimensions, so tau times it is the mean of D tau times each.

    Args:
        scale: alpha.
        temperature: tau, in units of (scaled) rewards.
        minimum: l_0, the bound on tau ln pi.
    """

    scale: float
    temperature: float
    minimum: float

    def _temperature(self, q: Float[Array, "*d actions"]) -> float:
        return self.temperature * math.prod(q.shape[:-1])

    def scaled_log_policy(self, q: Float[Array, "*d actions"]) -> Float[Array, "*d actions"]:
        """Compute tau ln pi of every action or, with D dimensions, D tau ln pi of every choice."""
        temperature = self._temperature(q)
        return temperature * jax.nn.log_softmax(q / temperature)

    def reward(
        self, r_t: Float[Array, ""], q_tm1: Float[Array, "*d actions"], a_tm1: Int[Array, "*d"]
    ) -> Float[Array, ""]:
        """Add the Munchausen term of the action taken to the reward."""
        scaled = self.scaled_log_policy(q_tm1)
        if q_tm1.ndim == 1:
            term = scaled[a_tm1]
        else:
            term = jnp.mean(scaled[jnp.arange(len(scaled)), a_tm1])
        return r_t + self.scale * jnp.clip(term, self.minimum, 0)

    def choice(
        self, q_selector: Float[Array, "*d actions"], mask: Bool[Array, " actions"] | None = None
    ) -> Soft:
        """Form the policy at the next state.

        Args:
            q_selector: values by which actions are chosen, -infinity for invalid ones.
            mask: the valid actions; None if all are.
        """
        scaled = self.scaled_log_policy(q_selector)
        policy = jnp.exp(scaled / self._temperature(q_selector))
        # An invalid action has probability 0 and log-probability -infinity: not 0 * infinity.
        return Soft(policy, -scaled if mask is None else jnp.where(mask, -scaled, 0.0))
