"""The exact DeepSea: recorded traces of bsuite 0.3.6 are reproduced step by step.

`record_deep_sea.py` made the traces and says what they hold.
"""

import json
from pathlib import Path
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from noisydqn.envs.deep_sea import DeepSea, DeepSeaState, Events
from noisydqn.envs.deep_sea_gymnasium import DeepSeaEnv

FILE = Path(__file__).parents[1] / "golden" / "deep_sea.npz"
DETERMINISTIC = ["one", "two", "five", "ten", "twenty", "plain", "costly"]
STOCHASTIC = ["stochastic", "stochastic-ten", "stochastic-costly"]
UNUSED = 99.0
"""Noise where bsuite draws none; a step that used it would be far off."""

Trace = dict[str, np.ndarray]


def read(name: str) -> tuple[dict[str, Any], Trace]:
    """Return the settings and the arrays of a trace."""
    with np.load(FILE) as file:
        trace = {key.split("/")[1]: file[key] for key in file if key.startswith(f"{name}/")}
    return json.loads(str(trace.pop("settings"))), trace


def test_every_trace_is_used() -> None:
    with np.load(FILE) as file:
        assert {key.split("/")[0] for key in file} == {*DETERMINISTIC, *STOCHASTIC}


def observations(trace: Trace) -> np.ndarray:
    """Return bsuite's observations [steps, size, size]."""
    steps, size = len(trace["cell"]), len(trace["right"])
    seen = np.zeros((steps, size * size), np.float32)
    shown = trace["cell"] >= 0
    seen[shown, trace["cell"][shown]] = 1
    return seen.reshape(steps, size, size)


def new_episode(last: np.ndarray) -> np.ndarray:
    """Return which steps [steps] are the first of an episode."""
    return np.concatenate([[True], last[:-1]])


def per_episode(total: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Return what a running total gained in each episode."""
    return np.diff(total[last], prepend=0)


@pytest.mark.parametrize("name", [*DETERMINISTIC, *STOCHASTIC])
def test_the_device_environment_equals_bsuite(name: str) -> None:
    settings, trace = read(name)
    env = DeepSea(**settings)
    np.testing.assert_array_equal(env.right_actions, trace["right"])
    noise = np.where(trace["drawn"], trace["noise"], UNUSED).astype(np.float32)
    inputs = new_episode(trace["last"]), trace["action"], Events._make((trace["slips"], noise))

    def play(state: DeepSeaState, step: Any) -> tuple[DeepSeaState, Any]:
        first, action, events = step
        state = jax.tree.map(lambda new, old: jnp.where(first, new, old), env.start(), state)
        state, reward, info = env.move(state, action, events)
        return state, (env.observe(state), reward, env.ended(state), info)

    _, played = jax.jit(
        lambda: jax.lax.scan(play, env.start(), jax.tree.map(jnp.asarray, inputs))
    )()
    seen, reward, ended, info = jax.tree.map(np.asarray, played)
    assert seen.dtype == np.float32
    np.testing.assert_array_equal(seen, observations(trace))
    np.testing.assert_array_equal(ended, trace["last"])
    if env.deterministic:
        np.testing.assert_array_equal(reward, trace["reward"].astype(np.float32))
    else:
        np.testing.assert_allclose(reward, trace["reward"], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(np.cumsum(info["treasures"]), trace["treasures"])
    last = trace["last"]
    np.testing.assert_array_equal(info["success"][last], 1 - per_episode(trace["bad"], last))
    assert not info["success"][~last].any()


class Replayed:
    """A generator that gives the recorded events, as those of Gymnasium would be drawn."""

    def __init__(self, trace: Trace) -> None:
        slips = np.where(trace["slips"], 0.0, 1.0)
        self.uniform, self.normal = iter(slips), iter(trace["noise"])

    def random(self) -> float:
        return next(self.uniform)

    def standard_normal(self) -> float:
        return next(self.normal)


@pytest.mark.parametrize("name", [*DETERMINISTIC, *STOCHASTIC])
def test_the_gymnasium_environment_equals_bsuite(name: str) -> None:
    settings, trace = read(name)
    wrapped = gymnasium.make("noisydqn/DeepSea-v0", disable_env_checker=True, **settings)
    env = wrapped.unwrapped
    assert isinstance(env, DeepSeaEnv)
    seen, firsts, over = observations(trace), new_episode(trace["last"]), False
    replayed: Any = Replayed(trace)
    bad = treasures = 0
    for i, action in enumerate(trace["action"][:200]):
        if firsts[i]:
            assert over or i == 0
            first, _ = env.reset(seed=i)
            assert np.flatnonzero(first).tolist() == [0]
            env.np_random = replayed
        observation, reward, over, truncated, info = env.step(np.int64(action))
        np.testing.assert_array_equal(observation, seen[i])
        assert reward == pytest.approx(trace["reward"][i], abs=1e-6)
        assert (over, truncated) == (trace["last"][i], False)
        assert ("is_success" in info) == over
        bad, treasures = bad + (not info.get("is_success", True)), treasures + info["treasures"]
        assert (bad, treasures) == (trace["bad"][i], trace["treasures"][i])
