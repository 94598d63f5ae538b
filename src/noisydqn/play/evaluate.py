"""Evaluation: whole episodes, played with mean weights and without noise."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import PRNGKeyArray

from noisydqn.compilation import Program
from noisydqn.envs.protocol import Environment
from noisydqn.envs.spec import Statistic
from noisydqn.learner.policy import Policy
from noisydqn.options import MAX_COUNT
from noisydqn.play.rollout import rollout
from noisydqn.settings import own_settings


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The outcome of an evaluation.

    Args:
        returns: of each episode.
        truncated: number of episodes that the step limit ended.
        stats: the values of the environment's statistics, by name.
        statistics: the statistics that the environment declares.
    """

    returns: tuple[float, ...]
    truncated: int = 0
    stats: dict[str, float] = dataclasses.field(default_factory=dict[str, float])
    statistics: tuple[Statistic, ...] = ()

    @property
    def mean_return(self) -> float:
        """The mean return of the episodes."""
        return float(np.mean(self.returns))

    @property
    def solved(self) -> bool:
        """Whether the environment declares goals and every goal is reached."""
        goals = [(x.name, x.goal) for x in self.statistics if x.goal is not None]
        return bool(goals) and all(
            name in self.stats and self.stats[name] >= goal for name, goal in goals
        )

    @property
    def reported(self) -> list[tuple[Statistic, float]]:
        """The statistics that have a value, each with its value."""
        return [(x, self.stats[x.name]) for x in self.statistics if x.name in self.stats]

    def summary(self) -> dict[str, Any]:
        """Return the values that are written to `summary.json` and printed as JSON."""
        return {
            "episodes": len(self.returns),
            "mean_return": self.mean_return,
            "truncated_episodes": self.truncated,
            **self.stats,
        }

    def describe(self) -> str:
        """Describe the outcome in words."""
        said = "".join(f", {statistic.say(value)}" for statistic, value in self.reported)
        limit = f", {self.truncated} truncated" if self.truncated else ""
        return f"return {self.mean_return:.1f}{said}{limit}"


@own_settings()
def evaluate(
    env: Environment,
    policy: Policy,
    *,
    episodes: int,
    key: PRNGKeyArray,
    max_steps: int = MAX_COUNT,
    check: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Play `episodes` whole episodes with mean weights.

    Args:
        env: the environment.
        policy: the policy that plays.
        episodes: number of episodes.
        key: random key of the episodes.
        max_steps: steps after which an episode is truncated.
        check: called now and then; it may raise to end the evaluation.

    Raises:
        EnvironmentFailedError: an environment of Gymnasium failed.
    """
    played = rollout(env).play(policy, episodes, key, max_steps, check)
    values = {statistic.name: statistic.of(played.counts) for statistic in env.statistics}
    stats = {name: value for name, value in values.items() if value is not None}
    return Evaluation(played.returns, played.truncated, stats, env.statistics)


def evaluation_programs(
    env: Environment, policy: Policy, episodes: int
) -> tuple[Program[Any], ...]:
    """Return the programs that `evaluate` runs for policies like `policy`."""
    return rollout(env).programs(policy, episodes)
