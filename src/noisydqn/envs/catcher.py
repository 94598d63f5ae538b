"""Catcher, exactly as the PyGame Learning Environment plays it at 64 x 64 and 30 frames/s.

Fruit falls, a paddle at the bottom catches it, and three misses end the game. `tick` holds the
rules and is pure. `Catcher` wraps it in the interface of gymnax (`reset` and `step`, with keys and
params): one tick per step, RGB pixels. `CatcherPixels` adds the preprocessing of the classic
pipeline. It holds each action for two ticks, merges the two frames by their maximum, converts
them to gray and resizes them to 42 x 42.

Recorded traces of the original game are reproduced without a mismatch
(`tests/reference/test_catcher_traces.py`).
"""

import dataclasses
import json
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt8

from noisydqn.envs.device import DeviceEnvironment
from noisydqn.envs.names import CATCHER
from noisydqn.envs.notices import Notices
from noisydqn.envs.options import EnvironmentOptions
from noisydqn.envs.spec import Statistic
from noisydqn.errors import UserError

LEFT, RIGHT = 0, 1
NUM_ACTIONS = 3

SIZE = 64  # width and height of the screen, pixels
PADDLE_WIDTH, PADDLE_HEIGHT, PADDLE_Y = 13, 3, 58
PADDLE_START_X = 26
FRUIT_SIZE = 4
FALL = 0.00095 * SIZE * (1000 / 30)  # pixels per tick
THRUST = 0.021 * SIZE
FRICTION = 0.9
LIVES = 3
SPAWN_X = np.arange(8, 53, 4)  # a new fruit's x is one of these, its y one of those below
SPAWN_Y = -np.arange(4, 29, 4)

PADDLE_COLOR = (255, 255, 255)
FRUIT_COLOR = (255, 120, 120)

WARPED_SIZE = 42  # width and height after `warp`, pixels
GREY_WEIGHTS = (0.299, 0.587, 0.114)

DEFAULT_MAX_TICKS = 10_000

CAUGHT_FRACTION = Statistic(
    "caught_fraction",
    "of the fruit caught",
    part="caught",
    whole=("caught", "missed"),
    style=".2%",
    goal=0.99,
    meaning="Fraction of the fruit caught in episodes without noise.",
)


class CatcherState(NamedTuple):
    """The state of the game. Positions are the centers of rectangles, in pixels."""

    paddle_x: Int[Array, ""]
    paddle_velocity: Float[Array, ""]
    fruit_x: Int[Array, ""]
    fruit_y: Int[Array, ""]
    lives: Int[Array, ""]


def _round_half_away(x: Float[Array, ""]) -> Int[Array, ""]:
    return (jnp.sign(x) * jnp.floor(jnp.abs(x) + 0.5)).astype(jnp.int32)


def _overlap(state: CatcherState) -> Bool[Array, ""]:
    """Tell whether the rectangles of fruit and paddle overlap; touching edges do not count."""
    fruit_left, fruit_top = state.fruit_x - FRUIT_SIZE // 2, state.fruit_y - FRUIT_SIZE // 2
    paddle_left, paddle_top = state.paddle_x - PADDLE_WIDTH // 2, PADDLE_Y - PADDLE_HEIGHT // 2
    return (
        (fruit_left < paddle_left + PADDLE_WIDTH)
        & (paddle_left < fruit_left + FRUIT_SIZE)
        & (fruit_top < paddle_top + PADDLE_HEIGHT)
        & (paddle_top < fruit_top + FRUIT_SIZE)
    )


def _respawn(state: CatcherState, condition: Bool[Array, ""], spawn: Int[Array, "2"]):
    return state._replace(
        fruit_x=jnp.where(condition, spawn[0], state.fruit_x),
        fruit_y=jnp.where(condition, spawn[1], state.fruit_y),
    )


def tick(
    state: CatcherState, action: Int[Array, ""], spawns: Int[Array, "2 2"]
) -> tuple[CatcherState, Float[Array, ""], Bool[Array, ""]]:
    """Play one tick.

    Args:
        state: the state before the tick.
        action: 0 left, 1 right, 2 no-op.
        spawns: (x, y) at which a fruit reappears after a miss (row 0) and after a catch (row 1).

    Returns:
        The state after the tick, its reward (+1 a catch, -1 a miss, a further -5 for the last
        life) and whether the game is over.
    """
    thrust = jnp.where(action == LEFT, -THRUST, jnp.where(action == RIGHT, THRUST, 0.0))

    missed = state.fruit_y >= SIZE
    state = _respawn(state, missed, spawns[0])._replace(
        lives=state.lives - missed.astype(jnp.int32)
    )
    caught = _overlap(state)
    state = _respawn(state, caught, spawns[1])

    velocity = jnp.float32(FRICTION) * (state.paddle_velocity + thrust.astype(jnp.float32))
    x = state.paddle_x + velocity
    at_left, at_right = x <= 0, x + PADDLE_WIDTH >= SIZE
    x = jnp.where(at_left, 0.0, jnp.where(at_right, float(SIZE - PADDLE_WIDTH), x))

    terminated = state.lives == 0
    caught, lost = caught.astype(jnp.float32), missed.astype(jnp.float32)
    reward = caught - lost - 5.0 * terminated.astype(jnp.float32)
    after = state._replace(
        paddle_x=_round_half_away(x),
        paddle_velocity=jnp.where(at_left | at_right, 0.0, velocity),
        fruit_y=_round_half_away(state.fruit_y + jnp.float32(FALL)),
    )
    return after, reward, terminated


