"""Environments of Gymnasium with known answers, and broken ones."""

import os
import signal
import sys
import time
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv


class CountingHostEnv(gymnasium.Env[np.ndarray, np.int64]):
    """Shows (time, length of the episode, last action, episode); a step's reward is the new time.

    Episodes are `lengths` long in turn: the shorter kind terminates, the longer is truncated.
    """

    def __init__(self, lengths: tuple[int, int] = (3, 5)) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (4,), np.float64)
        self.action_space = spaces.Discrete(2)
        self.lengths = lengths
        self.episode = -1
        self.time = self.length = 0
        self.action = -1.0

    def _seen(self) -> np.ndarray:
        return np.array([self.time, self.length, self.action, self.episode], np.float64)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        self.episode += 1
        self.time, self.action = 0, -1.0
        self.length = self.lengths[self.episode % 2]
        return self._seen(), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.time += 1
        self.action = float(action)
        over = self.time == self.length
        terminates = over and self.length == min(self.lengths)
        return self._seen(), float(self.time), terminates, over and not terminates, {}


class BrokenEnv(CountingHostEnv):
    """Breaks in its fourth episode: raises, shows NaN or a wrong shape, or rewards with NaN.

    Or, if asked to, in its first reset.
    """

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        if self.how == "reset":
            raise RuntimeError("the tank is 100% empty")
        return super().reset(seed=seed, options=options)

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        if self.episode == 3 and self.time == 2:
            if self.how == "raise":
                raise RuntimeError("the motor is 100% broken")
            if self.how == "nan":
                observation[1] = np.nan
            if self.how == "shape":
                observation = observation[:2]
            if self.how == "reward":
                reward = float("nan")
        return observation, reward, terminated, truncated, info


class ShowingEnv(gymnasium.Env[Any, Any]):
    """Shows a sample of a space, and ends every episode after three steps."""

    def __init__(self, space: spaces.Space[Any], actions: spaces.Space[Any] | None = None) -> None:
        self.observation_space = space
        self.action_space = spaces.Discrete(3, start=5) if actions is None else actions
        self.shown: list[Any] = []
        self.time = 0

    def _seen(self) -> Any:
        self.shown.append(self.observation_space.sample())
        return self.shown[-1]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        self.time = 0
        return self._seen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        self.time += 1
        return self._seen(), 1.0, self.time == 3, False, {}


class Cue(gymnasium.Env[np.ndarray, np.int64]):
    """One step: a cue of -1 or 1; the reward is 1 if the action matches its sign, else -1."""

    def __init__(self) -> None:
        self.observation_space = spaces.Box(-1, 1, (1,), np.float32)
        self.action_space = spaces.Discrete(2)
        self.cue = 1.0

    def _seen(self) -> np.ndarray:
        return np.array([self.cue], np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        self.cue = float(self.np_random.choice([-1.0, 1.0]))
        return self._seen(), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return self._seen(), 1.0 if (action == 1) == (self.cue > 0) else -1.0, True, False, {}


class Fetch(gymnasium.Env[dict[str, Any], np.int64]):
    """A red and a blue ball lie left and right; a number says which one to fetch.

    The return of ten balls is 10 with both parts of the observation. Either alone tells nothing: 5.
    """

    def __init__(self) -> None:
        self.observation_space = spaces.Dict(
            {"camera": spaces.Box(0, 255, (9, 12, 3), np.uint8), "wanted": spaces.Discrete(2)}
        )
        self.action_space = spaces.Discrete(2)
        self.balls = self.wanted = self.left = 0

    def _seen(self) -> dict[str, Any]:
        """Lay out two balls, at any height."""
        self.left, self.wanted = map(int, self.np_random.integers(2, size=2))
        camera = np.zeros((9, 12, 3), np.uint8)
        for side, color in enumerate((self.left, 1 - self.left)):
            y, x = self.np_random.integers((0, 6 * side), (7, 6 * side + 4))
            camera[y : y + 3, x : x + 3, 2 * color] = 255  # red or blue
        return {"camera": camera, "wanted": self.wanted}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed, options=options)
        self.balls = 0
        return self._seen(), {}

    def step(self, action: np.int64) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        fetched = self.left if action == 0 else 1 - self.left
        reward = float(fetched == self.wanted)
        self.balls += 1
        return self._seen(), reward, self.balls == 10, False, {}


class Mission(spaces.Space[str]):
    """Text in a class of its own, as MiniGrid has it."""

    def __init__(self) -> None:
        super().__init__(dtype=str)

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        del mask, probability
        return f"get to {self.np_random.integers(3)}"

    def contains(self, x: Any) -> bool:
        return isinstance(x, str)


class Symbols(gymnasium.Env[dict[str, Any], np.int64]):
    """The spaces of MiniGrid: symbols in a grid, a direction and text. Turn right for a reward."""

    def __init__(self) -> None:
        image = spaces.Box(0, 255, (7, 7, 3), np.uint8)
        parts: dict[str, spaces.Space[Any]] = {"direction": spaces.Discrete(4), "image": image}
        parts["mission"] = Mission()
        self.observation_space = spaces.Dict(parts)
        self.action_space = spaces.Discrete(3)
        self.direction = self.time = 0

    def _seen(self) -> dict[str, Any]:
        image = self.np_random.integers(0, 11, (7, 7, 3), np.uint8)
        mission = f"turn right, now {self.time}"
        return {"direction": self.direction, "image": image, "mission": mission}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed, options=options)
        self.direction = self.time = 0
        return self._seen(), {}

    def step(self, action: np.int64) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        self.time += 1
        self.direction = (self.direction + (1, -1, 0)[action]) % 4
        return self._seen(), float(action == 0), self.time == 6, False, {}


