"""The adapter for environments in JAX, which run on the device."""

import contextlib
import dataclasses
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces as gym
from jaxtyping import Array, Bool, Int, PRNGKeyArray, Shaped

from noisydqn.envs.catalogue import full_name
from noisydqn.envs.device_encoding import encode, space_of
from noisydqn.envs.device_vector import VectorEnvironment
from noisydqn.envs.encoding import Encoding, numbered
from noisydqn.envs.images import AUTO, NONE
from noisydqn.envs.jax_interface import (
    OUTCOME,
    JaxEnvironment,
    check_methods,
    count_actions,
    named,
    takes,
)
from noisydqn.envs.options import EnvironmentOptions
from noisydqn.envs.pictures import as_picture, frame_rate
from noisydqn.envs.spec import EnvironmentSpec, Statistic
from noisydqn.errors import NoPictureError, UserError, counted
from noisydqn.options import flag

if TYPE_CHECKING:
    from noisydqn.envs.host import HostEnvironment

R = TypeVar("R")


class ShownState(NamedTuple):
    """A state and its stored observation, which may depend on more than the state."""

    inner: Any
    observation: Any


class LimitedState(NamedTuple):
    """A state and the number of steps that led to it."""

    inner: Any
    time: Int[Array, ""]


@dataclasses.dataclass(frozen=True, eq=False)
class DeviceEnvironment:
    """An environment in JAX behind one interface: `reset`, `step`, `observe`, `pictures`.

    Two adapters are equal if they are the same object or have the same `cache_key`.

    Args:
        env: the environment.
        params: its parameters.
        num_actions: number of actions.
        max_episode_steps: steps after which an episode is truncated; None keeps the environment's
            own limit.
        own_key: everything that the environment's functions depend on, besides the code of
            installed packages; None if unknown.
        images: the parts of observations that are images, see `find_images`.
    """

    env: JaxEnvironment
    params: Any
    num_actions: int
    max_episode_steps: int | None = None
    own_key: str | None = None
    images: tuple[str, ...] = (AUTO,)

    @staticmethod
    def create(
        env: JaxEnvironment,
        params: Any = None,
        *,
        max_episode_steps: int | None = None,
        cache_key: str | None = None,
        images: tuple[str, ...] = (AUTO,),
    ) -> "DeviceEnvironment":
        """Adapt an environment in JAX. Without a `cache_key`, tracing a step checks it.

        Args:
            env: the environment.
            params: its parameters; None takes its `default_params`.
            max_episode_steps: as in the class.
            cache_key: see `own_key`.
            images: as in the class.

        Raises:
            UserError: it lacks gymnax's interface, its actions are not discrete, or `images` do not
                fit its observations.
            EnvironmentFailedError: one of its functions failed while it was traced.
        """
        check_methods(env)
        if params is None:
            params = getattr(env, "default_params", None)
        adapted = DeviceEnvironment(
            env, params, count_actions(env, params), max_episode_steps, cache_key, images
        )
        if cache_key is None:
            adapted._check()
        return adapted

    @staticmethod
    def from_options(
        options: EnvironmentOptions,
        env: JaxEnvironment,
        params: Any = None,
        *,
        cache_key: str | None = None,
    ) -> "DeviceEnvironment":
        """Adapt an environment in JAX with the options of a run.

        Raises:
            UserError: as `create`, or an option is only for environments of Gymnasium.
            EnvironmentFailedError: as `create`.
        """
        bins = str(options.action_bins or NONE)
        given = {"vectorization": options.vectorization, "action_bins": bins}
        for name in (name for name, value in given.items() if value not in (AUTO, NONE)):
            raise UserError(
                f"{flag(name)} {given[name]} is for environments of Gymnasium; {options.env} is in "
                "JAX"
            )
        return DeviceEnvironment.create(
            env,
            params,
            max_episode_steps=options.max_episode_steps,
            cache_key=cache_key,
            images=options.images,
        )

    @property
    def cache_key(self) -> str | None:
        """Everything that its programs depend on, besides package code; None: trace them."""
        if self.own_key is None:
            return None
        key = self.own_key
        if self.max_episode_steps is not None:
            key += f", {self.max_episode_steps} steps"
        if self.images != (AUTO,):
            key += f", images {' '.join(self.images)}"
        return key

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, DeviceEnvironment) or self.cache_key is None:
            return self is other
        return self.cache_key == other.cache_key

    def __hash__(self) -> int:
        return object.__hash__(self) if self.cache_key is None else hash(self.cache_key)

    # The interface `Environment`

    @property
    def spec(self) -> EnvironmentSpec:
        """The interface of the environment."""
        return self._spec

    @cached_property
    def _spec(self) -> EnvironmentSpec:
        if self._encoding is not None:
            return EnvironmentSpec.of(self._encoding)
        stored = jax.eval_shape(self._stored, self._seen)
        return EnvironmentSpec(stored, self.num_actions, self._names, masked=self._masked)

    @cached_property
    def _seen(self) -> Any:
        """Shapes and types of an observation, as the environment shows it."""

        def shown() -> Any:
            observation, inner = self._reset_env(jax.random.key(0))
            return self._observed(inner) if self._observes else observation

        return jax.eval_shape(shown)

    @cached_property
    def _encoding(self) -> Encoding | None:
        """The spaces if an observation has several parts; None if it is one array."""
        if jax.tree_util.all_leaves([self._seen]) and self.images in ((AUTO,), (NONE,)):
            return None
        space, actions = space_of(self._seen, self._observation), gym.Discrete(self.num_actions)
        masks = "method" if self._masked else None
        return Encoding.of(space, actions, self._names, self.images, masks)

    @property
    def _names(self) -> tuple[str, ...]:
        return tuple(getattr(self.env, "action_names", numbered(self.num_actions)))

    @property
    def _masked(self) -> bool:
        return getattr(self.env, "action_mask", None) is not None

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        """The statistics that the environment declares."""
        return tuple(getattr(self.env, "statistics", ()))

    @property
    def trains_seeds_together(self) -> bool:
        """True: one program trains all seeds side by side."""
        return True

    @property
    def plays_one_at_a_time(self) -> bool:
        """False: the environment has no state of its own."""
        return False

    def tell_notices(self, tell: Callable[[str], None]) -> None:
        """Do nothing: there are no notices."""

    def by_kind(
        self,
        *,
        device: "Callable[[DeviceEnvironment], R]",
        host: "Callable[[HostEnvironment], R]",
    ) -> R:
        """Call `device`."""
        del host
        return device(self)

    # Episodes

    @property
    def counts(self) -> tuple[str, ...]:
        """The names in `info` that are summed over episodes."""
        names = [name for statistic in self.statistics for name in statistic.counts]
        return tuple(dict.fromkeys([*names, *self.panel, *self.episode_counts]))

    @property
    def episode_counts(self) -> tuple[str, ...]:
        """The names in `info` whose sums are recorded with each training episode."""
        return tuple(getattr(self.env, "episode_counts", ()))

    def reset(self, key: PRNGKeyArray) -> Any:
        """Start an episode; returns the state."""
        state = self._shown(*self._reset_env(key))
        return state if self.max_episode_steps is None else LimitedState(state, jnp.int32(0))

    def _reset_env(self, key: PRNGKeyArray) -> tuple[Any, Any]:
        """Call the environment's own `reset_env`."""
        with self._named("reset_env"):
            outcome = self.env.reset_env(key, self.params)
        self._check_length("reset_env", outcome, OUTCOME[:2])
        return outcome

    def step(
        self, key: PRNGKeyArray, state: Any, action: Int[Array, ""]
    ) -> tuple[Any, Array, Array, Array, dict[str, Array]]:
        """Take a step; returns state, reward, terminated, truncated and the counts of the step."""
        with self._named("step_env"):
            outcome = self.env.step_env(key, self._inner(state), action, self.params)
        self._check_length("step_env", outcome, OUTCOME)
        observation, inner, reward, terminated, info = outcome
        self._check_state(self._inner(state), inner)
        reward, terminated = self._scalar("reward", reward), self._scalar("terminated", terminated)
        terminated = terminated.astype(jnp.bool_)
        truncated = self._truncated(inner)
        after = self._shown(observation, inner)
        if self.max_episode_steps is not None:
            after = LimitedState(after, state.time + 1)
            truncated |= after.time >= self.max_episode_steps
        return after, reward, terminated, truncated & ~terminated, self._counted(info)

    def observe(self, state: Any) -> Any:
        """Return the observation of a state as it is stored: an array, or a `Mixed` of arrays."""
        state = self._unlimited(state)
        if isinstance(state, ShownState):
            return state.observation
        return self._stored(self._observed(state))

    def _observed(self, state: Any) -> Any:
        """Call the environment's own `observe`."""
        with self._named("observe"):
            return getattr(self.env, "observe")(state)  # noqa: B009 - it is optional

    def action_mask(self, state: Any) -> Bool[Array, " actions"] | None:
        """Return the valid actions in a state as the environment gives them; None without masks."""
        action_mask = getattr(self.env, "action_mask", None)
        if action_mask is None:
            return None
        inner = self._inner(state)
        with self._named("action_mask"):
            args = (inner,) if takes(action_mask, 1) else (inner, self.params)
            mask = jnp.asarray(action_mask(*args))
        if mask.shape != (self.num_actions,) or mask.dtype != jnp.bool_:
            raise UserError(
                f"{self.name}.action_mask returned {mask.dtype} {list(mask.shape)}, expected bool "
                f"[{self.num_actions}], one for each action"
            )
        return mask

    def _unlimited(self, state: Any) -> Any:
        return state if self.max_episode_steps is None else state.inner

    def _inner(self, state: Any) -> Any:
        state = self._unlimited(state)
        return state if self._observes else state.inner

    @cached_property
    def _observes(self) -> bool:
        """Whether `observe` takes only a state; that of gymnax also takes a key."""
        return takes(getattr(self.env, "observe", None), 1)

    def _shown(self, observation: Any, inner: Any) -> Any:
        if self._observes:
            return inner
        return ShownState(inner, self._stored(observation))

    def _stored(self, observation: Any) -> Any:
        """Bring an observation into the form in which it is stored."""
        if self._encoding is not None:
            return encode(self._encoding, observation, self._observation)
        if not jax.tree_util.all_leaves([observation]):
            raise UserError(
                f"{self._observation} is {type(observation).__name__}, expected one array as after "
                "a reset"
            )
        observation = jnp.asarray(observation)
        kept = observation.dtype in (jnp.uint8, jnp.bool_)
        return observation if kept else observation.astype(jnp.float32)

    def _truncated(self, inner: Any) -> Array:
        is_truncated = getattr(self.env, "is_truncated", None)
        if is_truncated is None:
            return jnp.bool_(False)
        with self._named("is_truncated"):
            return self._scalar("truncated", is_truncated(inner, self.params)).astype(jnp.bool_)

    def _counted(self, info: Any) -> dict[str, Array]:
        missing = [name for name in self.counts if name not in info]
        if missing:
            raise UserError(
                f"the info of {self.name}.step_env has no {missing[0]!r}, which its statistics, "
                "its panel or its episode_counts name"
            )
        return {name: self._scalar(name, info[name]) for name in self.counts}

    # Pictures

    @property
    def panel(self) -> tuple[str, ...]:
        """The names in `info` whose sums a video shows."""
        return tuple(getattr(self.env, "panel", ()))

    @property
    def frame_rate(self) -> float:
        """The pictures per second of a video."""
        return frame_rate(getattr(self.env, "render_fps", None))

    @property
    def _render(self) -> Callable[..., Any] | None:
        """The environment's `render`; None for those of gymnax, which plot instead."""
        render = getattr(self.env, "render", None)
        module = getattr(render, "__module__", None) or ""
        return None if module.startswith("gymnax.") else render

    def pictures(self, state: Any) -> Shaped[Array, "pictures ..."]:
        """Render a state: one picture, or one for each frame of a step."""
        render = self._render
        assert render is not None  # noqa: S101 - there is no `video_problem`
        inner = self._inner(state)
        with self._named("render"):
            args = (inner,) if takes(render, 1) else (inner, self.params)
            drawn = jnp.asarray(render(*args))
        return drawn if drawn.ndim == 4 else drawn[None]

    @property
    def video_problem(self) -> str | None:
        """The reason, in a line, why no video can be made, or None: found by tracing `render`."""
        return self._video_problem

    @cached_property
    def _video_problem(self) -> str | None:
        if self._render is None:
            return "the environment has no render(state) that returns a picture [height, width, 3]"
        try:
            drawn = jax.eval_shape(lambda: self.pictures(self.reset(jax.random.key(0))))
            as_picture(np.zeros(drawn.shape[1:], drawn.dtype))
        except NoPictureError as error:
            return f"the environment's {error}"
        except UserError as error:
            return str(error)
        return None

    # Checks, all made at trace time

    @property
    def name(self) -> str:
        """The class of the environment, for messages."""
        return full_name(type(self.env))

    @property
    def _observation(self) -> str:
        return f"the observation of {self.name}"

    def _named(self, function: str) -> contextlib.AbstractContextManager[None]:
        return named(f"{self.name}.{function}")

    def _check(self) -> None:
        """Trace a reset and two steps, in which the state must keep its shapes and types."""
        vector, key = VectorEnvironment(self, 2), jax.random.key(0)
        zeros = jnp.zeros(2, jnp.int32)
        before, _ = jax.eval_shape(vector.reset, key)
        after, _ = jax.eval_shape(vector.step, key, before, zeros, zeros > 0)
        pairs = zip(jax.tree.leaves_with_path(before), jax.tree.leaves(after), strict=True)
        for (path, old), new in pairs:
            if old.dtype != new.dtype:
                raise UserError(
                    f"the state of {self.name} changes its type: {jax.tree_util.keystr(path)} is "
                    f"{old.dtype}, but {new.dtype} after a step; convert it in step_env"
                )

    def _check_length(self, function: str, outcome: Any, names: tuple[str, ...]) -> None:
        if not isinstance(outcome, tuple | list) or len(outcome) != len(names):
            number = len(outcome) if isinstance(outcome, tuple | list) else 1
            raise UserError(
                f"{self.name}.{function} returned {counted(number, 'value')}, expected "
                f"{len(names)}: {', '.join(names)}"
            )

    def _check_state(self, before: Any, after: Any) -> None:
        old, new = ([jnp.shape(x) for x in jax.tree.leaves(tree)] for tree in (before, after))
        same = jax.tree.structure(before) == jax.tree.structure(after)
        if not same or old != new:
            shown = ("another structure", "") if not same else (f"shapes {new}", f": {old}")
            raise UserError(
                f"{self.name}.step_env returned a state of {shown[0]}, expected that of the state "
                f"it was given{shown[1]}"
            )

    def _scalar(self, what: str, value: Any) -> Array:
        if not jax.tree_util.all_leaves([value]) or jnp.shape(value) != ():
            is_array = jax.tree_util.all_leaves([value])
            shown = f"shape {list(jnp.shape(value))}" if is_array else type(value).__name__
            raise UserError(f"{what} of {self.name} is {shown}, expected one number")
        return jnp.asarray(value)