def initial_state(spawn: Int[Array, "2"]) -> CatcherState:
    """Return the state in which a game starts, with its first fruit at `spawn` (x, y)."""
    return CatcherState(
        paddle_x=jnp.int32(PADDLE_START_X),
        paddle_velocity=jnp.float32(0.0),
        fruit_x=jnp.asarray(spawn[0], jnp.int32),
        fruit_y=jnp.asarray(spawn[1], jnp.int32),
        lives=jnp.int32(LIVES),
    )


def sample_spawns(key: PRNGKeyArray, number: int) -> Int[Array, "number 2"]:
    """Sample the (x, y) at which each of `number` fruits appears."""
    key_x, key_y = jax.random.split(key)
    x = jax.random.choice(key_x, jnp.asarray(SPAWN_X, jnp.int32), (number,))
    y = jax.random.choice(key_y, jnp.asarray(SPAWN_Y, jnp.int32), (number,))
    return jnp.stack([x, y], axis=-1)


def _covers(start: Int[Array, ""], length: int) -> Bool[Array, "64"]:
    pixels = jnp.arange(SIZE)
    return (pixels >= start) & (pixels < start + length)


def render(state: CatcherState) -> UInt8[Array, "64 64 3"]:
    """Render the screen, height x width x RGB.

    As in the original, a sprite's top-left corner is drawn at its center coordinates.
    """
    paddle = jnp.outer(
        _covers(jnp.int32(PADDLE_Y), PADDLE_HEIGHT), _covers(state.paddle_x, PADDLE_WIDTH)
    )
    fruit = jnp.outer(_covers(state.fruit_y, FRUIT_SIZE), _covers(state.fruit_x, FRUIT_SIZE))
    black = jnp.zeros((SIZE, SIZE, 3), jnp.uint8)
    screen = jnp.where(paddle[..., None], jnp.asarray(PADDLE_COLOR, jnp.uint8), black)
    return jnp.where(fruit[..., None], jnp.asarray(FRUIT_COLOR, jnp.uint8), screen)


def _area_weights(source: int, target: int) -> np.ndarray:
    """Compute the share of each source pixel in each target pixel, [target, source].

    Rows sum to 1.
    """
    scale = source / target
    start = np.arange(target)[:, None] * scale
    pixel = np.arange(source)[None, :]
    overlap = np.minimum(start + scale, pixel + 1) - np.maximum(start, pixel)
    return (np.maximum(overlap, 0) / scale).astype(np.float32)


_RESIZE = _area_weights(SIZE, WARPED_SIZE)


def warp(
    frame_a: UInt8[Array, "64 64 3"], frame_b: UInt8[Array, "64 64 3"]
) -> UInt8[Array, "42 42"]:
    """Merge two frames by their maximum, convert to gray and resize by area to 42 x 42."""
    rgb = jnp.maximum(frame_a, frame_b).astype(jnp.float32)
    grey = jnp.round(sum(weight * rgb[..., i] for i, weight in enumerate(GREY_WEIGHTS)))
    small = _RESIZE @ grey @ _RESIZE.T
    return jnp.clip(jnp.round(small), 0, 255).astype(jnp.uint8)


class CatcherParams(NamedTuple):
    """Parameters of the environment."""

    max_ticks: int | Int[Array, ""] = DEFAULT_MAX_TICKS  # ticks until a game is truncated


class EnvState(NamedTuple):
    """The state of an episode: the game, the game one tick earlier, and the time."""

    game: CatcherState
    previous: CatcherState  # one tick earlier; `CatcherPixels` shows both
    time: Int[Array, ""]  # ticks played


