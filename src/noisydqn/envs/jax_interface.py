"""The interface of gymnax, which every environment in JAX has to have."""

import contextlib
import inspect
import traceback
from collections.abc import Generator
from typing import Any, Protocol

from jaxtyping import Array, Int, PRNGKeyArray

from noisydqn.envs.catalogue import full_name
from noisydqn.errors import EnvironmentFailedError, UserError, in_one_line, is_stop

OUTCOME = ("observation", "state", "reward", "terminated", "info")


class JaxEnvironment(Protocol):
    """An environment in JAX with the interface of gymnax; gymnax itself is not needed.

    The two functions below are required, and either `num_actions` or an `action_space(params)`
    whose space has `n`. An observation is an array, or a dictionary or tuple of observations. The
    rest is optional:

    - `default_params`: the parameters, such as a time limit.
    - `action_mask(state)` or `action_mask(state, params)`: the valid actions, bool [actions]; at
      least one unless the episode has terminated.
    - `is_truncated(state, params)`: whether a time limit ends the episode in this state.
    - `render(state)` or `render(state, params)`: a picture [height, width, 3] of bytes or floats,
      for videos; or several [pictures, height, width, 3] where a step lasts several frames.
    - `render_fps`: pictures per second of a video, 30 by default.
    - `action_names`: a name for each action, to display.
    - `statistics`: a tuple of `Statistic`, each computed from the `info` of `step_env`.
    - `panel`: names in `info` whose sums a video shows.
    - `episode_counts`: names in `info` whose sums over an episode are recorded for each training
      episode. One called "success" is drawn as the success of training episodes.
    - `observe(state)`: the observation, if it depends on the state alone. It is then not kept
      with the state.
    """

    def reset_env(self, key: PRNGKeyArray, params: Any, /) -> tuple[Any, Any]:
        """Start an episode; returns observation and state."""
        ...

    def step_env(
        self, key: PRNGKeyArray, state: Any, action: Int[Array, ""], params: Any, /
    ) -> tuple[Any, Any, Any, Any, Any]:
        """Take a step; returns observation, state, reward, terminated and info."""
        ...


def check_methods(env: object) -> None:
    """Refuse an environment that does not define `reset_env` and `step_env` itself.

    Raises:
        UserError: it does not. A wrapper that only passes them on would lose its own changes.
    """
    for function in ("reset_env", "step_env"):
        if inspect.getattr_static(env, function, None) is None:
            if getattr(env, function, None) is not None:
                raise UserError(
                    f"{full_name(type(env))} wraps an environment in JAX but has no {function} of "
                    "its own, so that its changes would be lost: let it wrap reset_env and "
                    "step_env"
                )
            raise UserError(
                f"{full_name(type(env))} has no {function}, expected gymnax's reset_env(key, "
                "params) and step_env(key, state, action, params)"
            )


def count_actions(env: object, params: Any) -> int:
    """Count the actions of an environment.

    Raises:
        UserError: they are not discrete, or not declared.
        EnvironmentFailedError: its `action_space` failed.
    """
    name = full_name(type(env))
    space = getattr(env, "action_space", None)
    if callable(space):
        try:
            with named(f"{name}.action_space"):
                space = space(params)
        except EnvironmentFailedError as error:
            if not isinstance(error.__cause__, NotImplementedError):  # that of gymnax's base class
                raise
            space = None
    number: Any = getattr(env, "num_actions", None) if space is None else getattr(space, "n", None)
    if number is None and space is not None:
        raise UserError(
            f"the action space of {name} is {type(space).__name__}, expected Discrete: in JAX, "
            "noisydqn takes no actions of several dimensions and divides none into bins"
        )
    if number is None:
        raise UserError(f"{name} has neither action_space(params) nor num_actions")
    return int(number)


def takes(function: Any, number: int) -> bool:
    """Tell whether a function can be called with `number` positional arguments."""
    if function is None:
        return False
    try:
        inspect.signature(function).bind(*range(number))
    except (TypeError, ValueError):
        return False
    return True


@contextlib.contextmanager
def named(function: str) -> Generator[None]:
    """Name the environment's function in any error that it raises."""
    try:
        yield
    except BaseException as error:
        if is_stop(error) or isinstance(error, UserError):
            raise
        raise EnvironmentFailedError(
            f"{function} cannot be compiled by JAX: it raised {in_one_line(error)}; correct the "
            f"environment\n{''.join(traceback.format_exception(error))}"
        ) from error
