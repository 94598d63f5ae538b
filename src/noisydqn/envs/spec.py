"""What a policy and a replay buffer must know of an environment."""

import dataclasses

import jax

from noisydqn.envs.encoding import Encoding, numbered

__all__ = ["EnvironmentSpec", "numbered"]


@dataclasses.dataclass(frozen=True)
class EnvironmentSpec:
    """The interface of an environment.

    Args:
        observation: shape and type of one observation as it is stored. Images are
            [height, width] or [height, width, channels]; bytes are full-range, 0 to 255.
        num_actions: how many actions there are.
        action_names: for people; numbers if the environment has no names for them.
        spaces: its spaces, where observations are not shown as they are stored, or actions are
            not counted from 0.
    """

    observation: jax.ShapeDtypeStruct
    num_actions: int
    action_names: tuple[str, ...]
    spaces: Encoding | None = None

    @staticmethod
    def of(encoding: Encoding) -> "EnvironmentSpec":
        """The interface of an environment with these spaces."""
        observation = jax.ShapeDtypeStruct(encoding.shape, encoding.dtype)
        return EnvironmentSpec(observation, encoding.actions.n, encoding.action_names, encoding)

    @property
    def encoding(self) -> Encoding:
        """The spaces of the environment."""
        if self.spaces is not None:
            return self.spaces
        seen = self.observation
        return Encoding.as_stored(seen.shape, seen.dtype, self.action_names)
