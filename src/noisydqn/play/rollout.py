"""Greedy play, one rollout for each kind of environment: whole episodes, or pictures on the way."""

import itertools
import math
import time
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Shaped

from noisydqn.compilation import Program, program_for
from noisydqn.envs.device import DeviceEnvironment, VectorEnvironment
from noisydqn.envs.host import HostEnvironment, HostVector
from noisydqn.envs.pictures import as_picture
from noisydqn.envs.protocol import Environment
from noisydqn.errors import EnvironmentFailedError, NoPictureError
from noisydqn.learner.policy import Policy
from noisydqn.preprocessing import frames
from noisydqn.types import TimeStep


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


def rollout(env: Environment) -> Rollout:
    """Return the rollout for an environment."""
    return env.by_kind(device=_device_rollout, host=_host_rollout)


def _device_rollout(env: DeviceEnvironment) -> Rollout:
    return DeviceRollout(env)


def _host_rollout(env: HostEnvironment) -> Rollout:
    return HostRollout(env)


def policy_shapes(policy: Policy) -> tuple[Any, tuple[jax.ShapeDtypeStruct, ...]]:
    """Return the structure of a policy, and shapes and types of its arrays."""
    leaves, structure = jax.tree.flatten(policy)
    return structure, tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves)


def _lines(episode: int, total: float, steps: int) -> tuple[str, ...]:
    return f"episode  {episode}", f"return  {total:.1f}", f"step  {steps}"


# On the device

PART_SECONDS = 0.3
"""About how long one compiled call plays."""

PART_STEPS = 75
"""Steps of a video that one compiled call plays."""


class _Playing(NamedTuple):
    key: PRNGKeyArray
    env_states: Any
    time_step: TimeStep
    stack: Shaped[Array, "episodes ..."]  # without the newest observation
    steps: Int[Array, ""]
    over: Bool[Array, " episodes"]
    returns: Float[Array, " episodes"]
    counts: dict[str, Array]


class _Filming(NamedTuple):
    key: PRNGKeyArray
    env_states: Any
    time_step: TimeStep
    stack: Shaped[Array, "1 ..."]  # without the newest observation
    started: Bool[Array, "1"]  # whether an episode starts with the newest observation


class _Part(NamedTuple):
    pictures: Shaped[Array, "steps pictures ..."]
    q: Float[Array, "steps actions"]
    action: Int[Array, " steps"]
    started: Bool[Array, " steps"]  # whether the step was a reset
    reward: Float[Array, " steps"]
    counts: dict[str, Array]  # [steps]


class _PlayPrograms(NamedTuple):
    begin: Program[_Playing]  # of policy and key
    play: Program[_Playing]  # of policy, playing and the step to end at


class _ShotPrograms(NamedTuple):
    begin: Program[_Filming]  # of policy and key
    play: Program[tuple[_Filming, _Part]]  # of policy and filming


def _begin(env: DeviceEnvironment, episodes: int, policy: Policy, key: PRNGKeyArray) -> _Playing:
    key, reset_key = jax.random.split(key)
    env_states, time_step = VectorEnvironment(env, episodes).reset(reset_key)
    return _Playing(
        key=key,
        env_states=env_states,
        time_step=time_step,
        stack=frames.start(time_step.observation, policy.frames),
        steps=jnp.int32(0),
        over=jnp.zeros(episodes, jnp.bool_),
        returns=jnp.zeros(episodes, jnp.float32),
        counts=jax.tree.map(jnp.zeros_like, time_step.info),
    )


def _play(env: DeviceEnvironment, policy: Policy, playing: _Playing, end: Array) -> _Playing:
    """Play in lockstep until the last episode is over, or up to step `end`."""
    episodes = len(playing.over)
    vector = VectorEnvironment(env, episodes)
    never = jnp.zeros(episodes, jnp.bool_)

    def step(playing: _Playing) -> _Playing:
        key, step_key = jax.random.split(playing.key)
        stack, actions, _ = policy.act(
            playing.stack, playing.time_step.observation, never | (playing.steps == 0)
        )
        env_states, time_step = vector.step(step_key, playing.env_states, actions, never)
        counted = ~playing.over
        return _Playing(
            key=key,
            env_states=env_states,
            time_step=time_step,
            stack=stack,
            steps=playing.steps + 1,
            over=playing.over | time_step.last,
            returns=playing.returns + counted * time_step.reward,
            counts=jax.tree.map(
                lambda total, x: total + counted * x, playing.counts, time_step.info
            ),
        )

    return jax.lax.while_loop(
        lambda playing: ~jnp.all(playing.over) & (playing.steps < end), step, playing
    )


def _begin_shots(env: DeviceEnvironment, policy: Policy, key: PRNGKeyArray) -> _Filming:
    key, reset_key = jax.random.split(key)
    states, first = VectorEnvironment(env, 1).reset(reset_key)
    stack = frames.start(first.observation, policy.frames)
    return _Filming(key, states, first, stack, jnp.ones(1, jnp.bool_))