@dataclasses.dataclass(frozen=True)
class Catcher:
    """Catcher with the interface of gymnax 1.x: one tick per step, RGB pixels [64, 64, 3]."""

    ticks_per_step: ClassVar[int] = 1
    action_names: ClassVar[tuple[str, ...]] = ("left", "right", "stay")
    statistics: ClassVar[tuple[Statistic, ...]] = (CAUGHT_FRACTION,)
    panel: ClassVar[tuple[str, ...]] = ("caught", "missed")
    render_fps: ClassVar[float] = 30.0  # ticks per second

    @property
    def num_actions(self) -> int:
        """The number of actions: left, right and no-op."""
        return NUM_ACTIONS

    @property
    def default_params(self) -> CatcherParams:
        """The default parameters: games are truncated after 10,000 ticks."""
        return CatcherParams()

    def observe(self, state: EnvState) -> UInt8[Array, "..."]:
        """Return the observation: the screen, as a player sees it."""
        return render(state.game)

    def render(self, state: EnvState) -> UInt8[Array, "..."]:
        """Render the screen [64, 64, 3]."""
        return render(state.game)

    def reset_env(self, key: PRNGKeyArray, params: CatcherParams) -> tuple[Array, EnvState]:
        """Start a game."""
        del params
        game = initial_state(sample_spawns(key, 1)[0])
        state = EnvState(game=game, previous=game, time=jnp.int32(0))
        return self.observe(state), state

    def step_env(
        self, key: PRNGKeyArray, state: EnvState, action: Int[Array, ""], params: CatcherParams
    ) -> tuple[Array, EnvState, Float[Array, ""], Bool[Array, ""], dict[str, Any]]:
        """Hold `action` for `ticks_per_step` ticks, or until the game is over.

        Returns observation, state, reward, terminated and info (fruit `caught` and `missed`).
        """
        del params
        spawns = sample_spawns(key, 2 * self.ticks_per_step).reshape(-1, 2, 2)
        reward, caught, missed = jnp.float32(0), jnp.int32(0), jnp.int32(0)
        terminated = jnp.bool_(False)
        for i in range(self.ticks_per_step):
            game, tick_reward, over = tick(state.game, action, spawns[i])
            after = EnvState(game=game, previous=state.game, time=state.time + 1)
            lost = state.game.lives - game.lives
            gained = (tick_reward + lost + 5 * over).astype(jnp.int32)
            playing = ~terminated
            state = jax.tree.map(lambda new, old, p=playing: jnp.where(p, new, old), after, state)
            reward += playing * tick_reward
            caught += playing * gained
            missed += playing * lost
            terminated |= over
        return self.observe(state), state, reward, terminated, {"caught": caught, "missed": missed}

    def is_truncated(self, state: EnvState, params: CatcherParams) -> Bool[Array, ""]:
        """Tell whether the time limit is reached."""
        return state.time >= params.max_ticks

    def reset(
        self, key: PRNGKeyArray, params: CatcherParams | None = None
    ) -> tuple[Array, EnvState]:
        """Start a game; returns observation and state."""
        return self.reset_env(key, self.default_params if params is None else params)

    def step(
        self,
        key: PRNGKeyArray,
        state: EnvState,
        action: Int[Array, ""],
        params: CatcherParams | None = None,
    ) -> tuple[Array, EnvState, Float[Array, ""], Bool[Array, ""], Bool[Array, ""], dict[str, Any]]:
        """Play one step and, if that ends the game, start a new one, as gymnax does.

        Returns observation, state, reward, terminated, truncated and info. The
        `final_observation` in info is the observation before any new game.
        """
        params = self.default_params if params is None else params
        step_key, reset_key = jax.random.split(key)
        seen, after, reward, terminated, info = self.step_env(step_key, state, action, params)
        truncated = self.is_truncated(after, params) & ~terminated
        fresh = self.reset_env(reset_key, params)
        observation, state = jax.tree.map(
            lambda new, old: jnp.where(terminated | truncated, new, old), fresh, (seen, after)
        )
        info = {**info, "final_observation": seen}
        return observation, state, reward, terminated, truncated, info


@dataclasses.dataclass(frozen=True)
class CatcherPixels(Catcher):
    """Catcher as agents see it: actions held for two ticks, gray pixels [42, 42] in uint8."""

    ticks_per_step: ClassVar[int] = 2

    def observe(self, state: EnvState) -> UInt8[Array, "42 42"]:
        """Return the observation: the last two frames, merged by `warp`."""
        return warp(render(state.previous), render(state.game))

    def render(self, state: EnvState) -> UInt8[Array, "2 64 64 3"]:
        """Render the screens of both ticks of a step."""
        return jnp.stack([render(state.previous), render(state.game)])


def make(options: EnvironmentOptions, notices: Notices | None = None) -> DeviceEnvironment:
    """Make `CatcherPixels` with the options of a run.

    Raises:
        UserError: the options hold arguments for it, or apply only to environments of Gymnasium.
    """
    del notices
    if json.loads(options.env_kwargs):
        raise UserError(f"--env-kwargs: {CATCHER} takes none")
    return DeviceEnvironment.from_options(options, CatcherPixels(), cache_key="catcher")
