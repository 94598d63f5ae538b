"""What greedy play gives, in every kind of environment: episodes, or pictures on the way."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import PRNGKeyArray

from noisydqn.compilation import Program
from noisydqn.learner.policy import Policy


class Played(NamedTuple):
    """Whole episodes that were played."""

    returns: tuple[float, ...]
    truncated: int  # how many the limit of steps ended
    counts: dict[str, np.ndarray]  # sums over each episode [episodes], NaN where none are reported


class Shot(NamedTuple):
    """One picture of a video."""

    picture: np.ndarray  # [height, width, 3], bytes
    lines: tuple[str, ...]  # shown on the panel
    q: np.ndarray  # [actions]
    action: int


class Rollout(Protocol):
    """Greedy play in an environment, with mean weights."""

    def programs(self, policy: Policy, episodes: int) -> tuple[Program[Any], ...]:
        """Return the programs that `play` runs for policies like `policy`."""
        ...

    def play(
        self,
        policy: Policy,
        episodes: int,
        key: PRNGKeyArray,
        max_steps: int,
        check: Callable[[], None],
    ) -> Played:
        """Play whole episodes; those longer than `max_steps` are truncated.

        `check` is called every now and then, and may raise to leave.
        """
        ...

    def shot_programs(self, policy: Policy) -> tuple[Program[Any], ...]:
        """Return the programs that `shots` runs for policies like `policy`."""
        ...

    def shots(self, policy: Policy, seconds: float, key: PRNGKeyArray) -> Iterator[Shot]:
        """Play for so many seconds of video; only where the environment has no `video_problem`."""
        ...

    @property
    def frame_rate(self) -> float:
        """Pictures a second in a video."""
        ...


def panel_lines(episode: int, total: float, steps: int) -> tuple[str, ...]:
    """Say how far an episode is, for the panel of a video."""
    return f"episode  {episode}", f"return  {total:.1f}", f"step  {steps}"
