"""Environments that run on the device: what turns one in JAX into our `TimeStep`s."""

import dataclasses
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PRNGKeyArray

from noisydqn.envs.spec import EnvironmentSpec, numbered
from noisydqn.types import TimeStep


class DeviceEnvironment(Protocol):
    """What an environment in JAX provides: gymnax's functions and `observe` of a state."""

    @property
    def num_actions(self) -> int:
        """How many actions there are."""
        ...

    @property
    def default_params(self) -> Any:
        """Parameters such as a time limit."""
        ...

    def observe(self, state: Any) -> Array:
        """What is seen in a state."""
        ...

    def reset_env(self, key: PRNGKeyArray, params: Any) -> tuple[Array, Any]:
        """Start an episode; returns observation and state."""
        ...

    def step_env(
        self, key: PRNGKeyArray, state: Any, action: Int[Array, ""], params: Any
    ) -> tuple[Array, Any, Array, Array, dict[str, Any]]:
        """Take a step; returns observation, state, reward, terminated and info."""
        ...

    def is_truncated(self, state: Any, params: Any) -> Array:
        """Whether a state is cut off by a limit."""
        ...


def cache_key(env: DeviceEnvironment) -> str | None:
    """Return all that an environment's functions depend on beside code: its `cache_key`.

    None if it has none; its programs are traced before the cache is looked at.
    """
    return getattr(env, "cache_key", None)


def environment_spec(env: DeviceEnvironment) -> EnvironmentSpec:
    """The interface of an environment in JAX."""

    def first() -> Array:
        _, state = env.reset_env(jax.random.key(0), env.default_params)
        return env.observe(state)

    names = getattr(env, "action_names", numbered(env.num_actions))
    return EnvironmentSpec(jax.eval_shape(first), env.num_actions, names)


class LimitedState(NamedTuple):
    """A state and how many steps led to it."""

    inner: Any
    time: Int[Array, ""]


@dataclasses.dataclass(frozen=True)
class TimeLimit:
    """Cuts the episodes of an environment after a number of steps."""

    env: DeviceEnvironment
    max_steps: int

    @property
    def cache_key(self) -> str | None:
        """That without the limit, and the limit."""
        key = cache_key(self.env)
        return None if key is None else f"{key}, {self.max_steps} steps"

    @property
    def num_actions(self) -> int:
        """As without the limit."""
        return self.env.num_actions

    @property
    def action_names(self) -> tuple[str, ...]:
        """As without the limit."""
        return environment_spec(self.env).action_names

    @property
    def default_params(self) -> Any:
        """As without the limit."""
        return self.env.default_params

    def observe(self, state: LimitedState) -> Array:
        """As without the limit."""
        return self.env.observe(state.inner)

    def reset_env(self, key: PRNGKeyArray, params: Any) -> tuple[Array, LimitedState]:
        """Start an episode."""
        observation, inner = self.env.reset_env(key, params)
        return observation, LimitedState(inner, jnp.int32(0))

    def step_env(
        self, key: PRNGKeyArray, state: LimitedState, action: Int[Array, ""], params: Any
    ) -> tuple[Array, LimitedState, Array, Array, dict[str, Any]]:
        """Take a step."""
        observation, inner, reward, terminated, info = self.env.step_env(
            key, state.inner, action, params
        )
        return observation, LimitedState(inner, state.time + 1), reward, terminated, info

    def is_truncated(self, state: LimitedState, params: Any) -> Array:
        """Whether the limit is reached, or one of the environment's own."""
        return self.env.is_truncated(state.inner, params) | (state.time >= self.max_steps)


@dataclasses.dataclass(frozen=True)
class VectorEnvironment:
    """Many copies of one environment, in step.

    A step after the last of an episode is a reset: its action is void, its reward 0. So the
    final observation of an episode is seen like any other.
    """

    env: DeviceEnvironment
    params: Any
    num_envs: int

    @property
    def spec(self) -> EnvironmentSpec:
        """The interface of the environment."""
        return environment_spec(self.env)

    def reset(self, key: PRNGKeyArray) -> tuple[Any, TimeStep]:
        """Start an episode everywhere; returns states and time steps, [num_envs, ...]."""
        template_key, key = jax.random.split(key)
        # `step` makes the time steps; the states it starts from here are all replaced.
        states = jax.vmap(lambda key: self.env.reset_env(key, self.params)[1])(
            jax.random.split(template_key, self.num_envs)
        )
        action = jnp.zeros(self.num_envs, jnp.int32)
        return self.step(key, states, action, jnp.ones(self.num_envs, jnp.bool_))

    def step(
        self,
        key: PRNGKeyArray,
        states: Any,
        actions: Int[Array, " envs"],
        restart: Bool[Array, " envs"],
    ) -> tuple[Any, TimeStep]:
        """Take one step everywhere, and start an episode where `restart`."""
        keys = jax.random.split(key, self.num_envs)
        return jax.vmap(self._step_one)(keys, states, actions, restart)

    def _step_one(
        self, key: PRNGKeyArray, state: Any, action: Int[Array, ""], restart: Bool[Array, ""]
    ) -> tuple[Any, TimeStep]:
        reset_key, step_key = jax.random.split(key)
        _, fresh = self.env.reset_env(reset_key, self.params)
        _, stepped, reward, terminated, info = self.env.step_env(
            step_key, state, action, self.params
        )
        truncated = self.env.is_truncated(stepped, self.params) & ~terminated
        state = jax.tree.map(lambda new, old: jnp.where(restart, new, old), fresh, stepped)
        return state, TimeStep(
            observation=self.env.observe(state),
            reward=jnp.where(restart, 0, reward).astype(jnp.float32),
            terminated=terminated & ~restart,
            truncated=truncated & ~restart,
            info=jax.tree.map(lambda x: jnp.where(restart, 0, x), info),
        )
