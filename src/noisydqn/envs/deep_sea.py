"""DeepSea, exactly as bsuite has it: a treasure that random play finds once in 2^N episodes.

A diver starts in the top left cell of a grid of N x N cells and sinks one row a step, to the left
or to the right. The treasure lies in the bottom right cell and is worth 1. Each move to the right
costs 0.01 / N, so all rewards on the way say that it is wrong. Which of the two actions moves to
the right differs from cell to cell (Osband et al. 2019, "Deep Exploration via Randomized Value
Functions"; Osband et al. 2020, "Behaviour Suite for Reinforcement Learning").

In the stochastic variant, a move to the right fails with probability 1 / N, and a step from either
end of the last row adds a standard normal to its reward.

`DeepSea.move` holds the rules and is pure. Recorded traces of bsuite 0.3.6 are reproduced step by
step (`tests/reference/test_deep_sea_traces.py`).
"""

import dataclasses
import json
from functools import cached_property
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt8

from noisydqn.envs.device import DeviceEnvironment
from noisydqn.envs.names import DEEP_SEA
from noisydqn.envs.notices import Notices
from noisydqn.envs.options import EnvironmentOptions
from noisydqn.envs.spec import Statistic
from noisydqn.errors import UserError
from noisydqn.options import MAX_SEED, field_names, shown

NUM_ACTIONS = 2
MAX_SIZE = 1_000
"""The largest N: a larger observation, of N x N numbers, fits into no replay buffer."""

BAD_SHARE, BAD_SHARE_STOCHASTIC = 0.9, 0.8
"""Shares of bad episodes below which bsuite counts DeepSea as solved."""
LEAST_EPISODES_STOCHASTIC = 100
"""Episodes before which bsuite does not count the stochastic variant as solved."""

PICTURE_SIZE = 256
"""Largest width of a picture, pixels, unless N is larger still."""
SEA, PATH, DIVER = (20, 50, 90), (30, 75, 130), (255, 255, 255)
TREASURE, GROUND = (255, 200, 50), (110, 80, 50)

TREASURES = Statistic(
    "treasures",
    "of the treasures found",
    part="treasures",
    style=".0%",
    meaning="Share of the episodes without noise in which the treasure was found.",
)
SUCCESSES = Statistic(
    "success_rate",
    "of the episodes without a wrong move",
    part="success",
    style=".0%",
    goal=1.0,
    meaning="Share of the episodes without noise with no move to the left on the way to the "
    "treasure.",
)


class DeepSeaState(NamedTuple):
    """The state of an episode."""

    row: Int[Array, ""]  # N after the last step
    column: Int[Array, ""]
    good: Bool[Array, ""]  # no move to the left so far where the right one led to the treasure


class Events(NamedTuple):
    """The random events of a step of the stochastic variant."""

    slips: Bool[Array, ""]  # a move to the right fails
    noise: Float[Array, ""]  # reward that a step from an end of the last row adds


