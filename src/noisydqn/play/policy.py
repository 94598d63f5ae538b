"""Policies ready for use: `policy.predict(observation)`."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from noisydqn.envs.action_masks import read_masks, split_mask
from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.errors import UserError
from noisydqn.learner.policy import Policy
from noisydqn.nets.network import QNetwork
from noisydqn.play.host_rollout import act
from noisydqn.preprocessing import frames
from noisydqn.settings import own_settings
from noisydqn.trees import num_rows, zeros
from noisydqn.types import Mixed

_act = jax.jit(act)

State = np.ndarray | Mixed
"""The newest frames [B, frames, ...] of a policy that sees several."""


class GreedyPolicy:
    """A policy that plays with mean weights and is called like those of Stable-Baselines3.

    It takes the environment's own observations and returns the environment's own actions, but
    does not need the environment.

    Args:
        policy: the network, with the statistics that normalize its input.
        spec: the interface of the environment that the policy was trained in.
    """

    def __init__(self, policy: Policy, spec: EnvironmentSpec) -> None:
        self.policy, self.spec = policy, spec
        self._encoding = spec.encoding

    @property
    def network(self) -> QNetwork:
        """The Q-network."""
        return self.policy.network

    def __repr__(self) -> str:
        parameters = sum(x.size for x in jax.tree.leaves(self.network) if hasattr(x, "size"))
        return (
            f"GreedyPolicy({self._encoding.words} -> {self.spec.actions_in_words}, "
            f"{parameters:,} parameters)"
        )

    def __call__(self, observation: Any, action_mask: Any = None) -> Any:
        """Return the greedy action for an observation, or the actions for a batch."""
        return self.predict(observation, action_mask=action_mask)[0]

    @own_settings()
    def predict(
        self,
        observation: Any,
        state: State | None = None,
        episode_start: Any = None,
        deterministic: bool = True,
        action_mask: Any = None,
    ) -> tuple[Any, State | None]:
        """Choose the greedy action under mean weights.

        Args:
            observation: one observation or a batch, as the environment or a vector environment
                returns it: an array, a number, or a dictionary or tuple of these.
            state: the state that the last call returned, if the policy sees several frames; None
                at the start.
            episode_start: [B], true where an episode starts; earlier frames are then dropped.
            deterministic: must be true, because mean weights have no randomness.
            action_mask: the valid actions, booleans or 0 and 1 [A] or, for a batch, [B, A], if the
                environment gives action masks. Where they are part of its observations, it may be
                left out.

        Returns:
            The environment's own action, an `np.int64` or, for a batch, an array [B]; where actions
            are arrays, one of them or [B, ...]. And the state, None if the policy sees one frame.

        Raises:
            UserError: the observation, the mask or the state is not one of the environment's, or
                `deterministic` is false.
        """
        if not deterministic:
            raise UserError(
                "deterministic=False: this policy has mean weights, in which nothing is random; "
                "call predict with deterministic=True"
            )
        batch, single, masks = self._read(observation, action_mask)
        size = num_rows(batch)
        started = np.full(size, state is None) | _starts(episode_start, size)
        stack = self._stack(batch, state)
        newest = jax.tree.map(jnp.asarray, batch)
        stack, places, _ = _act(self.policy, stack, newest, jnp.asarray(started), masks)
        actions = self._encoding.decode_actions(np.asarray(places, np.int64))
        stack = None if self.policy.frames == 1 else jax.tree.map(np.asarray, stack)
        return (actions[0] if single else actions), stack

    @own_settings()
    def values(self, observation: Any, action_mask: Any = None) -> np.ndarray:
        """Compute the action values, [A] or [B, A], of observations that start an episode.

        With an action mask, as in `predict`, those of invalid actions are -infinity. With actions
        of D dimensions the values are [D, n] or [B, D, n], those of the choices in each; their
        means over D are the values of actions.

        Raises:
            UserError: as `predict`.
        """
        batch, single, masks = self._read(observation, action_mask)
        started = jnp.ones(num_rows(batch), bool)
        newest = jax.tree.map(jnp.asarray, batch)
        _, _, q = _act(self.policy, self._stack(batch, None), newest, started, masks)
        return np.asarray(q)[0] if single else np.asarray(q)

    def _read(self, observation: Any, action_mask: Any) -> tuple[Any, bool, jax.Array | None]:
        """Check and encode observations and their masks.

        Returns:
            Stored observations [B, ...], true if it was a single one, and masks [B, A] or None.
        """
        if self._encoding.action_mask == "observation":
            observation, found = split_mask(observation)
            action_mask = found if action_mask is None else action_mask
        batch, single = self._encoding.read(observation)
        if not self.spec.masked:
            if action_mask is None:
                return batch, single, None
            raise UserError(
                "an action_mask was given, but the policy was trained without action masks: leave "
                "it out"
            )
        size = None if single else num_rows(batch)
        masks = read_masks(action_mask, self.spec.num_actions, size)
        return batch, single, jnp.asarray(masks)

    def _stack(self, batch: Any, state: State | None) -> Any:
        """Return the stack before a batch; raises `UserError` if `state` cannot be it."""
        if self.policy.frames == 1:
            return jax.tree.map(jnp.asarray, batch)
        expected = jax.eval_shape(partial(frames.start, frames=self.policy.frames), batch)
        if state is None:
            return zeros(expected)
        remedy = "give what the last call of predict gave, for as many observations"
        if jax.tree.structure(state) != jax.tree.structure(expected):
            kind = type(state).__name__
            raise UserError(f"the state is {kind}, which the policy did not return: {remedy}")
        for given, wanted in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
            if np.shape(given) != wanted.shape:
                raise UserError(
                    f"the state has shape {list(np.shape(given))}, expected "
                    f"{list(wanted.shape)}: {remedy}"
                )
        return jax.tree.map(lambda x, like: jnp.asarray(x, like.dtype), state, expected)


def _starts(given: Any, size: int) -> np.ndarray:
    """Return [size], true where an episode starts."""
    starts = np.asarray(False if given is None else given, bool)
    if starts.shape not in ((), (1,), (size,)):
        raise UserError(
            f"episode_start has shape {list(starts.shape)}, expected [{size}]: give one for each "
            "observation"
        )
    return np.broadcast_to(starts, size)
