"""Greedy play in environments of Gymnasium, which step in Python; the policy is compiled."""

import itertools
from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from noisydqn.compilation import Program, program_for
from noisydqn.envs.host import HostEnvironment
from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.envs.vectors import HostVector
from noisydqn.learner.policy import Policy
from noisydqn.play.played import Played, Shot, panel_lines, shown_actions
from noisydqn.preprocessing import frames
from noisydqn.trees import zeros
from noisydqn.types import TimeStep

SIDE_BY_SIDE = 50
"""Largest number of environments of Gymnasium that play at once in an evaluation."""


def act(
    policy: Policy, stack: Any, observation: Any, started: Array, masks: Array | None
) -> tuple[Any, Array, Array]:
    """Call `Policy.act`. Compiled programs are cached by function, so this one is module-level."""
    return policy.act(stack, observation, started, masks)


def act_program(
    policy: Policy, spec: EnvironmentSpec, num_envs: int
) -> Program[tuple[Any, Array, Array]]:
    """Return the program of `Policy.act` for policies like `policy` in `num_envs` environments."""
    seen = jax.eval_shape(partial(zeros, spec.observation, num_envs))
    stack = jax.eval_shape(partial(frames.start, frames=policy.frames), seen)
    started = jax.ShapeDtypeStruct((num_envs,), jnp.bool_)
    masks = jax.eval_shape(partial(spec.blank_masks, num_envs))
    return program_for("evaluation", act, policy, stack, seen, started, masks)


def play_vector(
    vector: HostVector, policy: Policy, seed: int
) -> Iterator[tuple[TimeStep, Array, np.ndarray, np.ndarray]]:
    """Play with mean weights, endlessly.

    Yields each time step with what the policy saw [envs, ...], the actions [envs] chosen on it and
    the values [envs, A].
    """
    choose = act_program(policy, vector.spec, vector.num_envs)
    time_step = vector.reset(seed)
    started = np.ones(vector.num_envs, bool)
    stack = frames.start(jax.tree.map(jnp.asarray, time_step.observation), policy.frames)
    while True:
        shown = time_step.observation, started, time_step.action_mask
        stack, actions, q = choose(policy, stack, *shown)
        yield time_step, stack, np.asarray(actions), np.asarray(q)
        started = np.asarray(time_step.last)
        time_step = vector.step(np.asarray(actions))


class _Share:
    """The episodes that each environment of a vector still has to play, and the results so far.

    A native vector does not know `max_steps`: it continues an episode that is truncated here. Its
    steps count again once that episode has ended, or after a reset. The reset comes when no
    environment can play anything else that counts.
    """

    def __init__(self, episodes: int, size: int, max_steps: int, names: tuple[str, ...]) -> None:
        self.left = np.array([len(range(i, episodes, size)) for i in range(size)])
        self.returns: list[float] = []
        self.truncated = 0
        self.counts: dict[str, list[float]] = {name: [] for name in names}
        self._max_steps, self._nan = max_steps, np.full(size, np.nan)
        self.begin()

    def begin(self) -> None:
        """Start an episode in every environment, after a reset."""
        size = len(self.left)
        self._over, self._beyond = np.ones(size, bool), np.zeros(size, bool)
        self._running, self._length = np.zeros(size), np.zeros(size, int)

    def take(self, time_step: TimeStep, stats: dict[str, np.ndarray]) -> bool:
        """Count a time step; returns true if it completes the share of an environment."""
        self._running = np.where(self._over, 0, self._running) + time_step.reward
        self._length = np.where(self._over, 0, self._length + 1)
        self._over = np.asarray(time_step.last)
        limited = ~self._beyond & (self._length >= self._max_steps)
        ended = (self._over | limited) & ~self._beyond & (self.left > 0)
        self.returns += self._running[ended].tolist()
        self.truncated += int((ended & limited & ~np.asarray(time_step.terminated)).sum())
        for name, values in self.counts.items():
            values.extend(stats.get(name, self._nan)[ended].tolist())
        self.left -= ended
        self._beyond = (self._beyond | limited) & ~self._over
        return bool(np.any(ended & (self.left == 0)))

    @property
    def waits(self) -> bool:
        """Whether nothing that counts can be played without a reset."""
        return bool(np.all((self.left == 0) | self._beyond))


class HostRollout:
    """Greedy play in an environment of Gymnasium."""

    def __init__(self, env: HostEnvironment) -> None:
        self.env = env

    def programs(self, policy: Policy, episodes: int) -> tuple[Program[Any], ...]:
        """Return the programs that `play` runs for policies like `policy`."""
        return (act_program(policy, self.env.spec, min(episodes, SIDE_BY_SIDE)),)

    def play(
        self,
        policy: Policy,
        episodes: int,
        key: PRNGKeyArray,
        max_steps: int,
        check: Callable[[], None],
    ) -> Played:
        """Play the episodes, divided among environments in lockstep.

        Raises:
            EnvironmentFailedError: an environment failed.
        """
        seed = int(jax.random.bits(key))
        vector = self.env.vector(min(episodes, SIDE_BY_SIDE), max_steps=max_steps, fewer=True)
        names = tuple(name for statistic in self.env.statistics for name in statistic.counts)
        share = _Share(episodes, vector.num_envs, max_steps, names)
        try:
            while share.left.any():
                for time_step, *_ in play_vector(vector, policy, seed):
                    check()
                    finished = share.take(time_step, vector.stats)
                    if share.waits:
                        break
                    if finished:
                        vector.rest(share.left == 0)
                share.begin()
                seed += 1
        finally:
            vector.close()
        counts = {name: np.array(values) for name, values in share.counts.items()}
        return Played(tuple(share.returns), share.truncated, counts)

    @property
    def frame_rate(self) -> float:
        """The pictures per second of a video."""
        rate = self.env.frame_rate
        assert rate is not None  # noqa: S101 - there is no `video_problem`
        return rate

    def shot_programs(self, policy: Policy) -> tuple[Program[Any], ...]:
        """Return no programs: a video needs only a small one."""
        del policy
        return ()

    def shots(self, policy: Policy, seconds: float, key: PRNGKeyArray) -> Generator[Shot]:
        """Yield a picture before each step: rendered, or else the observation itself."""
        vector = self.env.vector(1, pictures=True)
        sizes = self.env.spec.action_sizes
        number, seed = max(round(seconds * self.frame_rate), 1), int(jax.random.bits(key))
        episode, total, steps, over = 0, 0.0, 0, True
        try:
            played = itertools.islice(play_vector(vector, policy, seed), number)
            for time_step, seen, actions, q in played:
                if over:
                    episode, total, steps = episode + 1, 0.0, 0
                else:
                    total, steps = total + float(time_step.reward[0]), steps + 1
                over = bool(time_step.last[0])
                lines = panel_lines(episode, total, steps)
                picture = vector.picture(time_step)
                only = jax.tree.map(lambda x: np.asarray(x)[0], seen)
                yield Shot(picture, lines, *shown_actions(q[0], actions[0], sizes), only)
        finally:
            vector.close()
