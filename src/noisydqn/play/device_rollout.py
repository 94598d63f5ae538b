"""Greedy play in an environment in JAX, as compiled programs."""

from collections.abc import Callable, Generator
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Shaped

from noisydqn.compilation import Pace, Program
from noisydqn.envs.device import DeviceEnvironment
from noisydqn.envs.device_vector import STUCK, VectorEnvironment, stuck_error
from noisydqn.envs.pictures import as_picture
from noisydqn.errors import EnvironmentFailedError, NoPictureError
from noisydqn.learner.policy import Policy
from noisydqn.play.played import Played, Shot, panel_lines, shown_actions
from noisydqn.preprocessing import frames
from noisydqn.types import Observation, TimeStep

PART_SECONDS = 0.3
"""Approximate seconds that one compiled call plays."""

PART_STEPS = 75
"""Steps of a video that one compiled call plays."""


def policy_shapes(policy: Policy) -> tuple[Any, tuple[jax.ShapeDtypeStruct, ...]]:
    """Return the structure of a policy, and shapes and types of its arrays."""
    leaves, structure = jax.tree.flatten(policy)
    return structure, tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves)


class _Playing(NamedTuple):
    key: PRNGKeyArray
    env_states: Any
    time_step: TimeStep
    stack: Observation  # [episodes, ...], without the newest observation
    steps: Int[Array, ""]
    over: Bool[Array, " episodes"]
    returns: Float[Array, " episodes"]
    counts: dict[str, Array]


class _Filming(NamedTuple):
    key: PRNGKeyArray
    env_states: Any
    time_step: TimeStep
    stack: Observation  # [1, ...], without the newest observation
    started: Bool[Array, "1"]  # whether an episode starts with the newest observation


class _Part(NamedTuple):
    pictures: Shaped[Array, "steps pictures ..."]
    q: Float[Array, "steps actions"]
    action: Int[Array, " steps"]
    seen: Shaped[Array, "steps ..."]
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
        counts=jax.tree.map(jnp.zeros_like, time_step.info) | _stuck(time_step),
    )


def _stuck(time_step: TimeStep) -> dict[str, Array]:
    """Return the count of states without a valid action, where there are action masks."""
    return {STUCK: time_step.info[STUCK]} if STUCK in time_step.info else {}


def _play(env: DeviceEnvironment, policy: Policy, playing: _Playing, end: Array) -> _Playing:
    """Play in lockstep until the last episode is over, or up to step `end`."""
    episodes = len(playing.over)
    vector = VectorEnvironment(env, episodes)
    never = jnp.zeros(episodes, jnp.bool_)

    def step(playing: _Playing) -> _Playing:
        key, step_key = jax.random.split(playing.key)
        stack, actions, _ = policy.act(
            playing.stack,
            playing.time_step.observation,
            never | (playing.steps == 0),
            playing.time_step.action_mask,
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
        before = filming.time_step
        stack, action, q = policy.act(
            filming.stack, before.observation, filming.started, before.action_mask
        )
        over = before.last
        states, time_step = vector.step(step_key, filming.env_states, action, over)
        drawn = jax.vmap(env.pictures)(states)
        part = _Part(drawn, q, action, stack, over, time_step.reward, time_step.info)
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

    `play` and `shots` run in parts that take a fraction of a second, because nothing can interrupt
    a compiled call.
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
        """Play all episodes in lockstep."""
        made = _play_programs(self.env, episodes, *policy_shapes(policy))
        playing, pace = made.begin(policy, key), Pace(PART_SECONDS)
        while (steps := int(playing.steps)) < max_steps and not np.all(playing.over):
            check()
            end = min(steps + pace.most, max_steps)
            with pace.timed(end - steps):
                playing = jax.block_until_ready(made.play(policy, playing, np.int32(end)))
            self._refuse_stuck(playing.counts)
        return Played(
            returns=tuple(float(x) for x in np.asarray(playing.returns)),
            truncated=int(np.sum(~np.asarray(playing.over))),
            counts={name: np.asarray(x) for name, x in playing.counts.items()},
        )

    def _refuse_stuck(self, counts: dict[str, Array]) -> None:
        """Raise an error if a state had no valid action; `counts` are those of episodes."""
        if STUCK in counts and np.any(stuck := np.asarray(counts[STUCK]) > 0):
            where = f"in episode {int(stuck.argmax())} of an evaluation"
            raise stuck_error(where, self.env.name)

    @property
    def frame_rate(self) -> float:
        """The pictures per second of a video."""
        return self.env.frame_rate

    def shot_programs(self, policy: Policy) -> tuple[Program[Any], ...]:
        """Return the programs that `shots` runs for policies like `policy`."""
        if self.env.video_problem is not None:
            return ()
        return _shot_programs(self.env, *policy_shapes(policy))

    def shots(self, policy: Policy, seconds: float, key: PRNGKeyArray) -> Generator[Shot]:
        """Yield the pictures that the environment renders after each step."""
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
                        counted or panel_lines(episode, total, steps),
                        *shown_actions(part.q[i], part.action[i], self.env.spec.action_sizes),
                        part.seen[i],
                    )
                    left -= 1
                    if left == 0:
                        return


def _checked(drawn: np.ndarray) -> np.ndarray:
    try:
        return as_picture(drawn)
    except NoPictureError as error:
        raise EnvironmentFailedError(f"the environment drew no picture: {error}") from error
