"""Environments of gymnax, by name, behind the interface of the device runner."""

import dataclasses
import difflib
import json
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from noisydqn.errors import UserError


class ShownState(NamedTuple):
    """A state of gymnax's and what it shows, which may depend on more than the state."""

    inner: Any
    observation: Array


@dataclasses.dataclass(frozen=True, eq=False)
class GymnaxEnvironment:
    """An environment of gymnax with discrete actions.

    Args:
        env: gymnax's environment.
        default_params: its parameters.
        num_actions: how many actions there are.
        name: and arguments, by which gymnax makes it.
    """

    env: Any
    default_params: Any
    num_actions: int
    name: str

    @property
    def cache_key(self) -> str:
        """All that its functions depend on beside code."""
        return f"gymnax:{self.name} {self.default_params}"

    @staticmethod
    def create(name: str, kwargs: str) -> "GymnaxEnvironment":
        """Make one by its name.

        Raises:
            UserError: gymnax is not installed, or has no such environment, or not with discrete
                actions.
        """
        try:
            import gymnax
        except ImportError as error:
            raise UserError(
                f"gymnax:{name} needs a package that is not installed ({error}): "
                "pip install 'noisydqn[gymnax]'"
            ) from error
        if name not in gymnax.registered_envs:
            near = difflib.get_close_matches(name, gymnax.registered_envs, n=3, cutoff=0.4)
            known = ", ".join(near or gymnax.registered_envs)
            raise UserError(f"no environment 'gymnax:{name}': there are {known}")
        try:
            env, params = gymnax.make(name, **json.loads(kwargs))
        except TypeError as error:
            raise UserError(f"gymnax:{name} with --env-kwargs {kwargs}: {error}") from error
        space = env.action_space(params)
        if not hasattr(space, "n"):
            raise UserError(
                f"the action space of gymnax:{name} is {type(space).__name__}, expected Discrete: "
                "noisydqn learns a value for each action"
            )
        return GymnaxEnvironment(env, params, int(space.n), f"{name} {kwargs}")

    def observe(self, state: ShownState) -> Array:
        """What is seen in a state."""
        return state.observation

    def _shown(self, observation: Any, inner: Any) -> tuple[Array, ShownState]:
        observation = jnp.asarray(observation)
        if observation.dtype not in (jnp.uint8, jnp.bool_):
            observation = observation.astype(jnp.float32)
        return observation, ShownState(inner, observation)

    def reset_env(self, key: PRNGKeyArray, params: Any) -> tuple[Array, ShownState]:
        """Start an episode."""
        return self._shown(*self.env.reset_env(key, params))

    def step_env(
        self, key: PRNGKeyArray, state: ShownState, action: Int[Array, ""], params: Any
    ) -> tuple[Array, ShownState, Array, Array, dict[str, Any]]:
        """Take a step."""
        observation, inner, reward, terminated, _ = self.env.step_env(
            key, state.inner, action, params
        )
        observation, shown = self._shown(observation, inner)
        return observation, shown, reward, terminated, {}

    def is_truncated(self, state: ShownState, params: Any) -> Array:
        """Whether a state is cut off by a limit."""
        return self.env.is_truncated(state.inner, params)
