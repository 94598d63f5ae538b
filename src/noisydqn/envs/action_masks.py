"""Action masks of environments of Gymnasium: where they are found, and their checks.

Three conventions are known:

- `info["action_mask"]` of reset and step;
- a method `action_masks()`, as sb3-contrib has it;
- a key "action_mask" of a `Dict` observation, as PettingZoo has it. It is taken out of what the
  agent sees; if only "observation" is left, the agent sees that alone.

A guarded environment shows observation and mask together, in one `Dict`, so that they travel
through vectors and worker processes in the same way.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, cast

import gymnasium
import numpy as np
from gymnasium import spaces

from noisydqn.envs.spaces import check_keys
from noisydqn.envs.values import as_numbers, check_shape, refuse_unless
from noisydqn.errors import SpaceError, UserError, WrongValueError

Source = Literal["info", "method", "observation"]
"""Where an environment gives its masks."""

KEY, METHOD, REST = "action_mask", "action_masks", "observation"

NAMES: Mapping[Source, str] = {
    "info": f'info["{KEY}"]',
    "method": f"{METHOD}()",
    "observation": f'observation["{KEY}"]',
}
"""The source of a mask, as messages name it."""


def declared_source(env: Any, space: spaces.Space[Any]) -> Source | None:
    """Find out where an environment gives masks, as far as it shows before its first reset.

    Args:
        env: the environment, or a vector.
        space: of one environment's observations.
    """
    if isinstance(space, spaces.Dict) and KEY in space.spaces:
        return "observation"
    return "method" if _method(env) is not None else None


def _method(env: Any) -> Callable[[], Any] | None:
    """Return the environment's method, or that of the environment that it wraps; None without."""
    find = getattr(env, "get_wrapper_attr", partial(getattr, env))
    try:
        method = find(METHOD)
    except AttributeError:
        return None
    return method if callable(method) else None


def _without_mask(shown: Mapping[str, Any]) -> Any:
    """Return the parts of an observation without the mask, or the only one if it is REST."""
    others = {key: value for key, value in shown.items() if key != KEY}
    return others[REST] if others.keys() == {REST} else others


def _as_mask(value: Any, shape: tuple[int, ...], name: str, expected: str) -> np.ndarray:
    """Convert booleans, or 0 and 1, to booleans.

    Raises:
        WrongValueError: the value has another shape, or holds something else.
    """
    array = as_numbers(value, name, expected)
    check_shape(array, shape, name, expected)
    refuse_unless((array == 0) | (array == 1), array, name, expected)
    return array.astype(bool)


class MaskReader:
    """Checks of an environment's action masks, and what is left of its observations without them.

    Args:
        env: the environment.
        space: of its observations, as they are encoded.
        source: where it gives masks.

    Raises:
        SpaceError: its actions are not discrete, or the mask in its observations has another size
            than there are actions.
    """

    def __init__(
        self, env: gymnasium.Env[Any, Any], space: spaces.Space[Any], source: Source
    ) -> None:
        self._source: Source = source
        self._name, self._method = NAMES[source], _method(env)
        actions = env.action_space
        if not isinstance(actions, spaces.Discrete):
            raise SpaceError(
                f"the environment gives action masks ({self._name}), which are for Discrete "
                f"actions, but its action space is {actions}: wrap it so that it offers a list of "
                "actions"
            )
        self._size = int(actions.n)
        self._expected = f"[{self._size}] of booleans or of 0 and 1, one for each action"
        self._keys: tuple[str, ...] = ()
        self.rest: spaces.Space[Any] = space
        """The space of the observations without masks."""
        if source == "observation":
            parts = cast(spaces.Dict, space).spaces
            if parts[KEY].shape != (self._size,):
                raise SpaceError(
                    f"the space of {self._name} is {parts[KEY]}, expected {self._expected}"
                )
            self._keys = tuple(parts)
            if parts.keys() == {KEY}:
                raise SpaceError(f"the observations hold nothing but {self._name}")
            rest = _without_mask(parts)
            self.rest = spaces.Dict(rest) if isinstance(rest, dict) else rest

    @property
    def space(self) -> spaces.Dict:
        """The space of observations and masks together."""
        return spaces.Dict({REST: self.rest, KEY: spaces.MultiBinary(self._size)})

    def without(self, observation: Any) -> Any:
        """Return what the agent sees of an observation.

        Raises:
            WrongValueError: the observation has not the keys of its space.
        """
        if not self._keys:
            return observation
        check_keys(observation, self._keys, "observation")
        return _without_mask(observation)

    def given(self, observation: Any, info: Any) -> Any:
        """Return the mask that the environment gives, unchecked; None if there is none."""
        if self._source == "observation":
            return observation[KEY]
        if self._source == "method":
            return None if self._method is None else self._method()
        return cast(Any, info).get(KEY) if isinstance(info, Mapping) else None

    def read(self, mask: Any, *, terminated: bool) -> np.ndarray:
        """Check a mask; a state in which the episode terminated needs none.

        Returns:
            The valid actions, bool [A]; all of them where nothing is chosen any more.

        Raises:
            WrongValueError: the mask is missing, has another shape, holds something else than 0 and
                1, or allows no action.
        """
        if mask is None and terminated:
            return np.ones(self._size, bool)
        if mask is None:
            raise WrongValueError(f"{self._name} is missing, expected {self._expected}")
        valid = _as_mask(mask, (self._size,), self._name, self._expected)
        if valid.any():
            return valid
        if not terminated:
            raise WrongValueError(
                f"{self._name} allows no action, expected at least one unless the episode has "
                "terminated"
            )
        return np.ones(self._size, bool)


# Masks that users give to a policy


def split_mask(observation: Any) -> tuple[Any, Any]:
    """Take the mask out of an observation that may hold one.

    Args:
        observation: of the environment, or a batch; or without the mask already.

    Returns:
        What the agent sees, and the mask; None if there is none.
    """
    if not isinstance(observation, Mapping) or KEY not in observation:
        return observation, None
    shown = cast(Mapping[str, Any], observation)
    return _without_mask(shown), shown[KEY]


def read_masks(masks: Any, num_actions: int, batch: int | None) -> np.ndarray:
    """Check the mask of one observation, or those of a batch; returns bool [B, A].

    Args:
        masks: as the user gives them.
        num_actions: number of actions, A.
        batch: number of observations; None for a single one, without a batch axis.

    Raises:
        UserError: a mask is missing, has another shape, holds something else than 0 and 1, or
            allows no action.
    """
    shape = (num_actions,) if batch is None else (batch, num_actions)
    expected = f"{list(shape)} of booleans or of 0 and 1"
    if masks is None:
        raise UserError(
            f"the policy was trained with action masks: give action_mask, {expected}, as the "
            "environment does"
        )
    try:
        valid = _as_mask(masks, shape, KEY, expected).reshape(-1, num_actions)
    except WrongValueError as error:
        raise UserError(f"{error}: give it as the environment does") from None
    if not valid.any(axis=-1).all():
        raise UserError("action_mask allows no action: give masks of states that are not terminal")
    return valid
