"""A check around every environment of Gymnasium, which names what is wrong with what it gives."""

import traceback
import warnings
from collections.abc import Callable, Mapping
from typing import Any, cast

import gymnasium
import numpy as np

from noisydqn.envs.values import read, read_flag, read_reward
from noisydqn.errors import EnvironmentFailedError, WrongValueError, counted, in_one_line, is_stop

__all__ = ["EnvironmentFailedError", "GuardedEnv", "guarded"]

OUTCOME = "observation, reward, terminated, truncated, info"
OLD_STEP = "expected 5, got 4"
"""Part of Python's message where one of Gymnasium's wrappers unpacks an old step."""


SUCCESS_KEYS = ("is_success", "success")
"""Where environments report in `info` that an episode reached its goal."""


def success(info: Any) -> dict[str, float]:
    """Return {"success": x} if an episode's last `info` reports one number for it, else {}."""
    for key in SUCCESS_KEYS:
        value = cast(Mapping[str, Any], info).get(key) if isinstance(info, Mapping) else None
        if isinstance(value, bool | int | float | np.number | np.bool_):
            return {"success": float(value)}
    return {}


class GuardedEnv(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Checks what an environment gives, names what is wrong, and seeds every episode.

    Episode k of an environment that was first reset with seed s starts from a seed made of s and
    k alone, so that it can be played again by itself.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        index: int,
        notice: Callable[[str], None] = warnings.warn,
    ) -> None:
        """Guard an environment.

        Args:
            env: the environment.
            index: its place among those in lockstep.
            notice: told, in a line, of what goes wrong while closing.
        """
        super().__init__(env)
        self.metadata = dict(env.metadata or {})  # a vector writes into it
        self.notice = notice
        self._space = env.observation_space
        self._index, self._seed, self._episode, self._step = index, 0, 0, 0
        self._restart = self._resting = False
        self._newest: Any = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start the next episode, or, with a seed, the first."""
        self._resting = self._resting and seed is None
        if self._resting:
            return self._newest, {}
        self._episode = 0 if seed is not None else self._episode + 1
        self._seed = self._seed if seed is None else seed
        sequence = np.random.SeedSequence([self._seed, self._episode])
        episode_seed = int(sequence.generate_state(1)[0])
        self._step = 0
        shown = self._call(self.env.reset, seed=episode_seed, options=options)
        if not isinstance(shown, tuple | list) or len(shown) != 2:
            raise self._failure(
                f"reset returned {type(shown).__name__}, expected (observation, info)"
            )
        return self._read(shown[0]), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take a step."""
        if self._resting:
            return self._newest, 0.0, False, False, {}
        if self._restart:
            self._restart = False
            return self.reset()[0], 0.0, False, False, {}
        self._step += 1
        outcome = self._call(self.env.step, action)
        if not isinstance(outcome, tuple | list) or len(outcome) != 5:
            number = len(outcome) if isinstance(outcome, tuple | list) else 1
            raise self._failure(f"step returned {counted(number, 'value')}, expected 5: {OUTCOME}")
        observation, reward, terminated, truncated, info = outcome
        observation = self._read(observation)
        try:
            reward = read_reward(reward)
            terminated = read_flag(terminated, "terminated")
            truncated = read_flag(truncated, "truncated")
        except WrongValueError as error:
            raise self._failure(str(error)) from None
        stats = success(info) if terminated or truncated else {}
        return observation, reward, terminated, truncated, stats

    def render(self) -> Any:
        """Draw a picture."""
        return self._call(self.env.render)

    def close(self) -> None:
        """Close the environment; whatever it raises is noticed and goes no further."""
        try:
            self.env.close()
        except BaseException as error:
            if is_stop(error):
                raise
            self.notice(f"the environment's close() raised {in_one_line(error)}; it was ignored")

    def replay(
        self, seeds: list[int], episodes: list[int], actions: list[np.ndarray]
    ) -> tuple[Any, float, bool]:
        """Play an episode again; each argument has an entry for every environment in lockstep.

        Returns the newest observation, the sum of the rewards, and whether the episode is over;
        then the next step starts another.
        """
        self._seed, self._episode = seeds[self._index], episodes[self._index] - 1
        observation, _ = self.reset()
        total, over = 0.0, False
        for action in actions[self._index]:
            if over:
                return observation, float("nan"), over  # it was longer when it was played
            observation, reward, terminated, truncated, _ = self.step(action)
            total += float(np.float32(reward))
            over = terminated or truncated
        self._restart = over
        return observation, total, over

    def cut(self, envs: list[bool]) -> None:
        """Where `envs`, start an episode with the next step."""
        self._restart = self._restart or envs[self._index]

    def rest(self, envs: list[bool]) -> None:
        """Where `envs`, play no more: show what was seen last, until a reset with a seed."""
        self._resting = envs[self._index]

    def _read(self, observation: Any) -> Any:
        try:
            self._newest = read(self._space, observation, "observation")
        except WrongValueError as error:
            raise self._failure(str(error)) from None
        return self._newest

    def _call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            if is_stop(error):
                raise
            reason = f"it raised {in_one_line(error)}"
            if isinstance(error, ValueError) and OLD_STEP in str(error):
                reason += f" (step must return 5 values: {OUTCOME})"
            raise self._failure(reason, traceback.format_exc()) from error

    def _failure(self, what: str, trace: str = "") -> EnvironmentFailedError:
        where = f"step {self._step} of episode {self._episode} of environment {self._index}"
        return EnvironmentFailedError(
            f"the environment failed at {where}: {what}; correct the environment\n{trace}"
        )


def guarded(
    make: Callable[[], gymnasium.Env[Any, Any]],
    index: int,
    notice: Callable[[str], None] = warnings.warn,
) -> GuardedEnv:
    """Make an environment and guard it; the arguments are those of `GuardedEnv`."""
    return GuardedEnv(make(), index, notice)
