"""Spaces of observations, and samples of them."""

from typing import Any, cast

import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import concatenate, create_empty_array

from noisydqn.envs.encoding import Encoding
from noisydqn.envs.spec import EnvironmentSpec

IMAGE = spaces.Box(0, 255, (6, 5, 3), np.uint8)
BITS = spaces.Box(0, 1, (10, 10, 4), cast(Any, bool))
MIXED = spaces.Dict({"image": IMAGE, "speed": spaces.Box(-1, 1, (4,))})
ACTIONS = spaces.Discrete(3, start=5)


def encoding(space: spaces.Space[Any]) -> Encoding:
    """The encoding of observations, with actions from 5 to 7."""
    return Encoding.of(space, ACTIONS)


def spec(space: spaces.Space[Any]) -> EnvironmentSpec:
    """An environment that shows such observations."""
    return EnvironmentSpec.of(encoding(space))


def samples(space: spaces.Space[Any], number: int) -> tuple[list[Any], Any]:
    """Observations, and the same as a vector environment shows them."""
    space.seed(0)
    one_by_one = [space.sample() for _ in range(number)]
    batch: Any = create_empty_array(space, number)
    return one_by_one, concatenate(space, one_by_one, batch)