class Fatal(CountingHostEnv):
    """Ends its process in the second step, or sleeps in it."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if self.time == 1:
            if self.how == "exit":
                os._exit(3)
            if self.how == "sleep":
                time.sleep(600)
            os.kill(os.getpid(), signal.Signals[self.how])
        return super().step(action)


class Sleepy(CountingHostEnv):
    """Falls asleep in its second step in training."""

    def step(self, action: Any) -> Any:
        if self.time == 1:
            print("asleep", flush=True)
            time.sleep(600)
        return super().step(action)


class Panic(BaseException):
    """What bindings to other languages raise, which is not an `Exception`."""


class Raising(CountingHostEnv):
    """Raises where it is asked to: in its constructor, reset, step, render or close."""

    def __init__(
        self, where: str, error: BaseException, actions: spaces.Space[Any] | None = None
    ) -> None:
        super().__init__()
        self.action_space = self.action_space if actions is None else actions
        self.where, self.error = where, error
        self.render_mode = "rgb_array"
        self._raise("constructor")

    def _raise(self, where: str) -> None:
        if self.where == where:
            if isinstance(self.error, SystemExit):
                sys.exit(3)
            raise self.error

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        self._raise("reset")
        return super().reset(**kwargs)

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self._raise("step")
        return super().step(action)

    def render(self) -> Any:
        self._raise("render")
        return np.zeros((4, 6, 3), np.uint8)

    def close(self) -> None:
        self._raise("close")


class Giving(CountingHostEnv):
    """Gives what it is told to: some of observation, reward, terminated; or a whole outcome."""

    def __init__(self, space: spaces.Space[Any] | None = None, **given: Any) -> None:
        super().__init__()
        self.observation_space = self.observation_space if space is None else space
        self.given = given

    def reset(self, **kwargs: Any) -> Any:
        observation, info = super().reset(**kwargs)
        first = self.given.get("first", observation)
        return self.given.get("start", (first, info))

    def step(self, action: np.int64) -> Any:
        observation, reward, terminated, truncated, info = super().step(action)
        given = self.given
        outcome = (
            given.get("observation", observation),
            given.get("reward", reward),
            given.get("terminated", terminated),
            truncated,
            info,
        )
        return given.get("outcome", outcome)


class Drawing(CountingHostEnv):
    """Renders the given pictures, one after the other."""

    metadata: dict[str, Any] = {"render_fps": 0}  # noqa: RUF012 - as Gymnasium declares it

    def __init__(self, pictures: list[Any]) -> None:
        super().__init__()
        self.render_mode = "rgb_array"
        self.pictures = pictures

    def render(self) -> Any:
        return self.pictures[self.time % len(self.pictures)]


class Single(CountingHostEnv):
    """Only one may be open at a time, as where a port is taken."""

    is_open = False

    def __init__(self) -> None:
        super().__init__()
        if Single.is_open:
            raise RuntimeError("the port is taken")
        Single.is_open = True

    def close(self) -> None:
        Single.is_open = False


class Forgetful(CountingHostEnv):
    """Shows random numbers that no seed determines; an episode has 31 steps."""

    def __init__(self) -> None:
        super().__init__((31, 31))
        self.numbers = np.random.default_rng()

    def _seen(self) -> np.ndarray:
        return self.numbers.normal(size=4)


def forgetful_vector(num_envs: int) -> SyncVectorEnv:
    """Make a vector of `Forgetful` environments, as the vector entry point of an id."""
    return SyncVectorEnv([Forgetful] * num_envs)


class CountingVectorEnv(VectorEnv[Any, Any, Any]):
    """`CountingHostEnv` with its own vector entry point."""

    def __init__(self, num_envs: int, autoreset_mode: AutoresetMode = AutoresetMode.NEXT_STEP):
        self.metadata = {"autoreset_mode": AutoresetMode(autoreset_mode)}
        self.num_envs = num_envs
        self.envs = [CountingHostEnv() for _ in range(num_envs)]
        self.single_observation_space = self.envs[0].observation_space
        self.single_action_space = self.envs[0].action_space
        self.over = np.zeros(num_envs, bool)

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        del seed, options
        return np.stack([env.reset()[0] for env in self.envs]), {}

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, Any]:
        steps = [
            (env.reset()[0], 0.0, False, False) if over else env.step(action)[:4]
            for env, over, action in zip(self.envs, self.over, actions, strict=True)
        ]
        observation, reward, terminated, truncated = map(np.array, zip(*steps, strict=True))
        self.over = terminated | truncated
        return observation, reward, terminated, truncated, {}


gymnasium.register(
    "noisydqn-tests/CountingVector-v0",
    "tests.host_envs:CountingHostEnv",
    vector_entry_point="tests.host_envs:CountingVectorEnv",
)


gymnasium.register("noisydqn-tests/Counting-v0", "tests.host_envs:CountingHostEnv")
gymnasium.register("noisydqn-tests/Fetch-v0", "tests.host_envs:Fetch")
gymnasium.register("noisydqn-tests/Symbols-v0", "tests.host_envs:Symbols")
gymnasium.register("noisydqn-tests/Broken-v0", "tests.host_envs:BrokenEnv")
gymnasium.register(
    "noisydqn-tests/Forgetful-v0",
    "tests.host_envs:Forgetful",
    vector_entry_point="tests.host_envs:forgetful_vector",
)
