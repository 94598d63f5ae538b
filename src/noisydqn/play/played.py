"""The interface and the results of greedy play, the same for every kind of environment."""

from collections.abc import Callable, Generator
from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import PRNGKeyArray

from noisydqn.compilation import Program
from noisydqn.dimensions import Sizes, end_to_end, places
from noisydqn.learner.policy import Policy


class Played(NamedTuple):
    """Whole episodes that were played."""

    returns: tuple[float, ...]
    truncated: int  # number of episodes that the step limit ended
    counts: dict[str, np.ndarray]  # sums over each episode [episodes], NaN where none are reported


class Shot(NamedTuple):
    """One picture of a video."""

    picture: np.ndarray  # [height, width, 3], bytes
    lines: tuple[str, ...]  # shown on the panel
    q: np.ndarray  # [actions]; with several dimensions the choices in all, end to end
    actions: tuple[int, ...]  # the places of the greedy ones in it, one for each dimension
    seen: Any  # what the policy saw: the raw observation, or the stack of the newest


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

        `check` is called now and then, and may raise to stop the play.
        """
        ...

    def shot_programs(self, policy: Policy) -> tuple[Program[Any], ...]:
        """Return the programs that `shots` runs for policies like `policy`."""
        ...

    def shots(self, policy: Policy, seconds: float, key: PRNGKeyArray) -> Generator[Shot]:
        """Yield `seconds` seconds of video; the environment must have no `video_problem`."""
        ...

    @property
    def frame_rate(self) -> float:
        """The pictures per second of a video."""
        ...


def shown_actions(
    q: np.ndarray, action: np.ndarray, sizes: Sizes
) -> tuple[np.ndarray, tuple[int, ...]]:
    """Return the values [A] of all choices and the places of those of an action."""
    chosen = np.atleast_1d(places(action, sizes))
    return np.asarray(end_to_end(q, sizes)), tuple(map(int, chosen))


def panel_lines(episode: int, total: float, steps: int) -> tuple[str, ...]:
    """Describe the progress of an episode, for the panel of a video."""
    return f"episode  {episode}", f"return  {total:.1f}", f"step  {steps}"
