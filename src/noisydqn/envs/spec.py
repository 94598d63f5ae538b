"""The interface of an environment, and the statistics of episodes that it declares."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from noisydqn.dimensions import Sizes
from noisydqn.envs.encoding import Encoding
from noisydqn.envs.spaces import Discrete
from noisydqn.errors import counted
from noisydqn.trees import zeros
from noisydqn.types import TimeStep


@dataclasses.dataclass(frozen=True)
class EnvironmentSpec:
    """The interface of an environment: everything that a policy and a replay buffer need.

    Args:
        observation: shape and type of one observation as it is stored, or a `Mixed` of those of
            its parts. Images are [height, width] or [height, width, channels]; bytes are
            full-range, 0 to 255.
        num_actions: number of actions; with several dimensions that of the choices in all.
        action_names: names to display; numbers if the environment has no names for its actions.
        spaces: the spaces of an environment whose observations are encoded before they are stored
            or whose actions are not counted from 0; None for others.
        masked: whether time steps have action masks.
    """

    observation: Any
    num_actions: int
    action_names: tuple[str, ...]
    spaces: Encoding | None = None
    masked: bool = False

    def __hash__(self) -> int:
        parts, structure = jax.tree.flatten(self.observation)  # dictionaries have no hash
        return hash((*parts, structure, self.num_actions, self.action_names, self.spaces))

    @staticmethod
    def of(encoding: Encoding) -> "EnvironmentSpec":
        """Make the interface of an environment with these spaces."""
        names, masked = encoding.action_names, encoding.masked
        return EnvironmentSpec(encoding.stored, encoding.num_actions, names, encoding, masked)

    @property
    def encoding(self) -> Encoding:
        """The spaces of the environment."""
        if self.spaces is not None:
            return self.spaces
        seen = self.observation
        return Encoding.as_stored(seen.shape, seen.dtype, self.action_names, masked=self.masked)

    @property
    def action_sizes(self) -> Sizes:
        """The number of choices in each dimension of an action."""
        return (self.num_actions,) if self.spaces is None else self.spaces.sizes

    @property
    def actions_in_words(self) -> str:
        """The actions, in words."""
        if self.spaces is None or isinstance(self.spaces.actions, Discrete):
            return counted(self.num_actions, "action")
        return self.spaces.actions.words

    def has_actions(self, actions: np.ndarray) -> bool:
        """Tell whether an array [..., D], or [...] with one dimension, holds possible actions."""
        return bool(((actions >= 0) & (actions < np.array(self.action_sizes))).all())

    def blank_actions(self, num_envs: int) -> Int[Array, " envs *d"]:
        """Return the first action for every environment."""
        return jnp.zeros((num_envs, *self.action_shape), jnp.int32)

    @property
    def action_shape(self) -> tuple[int, ...]:
        """The shape of an action: a number, or a choice in each of several dimensions."""
        sizes = self.action_sizes
        return () if len(sizes) == 1 else (len(sizes),)

    def blank_masks(self, num_envs: int) -> Bool[Array, "envs actions"] | None:
        """Return masks that allow every action, or None without action masks."""
        return jnp.ones((num_envs, self.num_actions), jnp.bool_) if self.masked else None

    def time_steps(self, *axes: int) -> TimeStep:
        """Return the shapes and types of time steps with some leading axes."""

        def blank() -> TimeStep:
            masks = (*axes, self.num_actions)
            return TimeStep(
                observation=zeros(self.observation, *axes),
                reward=jnp.zeros(axes, jnp.float32),
                terminated=jnp.zeros(axes, jnp.bool_),
                truncated=jnp.zeros(axes, jnp.bool_),
                info={},
                action_mask=jnp.ones(masks, jnp.bool_) if self.masked else None,
            )

        return jax.eval_shape(blank)


@dataclasses.dataclass(frozen=True)
class Statistic:
    """A number that evaluations report beside the return, and perhaps the goal of learning.

    It is computed from numbers in the environment's `info`, summed over each episode:

        Statistic("wins", "won", part="won", whole=("won", "lost"), goal=0.9)

    is the share of all points in all episodes that were won. Without `whole`, a statistic is the
    mean of `part` over the episodes that report it.

    Args:
        name: as in `summary.json`, `evaluations.csv` and TensorBoard.
        words: the words that follow its value in a printed line.
        part: the name in `info` of the numerator.
        whole: the names in `info` whose sum is the denominator.
        style: how its value is formatted.
        goal: the lowest value at which the environment counts as solved.
        meaning: a sentence that explains the statistic in TensorBoard.
    """

    name: str
    words: str
    part: str
    whole: tuple[str, ...] = ()
    style: str = ".1%"
    goal: float | None = None
    meaning: str = ""

    @property
    def counts(self) -> tuple[str, ...]:
        """The names in `info` that the statistic is computed from."""
        return self.part, *self.whole

    def of(self, counts: Mapping[str, np.ndarray]) -> float | None:
        """Compute the statistic from sums over episodes.

        Args:
            counts: sums by name, each [episodes]; NaN where an episode reported none.

        Returns:
            The value; None if no episode reported one.
        """
        if not counts.keys() >= set(self.counts):
            return None
        part = counts[self.part]
        if self.whole:
            whole = sum(np.sum(counts[name]) for name in self.whole)
            return float(np.sum(part) / max(whole, 1))
        known = part[~np.isnan(part)]
        return float(np.mean(known)) if known.size else None

    def say(self, *values: float) -> str:
        """Format values in words, such as "99.50%, 98.70% of the points won"."""
        return f"{', '.join(format(value, self.style) for value in values)} {self.words}"
