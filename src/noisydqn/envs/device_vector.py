"""A vector of copies of one environment on the device."""

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PRNGKeyArray

from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.errors import EnvironmentFailedError
from noisydqn.masks import opened
from noisydqn.types import TimeStep

if TYPE_CHECKING:
    from noisydqn.envs.device import DeviceEnvironment

STUCK = "no_valid_action"
"""The name in `info` of whether a state, though not terminal, has no valid action."""


def stuck_error(where: str, name: str) -> EnvironmentFailedError:
    """Make the error of a state without a valid action.

    Args:
        where: the place, such as "at step 3".
        name: of the environment.
    """
    return EnvironmentFailedError(
        f"the environment failed {where}: {name}.action_mask allows no action, expected at least "
        "one unless the episode has terminated; correct the environment"
    )


@dataclasses.dataclass(frozen=True)
class VectorEnvironment:
    """Many copies of one environment, in lockstep.

    A step after the last of an episode is a reset: its action is ignored, its reward is 0. The
    final observation of an episode is therefore seen like any other.

    With action masks, `info[STUCK]` is 1 where an episode goes on without a valid action: compiled
    code cannot raise. The mask of such a state, and of one that terminated, allows all actions.
    """

    env: "DeviceEnvironment"
    num_envs: int

    @property
    def spec(self) -> EnvironmentSpec:
        """The interface of the environment."""
        return self.env.spec

    def reset(self, key: PRNGKeyArray) -> tuple[Any, TimeStep]:
        """Start an episode in every environment; returns states and time steps [num_envs, ...]."""
        template_key, key = jax.random.split(key)
        # `step` makes the time steps; the states it starts from here are all replaced.
        states = jax.vmap(self.env.reset)(jax.random.split(template_key, self.num_envs))
        action = jnp.zeros(self.num_envs, jnp.int32)
        return self.step(key, states, action, jnp.ones(self.num_envs, jnp.bool_))

    def step(
        self,
        key: PRNGKeyArray,
        states: Any,
        actions: Int[Array, " envs"],
        restart: Bool[Array, " envs"],
    ) -> tuple[Any, TimeStep]:
        """Take a step in every environment; start an episode instead where `restart`."""
        keys = jax.random.split(key, self.num_envs)
        return jax.vmap(self._step_one)(keys, states, actions, restart)

    def _step_one(
        self, key: PRNGKeyArray, state: Any, action: Int[Array, ""], restart: Bool[Array, ""]
    ) -> tuple[Any, TimeStep]:
        reset_key, step_key = jax.random.split(key)
        fresh = self.env.reset(reset_key)
        stepped, reward, terminated, truncated, info = self.env.step(step_key, state, action)
        state = jax.tree.map(lambda new, old: jnp.where(restart, new, old), fresh, stepped)
        time_step = TimeStep(
            observation=self.env.observe(state),
            reward=jnp.where(restart, 0, reward).astype(jnp.float32),
            terminated=terminated & ~restart,
            truncated=truncated & ~restart,
            info=jax.tree.map(lambda x: jnp.where(restart, 0, x), info),
        )
        mask = self.env.action_mask(state)
        return state, time_step if mask is None else _with_mask(time_step, mask)


def _with_mask(time_step: TimeStep, mask: Bool[Array, " actions"]) -> TimeStep:
    """Add a mask to a time step, and to its info whether an agent is stuck there."""
    stuck = ~jnp.any(mask) & ~time_step.terminated
    info = time_step.info | {STUCK: stuck.astype(jnp.float32)}
    return time_step._replace(info=info, action_mask=opened(mask))
