"""What a policy and a memory must know of an environment."""

import dataclasses

import jax


@dataclasses.dataclass(frozen=True)
class EnvironmentSpec:
    """The interface of an environment.

    Args:
        observation: shape and type of one observation as it is stored. Images are
            [height, width] or [height, width, channels]; bytes are full-range, 0 to 255.
        num_actions: how many actions there are.
        action_names: for people; numbers if the environment has no names for them.
    """

    observation: jax.ShapeDtypeStruct
    num_actions: int
    action_names: tuple[str, ...]


def numbered(num_actions: int) -> tuple[str, ...]:
    """Names for actions that have none."""
    return tuple(map(str, range(num_actions)))
