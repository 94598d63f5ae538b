"""Backends of `HostVector`: the kinds of vector environments of Gymnasium.

They differ in how they are seeded, checked, rendered and replayed:

- `GuardedBackend`: guarded environments, in this process or each in a worker process. The guards
  check values and seed every episode.
- `NativeBackend`: the vector environment that an id registers, such as Atari's. Nothing in it can
  be wrapped, so values are checked here, in batches. Its `Seeding` is `SeedTogether` or `SeedEach`.

Backends do not catch errors of environments: `HostVector` adds the step to them.
"""

from typing import Any, NamedTuple, Protocol

import numpy as np
from gymnasium.vector import VectorEnv
from gymnasium.vector.utils import concatenate, create_empty_array

from noisydqn.envs.action_masks import KEY, Source, declared_source
from noisydqn.envs.encoding import Encoding
from noisydqn.envs.history import SavedHistory, span_seed
from noisydqn.envs.spaces import values_of
from noisydqn.envs.values import NUMBER, check_batch
from noisydqn.errors import EnvironmentFailedError, UserError

SPAN_EPISODES = 8
"""Episodes of Atari under one seed: a reset with a seed boots the console, which takes as long as a
hundred steps."""

OWN_MASKS = (
    "the environments give action masks, which --vectorization own cannot take: train with "
    "--vectorization sync or subprocess"
)


class Step(NamedTuple):
    """A step of a vector environment, as Gymnasium returns it."""

    observation: Any
    reward: np.ndarray  # [envs]
    terminated: np.ndarray  # [envs]
    truncated: np.ndarray  # [envs]
    infos: dict[str, Any]


class Replayed(NamedTuple):
    """The end of a replay."""

    observation: Any
    total: np.ndarray  # [envs]; the sum of the rewards in the current span
    over: np.ndarray  # [envs]; true if the episode has ended


class Backend(Protocol):
    """A vector environment, with the operations that depend on its kind."""

    vector: Any  # a `VectorEnv`, whose own annotations do not know seeds for each environment
    renders: bool
    """True if `vector.render` returns pictures."""
    counts: tuple[str, ...]
    """Names of numbers beside "success" that environments report at an episode's end."""
    masks: Source | None
    """Where environments give action masks. If they do, an observation is a dictionary of what the
    agent sees and of the mask."""

    @property
    def period(self) -> int | None:
        """Episodes in a span; None for one span without end."""
        ...

    def reset(self, seeds: np.ndarray) -> Any:
        """Start the first episode of every environment; returns the observations.

        Args:
            seeds: [envs]; the seeds of all spans follow from them.
        """
        ...

    def step(self, actions: np.ndarray, starts: np.ndarray, spans: np.ndarray) -> Step:
        """Take a step; start a span instead where `starts`, as a step of reward 0.

        Args:
            actions: [envs].
            starts: [envs], true where a span starts.
            spans: [envs], the numbers of the spans that start.
        """
        ...

    def rest(self, envs: np.ndarray) -> None:
        """Stop playing where `envs` [envs], which saves time, if the backend can do that."""
        ...

    def replay(self, saved: SavedHistory) -> Replayed:
        """Replay the current spans, after a reset with the same seeds."""
        ...

    def restart(self, envs: np.ndarray) -> np.ndarray:
        """Start a span with the next step where `envs` [envs]; returns where spans then start."""
        ...

    def check(self, encoding: Encoding, observation: Any) -> None:
        """Check observations, unless guards did.

        Raises:
            WrongValueError: a value cannot be stored.
        """
        ...

    def check_reward(self, reward: np.ndarray) -> None:
        """Check rewards [envs], unless guards did.

        Raises:
            WrongValueError: float32 cannot hold a reward.
        """
        ...


class GuardedBackend:
    """Guarded environments, in a `SyncVectorEnv` or a `WorkerVector`.

    Args:
        vector: of `GuardedEnv`s.
        renders: whether the environments were made to render pictures.
        counts: the `episode_counts` of the environments.
        masks: where they give action masks, if they do.
    """

    masks: Source | None
    period: int | None = 1  # guards seed every episode

    def __init__(
        self,
        vector: VectorEnv[Any, Any, Any],
        *,
        renders: bool = False,
        counts: tuple[str, ...] = (),
        masks: Source | None = None,
    ) -> None:
        self.vector: Any = vector
        self.renders, self.counts = renders, counts
        self.masks: Source | None = masks
        self._seeds: list[int] = []

    def _call(self, name: str, *args: Any) -> Any:
        guards: Any = self.vector.unwrapped
        return guards.call(name, *args)

    def reset(self, seeds: np.ndarray) -> Any:
        """Implement `Backend.reset`."""
        self._seeds = [int(seed) for seed in seeds]
        return self.vector.reset(seed=self._seeds)[0]

    def step(self, actions: np.ndarray, starts: np.ndarray, spans: np.ndarray) -> Step:
        """Implement `Backend.step`: guards start spans when a step follows an episode's last."""
        del starts, spans
        return Step(*self.vector.step(actions))

    def rest(self, envs: np.ndarray) -> None:
        """Implement `Backend.rest`."""
        self._call("rest", envs.tolist())

    def replay(self, saved: SavedHistory) -> Replayed:
        """Implement `Backend.replay`: every guard replays its episode at once."""
        taken = [saved.actions[len(saved.actions) - n :, i] for i, n in enumerate(saved.length)]
        played = self._call("replay", self._seeds, saved.episode.tolist(), taken)
        observations, totals, over = zip(*played, strict=True)
        space = self.vector.single_observation_space
        batch: Any = create_empty_array(space, self.vector.num_envs)
        return Replayed(concatenate(space, observations, batch), np.array(totals), np.array(over))

    def restart(self, envs: np.ndarray) -> np.ndarray:
        """Implement `Backend.restart`: where `envs` and nowhere else."""
        self._call("restart", envs.tolist())
        return envs

    def check(self, encoding: Encoding, observation: Any) -> None:
        """Implement `Backend.check`: guards have checked every observation."""

    def check_reward(self, reward: np.ndarray) -> None:
        """Implement `Backend.check_reward`: guards have checked every reward."""


