"""The exact game: recorded traces of the original are reproduced tick by tick.

The traces were recorded from the PyGame Learning Environment's Catcher at 64 x 64 and 30
frames/s. `before` and `after` hold (paddle x, paddle velocity, fruit x, fruit y, lives).
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from noisydqn.envs import catcher

TRACES = sorted((Path(__file__).parent / "traces").glob("*.npz"))


@pytest.fixture(params=TRACES, ids=lambda path: path.stem)
def trace(request: pytest.FixtureRequest) -> dict[str, np.ndarray]:
    with np.load(request.param) as file:
        return dict(file)


def test_there_are_traces() -> None:
    assert [path.stem for path in TRACES] == ["chase", "random", "sticky"]


def states(rows: np.ndarray) -> catcher.CatcherState:
    x, velocity, fruit_x, fruit_y, lives = (jnp.asarray(column) for column in rows.T)
    integer = jnp.int32
    return catcher.CatcherState(
        paddle_x=x.astype(integer),
        paddle_velocity=velocity.astype(jnp.float32),
        fruit_x=fruit_x.astype(integer),
        fruit_y=fruit_y.astype(integer),
        lives=lives.astype(integer),
    )


def spawns(trace: dict[str, np.ndarray]) -> jax.Array:
    """A tick spawns one fruit at most: after a miss it is above the paddle's reach."""
    return jnp.repeat(jnp.asarray(trace["spawn"], jnp.int32)[:, None], 2, axis=1)


def assert_same(state: catcher.CatcherState, rows: np.ndarray) -> None:
    for i, field in enumerate(state):
        if i == 1:  # the velocity is real: recorded in double precision
            np.testing.assert_allclose(field, rows[:, i], atol=2e-6)
        else:
            np.testing.assert_array_equal(field, rows[:, i])


def test_each_tick_equals_the_recorded_one(trace: dict[str, np.ndarray]) -> None:
    tick = jax.jit(jax.vmap(catcher.tick))
    after, reward, terminated = tick(
        states(trace["before"]), jnp.asarray(trace["action"], jnp.int32), spawns(trace)
    )
    assert_same(after, trace["after"])
    np.testing.assert_array_equal(reward, trace["reward"])
    np.testing.assert_array_equal(terminated, trace["terminated"])


def test_whole_games_from_our_own_states(trace: dict[str, np.ndarray]) -> None:
    """Errors must not build up: only a new game starts from the trace."""
    starts = np.concatenate([[True], trace["terminated"][:-1]])
    before = states(trace["before"])

    def play(state: catcher.CatcherState, inputs: Any) -> tuple[catcher.CatcherState, Any]:
        start, recorded, action, spawn = inputs
        state = jax.tree.map(lambda new, old: jnp.where(start, new, old), recorded, state)
        after, reward, terminated = catcher.tick(state, action, spawn)
        return after, (after, reward, terminated)

    first = jax.tree.map(lambda x: x[0], before)
    inputs: Any = (
        jnp.asarray(starts),
        before,
        jnp.asarray(trace["action"], jnp.int32),
        spawns(trace),
    )
    _, (after, reward, terminated) = jax.jit(lambda s: jax.lax.scan(play, s, inputs))(first)
    for field, column in zip(after, trace["after"].T, strict=True):
        np.testing.assert_allclose(field, column, atol=2e-6)
    np.testing.assert_array_equal(reward, trace["reward"])
    np.testing.assert_array_equal(terminated, trace["terminated"])


def test_frames_equal_the_recorded_ones(trace: dict[str, np.ndarray]) -> None:
    frames = jax.jit(jax.vmap(catcher.render))(states(trace["after"]))
    assert frames.dtype == jnp.uint8
    np.testing.assert_array_equal(frames, trace["frame"])


def test_warp_within_one_gray_level(trace: dict[str, np.ndarray]) -> None:
    frames = jnp.asarray(trace["frame"])
    warped = jax.jit(jax.vmap(catcher.warp))(frames[0::2], frames[1::2])
    assert warped.dtype == jnp.uint8
    difference = np.abs(np.asarray(warped, int) - trace["warped"])
    assert difference.max() <= 1


def test_new_games_start_as_recorded(trace: dict[str, np.ndarray]) -> None:
    start = catcher.initial_state(jnp.asarray(trace["before"][0, 2:4], jnp.int32))
    assert_same(jax.tree.map(lambda x: x[None], start), trace["before"][:1])