@dataclasses.dataclass(frozen=True)
class DeepSea:
    """DeepSea with the interface of gymnax; observations are one-hot, [size, size] in float32.

    The observation after the last step is zero everywhere. `info` counts the `treasures` of a
    step. That of an episode's last step counts it as a `success` if it had no wrong move, which
    means that bsuite does not count it as bad.

    Args:
        size: N, rows and columns of the grid.
        deterministic: whether moves never fail and rewards have no noise.
        unscaled_move_cost: cost of N moves to the right.
        randomize_actions: whether the action that moves to the right differs between cells;
            otherwise it is 1 in all of them.
        mapping_seed: seed of these actions. bsuite's experiments use 42; without a seed its
            actions are others in each process.

    Raises:
        UserError: an argument has an impossible value.
    """

    size: int = 10
    deterministic: bool = True
    unscaled_move_cost: float = 0.01
    randomize_actions: bool = True
    mapping_seed: int = 42

    num_actions: ClassVar[int] = NUM_ACTIONS
    default_params: ClassVar[None] = None
    statistics: ClassVar[tuple[Statistic, ...]] = (TREASURES, SUCCESSES)
    episode_counts: ClassVar[tuple[str, ...]] = ("success", "treasures")
    panel: ClassVar[tuple[str, ...]] = ("treasures",)
    render_fps: ClassVar[float] = 10.0

    def __post_init__(self) -> None:
        for name, most in (("size", MAX_SIZE), ("mapping_seed", MAX_SEED)):
            value, least = getattr(self, name), int(name == "size")
            if type(value) is not int or not least <= value <= most:
                raise _refusal(name, f"a whole number from {least} to {most}", value)
        for name in ("deterministic", "randomize_actions"):
            if type(value := getattr(self, name)) is not bool:
                raise _refusal(name, "true or false", value)
        cost = self.unscaled_move_cost
        if type(cost) not in (int, float) or not -np.inf < cost < np.inf:
            raise _refusal("unscaled_move_cost", "a number", cost)

    @cached_property
    def right_actions(self) -> np.ndarray:
        """The action that moves to the right in each cell [size, size], bsuite's for this seed."""
        shape = (self.size, self.size)
        if not self.randomize_actions:
            return np.ones(shape, np.int32)
        # Only this generator gives bsuite's numbers; NumPy promises never to change it.
        return np.random.RandomState(self.mapping_seed).binomial(1, 0.5, shape).astype(np.int32)

    def start(self) -> DeepSeaState:
        """Return the state in which every episode starts."""
        return DeepSeaState(jnp.int32(0), jnp.int32(0), jnp.bool_(True))

    def move(
        self, state: DeepSeaState, action: Int[Array, ""], events: Events
    ) -> tuple[DeepSeaState, Float[Array, ""], dict[str, Array]]:
        """Move one row down.

        Args:
            state: the state before the move; its row is below `size`.
            action: 0 or 1.
            events: of this step; only the stochastic variant uses them.

        Returns:
            The state after the move, its reward, and `info` as in the class.
        """
        row, column, last = state.row, state.column, self.size - 1
        right = action == jnp.asarray(self.right_actions)[row, column]
        finds = right & (column == last)  # a diver who has never moved to the left
        cost = self.unscaled_move_cost / self.size
        # Rounded once, from double precision: the very rewards of bsuite, in float32.
        found, moved = np.float32(1 - cost), np.float32(-cost)
        reward = jnp.where(finds, found, jnp.where(right, moved, np.float32(0)))
        step = jnp.where(right, 1, -1)
        if not self.deterministic:
            ends = (row == last) & ((column == 0) | (column == last))
            reward += jnp.where(ends, events.noise, 0)
            step = jnp.where(right & events.slips, 0, step)
        after = DeepSeaState(
            row=row + 1,
            column=jnp.clip(column + step, 0, last),
            good=state.good & (right | (row != column)),
        )
        info = {
            "treasures": finds.astype(jnp.float32),
            "success": (after.good & self.ended(after)).astype(jnp.float32),
        }
        return after, reward, info

    def ended(self, state: DeepSeaState) -> Bool[Array, ""]:
        """Tell whether the episode is over: every episode has `size` steps."""
        return state.row >= self.size

    def sample_events(self, key: PRNGKeyArray) -> Events:
        """Sample the events of a step."""
        if self.deterministic:
            return Events(jnp.bool_(False), jnp.float32(0))
        slip_key, noise_key = jax.random.split(key)
        return Events(jax.random.bernoulli(slip_key, 1 / self.size), jax.random.normal(noise_key))

    def observe(self, state: DeepSeaState) -> Float[Array, "size size"]:
        """Return the observation: 1 in the diver's cell, 0 elsewhere."""
        rows, columns = (jax.nn.one_hot(x, self.size) for x in (state.row, state.column))
        return jnp.outer(rows, columns)

    def render(self, state: DeepSeaState) -> UInt8[Array, "height width 3"]:
        """Render the sea and, below it, the ground on which an episode ends.

        The way to the treasure is lighter.
        """
        size = self.size
        picture = np.zeros((size + 1, size, 3), np.uint8)
        picture[:size], picture[size] = SEA, GROUND
        picture[range(size), range(size)] = PATH
        picture[size - 1, size - 1] = TREASURE
        drawn = jnp.asarray(picture).at[state.row, state.column].set(jnp.asarray(DIVER, jnp.uint8))
        pixels = max(PICTURE_SIZE // (size + 1), 1)
        return jnp.repeat(jnp.repeat(drawn, pixels, axis=0), pixels, axis=1)

    def reset_env(self, key: PRNGKeyArray, params: None) -> tuple[Array, DeepSeaState]:
        """Start an episode."""
        del key, params
        return self.observe(self.start()), self.start()

    def step_env(
        self, key: PRNGKeyArray, state: DeepSeaState, action: Int[Array, ""], params: None
    ) -> tuple[Array, DeepSeaState, Float[Array, ""], Bool[Array, ""], dict[str, Array]]:
        """Take a step; returns observation, state, reward, terminated and info."""
        del params
        after, reward, info = self.move(state, action, self.sample_events(key))
        return self.observe(after), after, reward, self.ended(after), info


def _refusal(name: str, wanted: str, value: object) -> UserError:
    return UserError(f"{DEEP_SEA}: {name} must be {wanted}, got {shown(value)}")


def solved_after(
    episodes: np.ndarray, bad_episodes: np.ndarray, *, deterministic: bool = True
) -> int | None:
    """Return the episode after which bsuite counts a run of DeepSea as solved.

    That is the first one up to which fewer than 90% of the episodes were bad. In the stochastic
    variant it is fewer than 80% of at least 100 episodes (`find_solution` in the analyses of
    bsuite's experiments `deep_sea` and `deep_sea_stochastic`). bsuite looks at few episodes; given
    all of them, this finds an earlier one.

    Args:
        episodes: numbers of episodes, counted from 1, in order [rows].
        bad_episodes: how many of the episodes up to each of them were bad [rows].
        deterministic: the variant.

    Returns:
        One of `episodes`; None if the run never solved the environment.
    """
    share = BAD_SHARE if deterministic else BAD_SHARE_STOCHASTIC
    least = 1 if deterministic else LEAST_EPISODES_STOCHASTIC
    solved = (episodes >= least) & (bad_episodes < share * episodes)
    return int(episodes[np.argmax(solved)]) if solved.any() else None


def make(options: EnvironmentOptions, notices: Notices | None = None) -> DeviceEnvironment:
    """Make DeepSea with the options of a run.

    Raises:
        UserError: the options hold arguments that it does not take, or apply only to environments
            of Gymnasium.
    """
    del notices
    kwargs = json.loads(options.env_kwargs)
    known = field_names(DeepSea)
    for name in kwargs:
        if name not in known:
            raise UserError(
                f"--env-kwargs: {DEEP_SEA} takes {', '.join(known)}, but not {shown(name)}"
            )
    env = DeepSea(**kwargs)
    return DeviceEnvironment.from_options(options, env, cache_key=repr(env))