class Seeding(Protocol):
    """The way in which a native vector environment starts spans.

    `period` is that of `Backend`.
    """

    period: int | None

    def start(self, vector: Any, seeds: np.ndarray, envs: np.ndarray) -> Any:
        """Reset the environments where `envs` [envs] with their seeds; returns observations."""
        ...

    def reach(self, envs: np.ndarray) -> np.ndarray:
        """Return where spans start if they have to start where `envs` [envs]."""
        ...


class SeedTogether:
    """Seeding of all environments by one seed, as Gymnasium's interface offers it.

    A single environment cannot be reset, so there is one span without end.
    """

    period: int | None = None

    def start(self, vector: Any, seeds: np.ndarray, envs: np.ndarray) -> Any:
        """Reset all environments with the first seed."""
        del envs
        return vector.reset(seed=int(seeds[0]))[0]

    def reach(self, envs: np.ndarray) -> np.ndarray:
        """Return true everywhere if `envs` is true anywhere."""
        return np.full(envs.shape, envs.any())


class SeedEach:
    """Seeding of some environments with a seed for each, as Atari's vector offers it."""

    period: int | None = SPAN_EPISODES

    def start(self, vector: Any, seeds: np.ndarray, envs: np.ndarray) -> Any:
        """Reset the environments where `envs`."""
        if envs.all():
            return vector.reset(seed=seeds)[0]
        options = {"reset_mask": envs}
        return vector.reset(seed=seeds[envs], options=options)[0]

    def reach(self, envs: np.ndarray) -> np.ndarray:
        """Return `envs`."""
        return envs


class NativeBackend:
    """The vector environment that an id registers, with a seeding.

    Args:
        vector: a vector environment with `AutoresetMode.NEXT_STEP`.
        seeding: the way in which it starts spans; None takes `SeedTogether`.

    Raises:
        UserError: the environments give action masks; the vector is then closed.
    """

    renders = False
    counts: tuple[str, ...] = ()
    masks: Source | None = None

    def __init__(self, vector: VectorEnv[Any, Any, Any], seeding: Seeding | None = None) -> None:
        self.vector: Any = vector
        self._seeding: Seeding = SeedTogether() if seeding is None else seeding
        self._seeds = np.zeros(vector.num_envs, np.int64)
        if declared_source(vector, vector.single_observation_space) is not None:
            vector.close()
            raise UserError(OWN_MASKS)

    @property
    def period(self) -> int | None:
        """Episodes in a span; None for one span without end."""
        return self._seeding.period

    def _start(self, spans: np.ndarray, envs: np.ndarray) -> Any:
        pairs = zip(self._seeds, spans, strict=True)
        seeds = np.array([span_seed(int(seed), int(span)) for seed, span in pairs])
        return self._seeding.start(self.vector, seeds, envs)

    def reset(self, seeds: np.ndarray) -> Any:
        """Implement `Backend.reset`."""
        self._seeds = seeds
        return self._start(np.zeros(len(seeds), np.int64), np.ones(len(seeds), bool))

    def step(self, actions: np.ndarray, starts: np.ndarray, spans: np.ndarray) -> Step:
        """Implement `Backend.step`: a reset follows the step where spans start."""
        step = Step(*self.vector.step(actions))
        if KEY in step.infos:
            raise EnvironmentFailedError(OWN_MASKS)
        if not starts.any():
            return step
        reward, terminated, truncated = (np.where(starts, 0, x).astype(x.dtype) for x in step[1:4])
        return Step(self._start(spans, starts), reward, terminated, truncated, step.infos)

    def rest(self, envs: np.ndarray) -> None:
        """Implement `Backend.rest`: the environments continue."""

    def replay(self, saved: SavedHistory) -> Replayed:
        """Implement `Backend.replay` in lockstep, for as many steps as the longest span has.

        A shorter span starts when as many steps are left as it has: spans of 5 and 3 steps start
        before the first and the third step.
        """
        num_envs, longest = self.vector.num_envs, len(saved.actions)
        total, over = np.zeros(num_envs), np.zeros(num_envs, bool)
        observation: Any = None
        for i in range(longest + 1):
            starts = saved.length == longest - i
            if starts.any():
                observation = self._start(saved.span, starts)
                total, over = np.where(starts, 0, total), over & ~starts
            if i < longest:
                observation, reward, terminated, truncated, _ = self.vector.step(saved.actions[i])
                total = total + reward.astype(np.float32)
                over = np.asarray(terminated | truncated)
        return Replayed(observation, total, over)

    def restart(self, envs: np.ndarray) -> np.ndarray:
        """Implement `Backend.restart`: the history tells `step` where spans start."""
        return self._seeding.reach(envs)

    def check(self, encoding: Encoding, observation: Any) -> None:
        """Implement `Backend.check`, part by part."""
        values = values_of(encoding.observation, observation)
        for (part, name), value in zip(encoding.parts, values, strict=True):
            check_batch(part, value, name, self.vector.num_envs)

    def check_reward(self, reward: np.ndarray) -> None:
        """Implement `Backend.check_reward`."""
        check_batch(NUMBER, reward, "reward", self.vector.num_envs)