def _play_shots(
    env: DeviceEnvironment, policy: Policy, filming: _Filming
) -> tuple[_Filming, _Part]:
    """Play for a part of the video, through as many episodes as fit."""
    vector = VectorEnvironment(env, 1)

    def step(filming: _Filming, _: None) -> tuple[_Filming, _Part]:
        key, step_key = jax.random.split(filming.key)
        stack, action, q = policy.act(filming.stack, filming.time_step.observation, filming.started)
        over = filming.time_step.last
        states, time_step = vector.step(step_key, filming.env_states, action, over)
        drawn = jax.vmap(env.pictures)(states)
        part = _Part(drawn, q, action, over, time_step.reward, time_step.info)
        after = _Filming(key, states, time_step, stack, over)
        return after, jax.tree.map(lambda x: x[0], part)

    return jax.lax.scan(step, filming, length=PART_STEPS)


@lru_cache(maxsize=8)
def _play_programs(
    env: DeviceEnvironment,
    episodes: int,
    structure: Any,
    leaves: tuple[jax.ShapeDtypeStruct, ...],
) -> _PlayPrograms:
    policy: Policy = jax.tree.unflatten(structure, leaves)
    key = jax.ShapeDtypeStruct((), jax.random.key(0).dtype)
    begin: Program[_Playing] = Program(
        "evaluation", partial(_begin, env, episodes), lambda: (policy, key), runs="once"
    )
    count = jax.ShapeDtypeStruct((), jnp.int32)
    play = partial(_play, env)
    return _PlayPrograms(
        begin, Program("evaluation", play, lambda: (policy, begin.shapes, count), donate=(1,))
    )


@lru_cache(maxsize=8)
def _shot_programs(
    env: DeviceEnvironment, structure: Any, leaves: tuple[jax.ShapeDtypeStruct, ...]
) -> _ShotPrograms:
    policy: Policy = jax.tree.unflatten(structure, leaves)
    key = jax.ShapeDtypeStruct((), jax.random.key(0).dtype)
    begin: Program[_Filming] = Program(
        "video", partial(_begin_shots, env), lambda: (policy, key), runs="once"
    )
    play = partial(_play_shots, env)
    return _ShotPrograms(
        begin, Program("video", play, lambda: (policy, begin.shapes), runs="seldom")
    )


class DeviceRollout:
    """Greedy play in an environment in JAX, as compiled programs.

    Both play in parts that take a fraction of a second, as nothing can interrupt a compiled call.
    """

    def __init__(self, env: DeviceEnvironment) -> None:
        self.env = env

    def programs(self, policy: Policy, episodes: int) -> tuple[Program[Any], ...]:
        """Return the programs that `play` runs for policies like `policy`."""
        return _play_programs(self.env, episodes, *policy_shapes(policy))

    def play(
        self,
        policy: Policy,
        episodes: int,
        key: PRNGKeyArray,
        max_steps: int,
        check: Callable[[], None],
    ) -> Played:
        """Play all episodes side by side."""
        made = _play_programs(self.env, episodes, *policy_shapes(policy))
        playing, part = made.begin(policy, key), 1
        while (steps := int(playing.steps)) < max_steps and not np.all(playing.over):
            check()
            before = time.perf_counter()
            end = min(steps + part, max_steps)
            playing = jax.block_until_ready(made.play(policy, playing, np.int32(end)))
            seconds = time.perf_counter() - before
            part = min(4 * part, math.ceil(part * PART_SECONDS / seconds))
        return Played(
            returns=tuple(float(x) for x in np.asarray(playing.returns)),
            truncated=int(np.sum(~np.asarray(playing.over))),
            counts={name: np.asarray(x) for name, x in playing.counts.items()},
        )

    @property
    def frame_rate(self) -> float:
        """Pictures a second in a video."""
        return self.env.frame_rate

    def shot_programs(self, policy: Policy) -> tuple[Program[Any], ...]:
        """Return the programs that `shots` runs for policies like `policy`."""
        if self.env.video_problem is not None:
            return ()
        return _shot_programs(self.env, *policy_shapes(policy))

    def shots(self, policy: Policy, seconds: float, key: PRNGKeyArray) -> Iterator[Shot]:
        """Yield what the environment draws after each step."""
        begin, play = _shot_programs(self.env, *policy_shapes(policy))
        filming, left = begin(policy, key), max(round(seconds * self.frame_rate), 1)
        episode, total, steps = 1, 0.0, 0
        sums = dict.fromkeys(self.env.panel, 0)
        while True:
            filming, part = play(policy, filming)
            part = jax.tree.map(np.asarray, part)
            for i in range(PART_STEPS):
                if part.started[i]:
                    episode, total, steps = episode + 1, 0.0, 0
                else:
                    total, steps = total + float(part.reward[i]), steps + 1
                sums = {name: total + part.counts[name][i] for name, total in sums.items()}
                counted = tuple(f"{name}  {total:g}" for name, total in sums.items())
                for picture in part.pictures[i]:
                    yield Shot(
                        _checked(picture),
                        counted or _lines(episode, total, steps),
                        part.q[i],
                        int(part.action[i]),
                    )
                    left -= 1
                    if left == 0:
                        return


