"""A user's environments in JAX, written from scratch: nothing of gymnax or of the package."""

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from noisydqn import Statistic


class Params(NamedTuple):
    size: int = 5
    limit: int = 20


class WalkState(NamedTuple):
    place: jax.Array
    time: jax.Array


class Space:
    n = 2


class Walk:
    """Walk on a line from its middle: the right end is the goal, the left one is not."""

    def __init__(self, start: int = 2) -> None:
        self.start = start

    @property
    def default_params(self) -> Params:
        return Params()

    def action_space(self, params: Params) -> Any:
        del params
        return Space()

    def _seen(self, state: WalkState, params: Params) -> jax.Array:
        return jnp.stack([state.place / params.size, state.time / params.limit])

    def reset_env(self, key: jax.Array, params: Params) -> tuple[Any, WalkState]:
        del key
        state = WalkState(jnp.int32(self.start), jnp.int32(0))
        return self._seen(state, params), state

    def step_env(
        self, key: jax.Array, state: WalkState, action: jax.Array, params: Params
    ) -> tuple[Any, ...]:
        del key
        state = WalkState(state.place + 2 * action - 1, state.time + 1)
        won, lost = state.place >= params.size - 1, state.place <= 0
        info = {"won": won, "lost": lost, "text": "of no use"}
        return self._seen(state, params), state, won * 1.0, won | lost, info

    def is_truncated(self, state: WalkState, params: Params) -> jax.Array:
        return state.time >= params.limit


class DrawnWalk(Walk):
    """Walk with pictures, statistics and names."""

    action_names: ClassVar = ("left", "right")
    render_fps: ClassVar = 10
    statistics: ClassVar = (
        Statistic("wins", "of the walks won", part="won", whole=("won", "lost"), goal=0.5),
        Statistic("wins_per_episode", "wins", part="won", style=".2f"),
    )

    def render(self, state: WalkState) -> jax.Array:
        return jnp.zeros((4, 8, 3)).at[:, state.place].set(1.0)


class FramesWalk(DrawnWalk):
    """Walk with two pictures per step, rendered with the parameters, and a panel."""

    panel: ClassVar = ("won",)

    def render(self, state: WalkState, params: Params) -> jax.Array:  # pyright: ignore[reportIncompatibleMethodOverride]
        picture = jnp.full((4, params.size, 3), 255, jnp.uint8)
        return jnp.stack([picture, picture.at[:, state.place].set(0)])


def make_walk(start: int = 2) -> Walk:
    return Walk(start)


def make_with_params() -> tuple[DrawnWalk, Params]:
    return DrawnWalk(), Params(limit=7)


class Bare:
    """As little as possible: no parameters, no limit, a number of actions; old `done`."""

    num_actions = 3

    def reset_env(self, key: jax.Array, params: None) -> tuple[jax.Array, jax.Array]:
        assert params is None
        place = jax.random.randint(key, (), 1, 4)
        return place[None], place

    def step_env(
        self, key: jax.Array, state: jax.Array, action: jax.Array, params: None
    ) -> tuple[Any, ...]:
        assert params is None
        state = state + action - 1
        del key
        return state[None], state, jnp.float32(1), (state <= 0) | (state >= 4), {}