def _checked(drawn: np.ndarray) -> np.ndarray:
    try:
        return as_picture(drawn)
    except NoPictureError as error:
        raise EnvironmentFailedError(f"the environment drew no picture: {error}") from error


# On the host

SIDE_BY_SIDE = 50
"""At most so many of Gymnasium's environments play at once in an evaluation."""


def act(
    policy: Policy, stack: Array, observation: Array, started: Array
) -> tuple[Array, Array, Array]:
    """Call `Policy.act`; a function of a module, by which its programs are found again."""
    return policy.act(stack, observation, started)


def act_program(
    policy: Policy, observation: jax.ShapeDtypeStruct, num_envs: int
) -> Program[tuple[Array, Array, Array]]:
    """Return `Policy.act` for policies like `policy` in some environments in lockstep."""
    seen = jax.ShapeDtypeStruct((num_envs, *observation.shape), observation.dtype)
    stack = jax.eval_shape(partial(frames.start, frames=policy.frames), seen)
    started = jax.ShapeDtypeStruct((num_envs,), jnp.bool_)
    return program_for("evaluation", act, policy, stack, seen, started)


def play_vector(
    vector: HostVector, policy: Policy, seed: int
) -> Iterator[tuple[TimeStep, np.ndarray, np.ndarray]]:
    """Play with mean weights, without end.

    Yields each time step with the actions [envs] chosen on it and the values [envs, A].
    """
    choose = act_program(policy, vector.spec.observation, vector.num_envs)
    time_step = vector.reset(seed)
    started = np.ones(vector.num_envs, bool)
    stack = frames.start(jnp.asarray(time_step.observation), policy.frames)
    while True:
        stack, actions, q = choose(policy, stack, time_step.observation, started)
        yield time_step, np.asarray(actions), np.asarray(q)
        started = np.asarray(time_step.last)
        time_step = vector.step(np.asarray(actions))


class _Share:
    """The episodes that each environment of a vector is still to play, and those that it has.

    An id's own vector knows no limit and plays on where an episode is truncated. What it plays
    there counts again once that episode has ended, or after a reset, when nothing else is left to
    play.
    """

    def __init__(self, episodes: int, size: int, max_steps: int, names: tuple[str, ...]) -> None:
        self.left = np.array([len(range(i, episodes, size)) for i in range(size)])
        self.returns: list[float] = []
        self.truncated = 0
        self.counts: dict[str, list[float]] = {name: [] for name in names}
        self._max_steps, self._nan = max_steps, np.full(size, np.nan)
        self.begin()

    def begin(self) -> None:
        """Start anew everywhere, after a reset."""
        size = len(self.left)
        self._over, self._beyond = np.ones(size, bool), np.zeros(size, bool)
        self._running, self._length = np.zeros(size), np.zeros(size, int)

    def take(self, time_step: TimeStep, stats: dict[str, np.ndarray]) -> bool:
        """Count a time step; returns whether an environment has played its share with it."""
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
        return (act_program(policy, self.env.spec.observation, min(episodes, SIDE_BY_SIDE)),)

    def play(
        self,
        policy: Policy,
        episodes: int,
        key: PRNGKeyArray,
        max_steps: int,
        check: Callable[[], None],
    ) -> Played:
        """Play in environments in lockstep, each its share of the episodes.

        Raises:
            EnvironmentFailedError: an environment failed.
        """
        seed = int(jax.random.bits(key))
        vector = self.env.vector(min(episodes, SIDE_BY_SIDE), max_steps=max_steps, fewer=True)
        names = tuple(name for statistic in self.env.statistics for name in statistic.counts)
        share = _Share(episodes, vector.num_envs, max_steps, names)
        try:
            while share.left.any():
                for time_step, _, _ in play_vector(vector, policy, seed):
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
        """Pictures a second in a video."""
        rate = self.env.frame_rate
        assert rate is not None  # noqa: S101 - there is no `video_problem`
        return rate

    def shot_programs(self, policy: Policy) -> tuple[Program[Any], ...]:
        """Return nothing: a video's only program is small."""
        del policy
        return ()

    def shots(self, policy: Policy, seconds: float, key: PRNGKeyArray) -> Iterator[Shot]:
        """Yield what the environment draws, or shows, before each step."""
        vector = self.env.vector(1, pictures=True)
        number, seed = max(round(seconds * self.frame_rate), 1), int(jax.random.bits(key))
        episode, total, steps, over = 0, 0.0, 0, True
        try:
            played = itertools.islice(play_vector(vector, policy, seed), number)
            for time_step, actions, q in played:
                if over:
                    episode, total, steps = episode + 1, 0.0, 0
                else:
                    total, steps = total + float(time_step.reward[0]), steps + 1
                over = bool(time_step.last[0])
                lines = _lines(episode, total, steps)
                yield Shot(vector.picture(time_step), lines, q[0], int(actions[0]))
        finally:
            vector.close()
