"""The replay memory against a slow twin that keeps episodes as Python lists."""

import dataclasses
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noisydqn.replay import Replay, ReplayState
from noisydqn.types import Row, Transition

DISCOUNT = 0.9


@dataclasses.dataclass
class Step:
    """A step of one environment, numbered so that every observation is unique."""

    number: int
    action: int
    reward: float
    terminated: bool
    last: bool


class SlowReplay:
    """Keeps all steps of all environments, and forms each transition by its definition."""

    def __init__(self, slots: int, num_envs: int, n_step: int) -> None:
        self.slots, self.n_step = slots, n_step
        self.steps: list[list[Step]] = [[] for _ in range(num_envs)]

    def add(self, row: list[Step]) -> None:
        for steps, step in zip(self.steps, row, strict=True):
            steps.append(step)

    def transitions(self) -> dict[int, tuple[int, float, float, int]]:
        """Leaf -> (action, return, discount, number of the last observation) of all that exist."""
        found: dict[int, tuple[int, float, float, int]] = {}
        for env, steps in enumerate(self.steps):
            for start in range(max(0, len(steps) - self.slots), len(steps)):
                window = self._window(steps, start)
                if window is not None:
                    leaf = (start % self.slots) * len(self.steps) + env
                    found[leaf] = (steps[start].action, *window)
        return found

    def _window(self, steps: list[Step], start: int) -> tuple[float, float, int] | None:
        if steps[start].last:
            return None
        total = 0.0
        for i in range(1, self.n_step + 1):
            if start + i >= len(steps):
                return None
            step = steps[start + i]
            total += DISCOUNT ** (i - 1) * step.reward
            if step.last or i == self.n_step:
                return total, 0.0 if step.terminated else DISCOUNT**i, step.number
        raise AssertionError("unreachable")


def to_row(steps: list[Step]) -> Row:
    return Row(
        observation=jnp.asarray([[step.number, -step.number] for step in steps], jnp.float32),
        action=jnp.asarray([step.action for step in steps], jnp.int32),
        reward=jnp.asarray([step.reward for step in steps], jnp.float32),
        terminated=jnp.asarray([step.terminated for step in steps]),
        last=jnp.asarray([step.last for step in steps]),
    )


def make(capacity: int, num_envs: int, n_step: int, **options: Any) -> Replay:
    defaults: dict[str, Any] = {"prioritised": True, "priority_offset": 0.01}
    return Replay(
        capacity=capacity, num_envs=num_envs, n_step=n_step, discount=DISCOUNT, **defaults | options
    )


def empty(replay: Replay) -> ReplayState:
    row = jax.tree.map(lambda x: x[0], to_row([Step(0, 0, 0, False, False)]))
    return replay.init(row)


@cache
def compiled(replay: Replay) -> tuple[Any, Any]:
    return jax.jit(replay.add), jax.jit(replay.transitions)


def fill(replay: Replay, rows: list[list[Step]]) -> tuple[ReplayState, SlowReplay]:
    state, twin = empty(replay), SlowReplay(replay.slots, replay.num_envs, replay.n_step)
    add, _ = compiled(replay)
    for row in rows:
        state = add(state, to_row(row), jnp.float32(1))
        twin.add(row)
    return state, twin


def assert_agree(replay: Replay, state: ReplayState, twin: SlowReplay) -> None:
    """Exactly the twin's transitions can be sampled, and each is the twin's."""
    expected = twin.transitions()
    leaves = np.asarray(state.tree[-1]).reshape(-1)
    assert set(np.flatnonzero(leaves).tolist()) == set(expected)
    everything = jnp.arange(replay.slots * replay.num_envs)
    got = jax.tree.map(np.asarray, compiled(replay)[1](state.rows, everything))
    for leaf, (action, total, discount, last_number) in expected.items():
        assert got.a_tm1[leaf] == action
        assert got.r_t[leaf] == pytest.approx(total, abs=1e-5)
        assert got.discount_t[leaf] == pytest.approx(discount, abs=1e-6)
        assert got.s_t[leaf].tolist() == [last_number, -last_number]


def steps_of(flags: list[list[int]], num_envs: int) -> list[list[Step]]:
    """Rows of steps; a flag 0 goes on, 1 terminates, 2 truncates. A step after a last resets."""
    rows: list[list[Step]] = []
    for t, row in enumerate(flags):
        steps: list[Step] = []
        for env in range(num_envs):
            number = t * num_envs + env + 1
            first = t == 0 or rows[-1][env].last
            flag = 0 if first else row[env]
            reward = 0.0 if first else float(number % 7 - 3)
            steps.append(Step(number, number % 3, reward, flag == 1, flag > 0))
        rows.append(steps)
    return rows


SHAPES = [(1, 1, 2), (1, 2, 12), (1, 3, 4), (2, 1, 7), (2, 5, 6), (3, 3, 9)]
"""Environments, n, slots: from the smallest ring that holds a window upwards."""


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_agrees_with_the_twin(data: st.DataObject) -> None:
    """Random episodes: shorter than n, cut, ended, around the ring's end, in several envs."""
    num_envs, n_step, slots = data.draw(st.sampled_from(SHAPES))
    flag = st.sampled_from([0, 0, 0, 1, 2])
    length = data.draw(st.integers(1, 30))
    flags = data.draw(
        st.lists(
            st.lists(flag, min_size=num_envs, max_size=num_envs),
            min_size=length,
            max_size=length,
        )
    )
    replay = make(slots * num_envs, num_envs, n_step)
    assert_agree(replay, *fill(replay, steps_of(flags, num_envs)))


def test_no_transition_before_its_window_is_complete() -> None:
    replay = make(10, 1, 3)
    for length in range(1, 4):
        state, _ = fill(replay, steps_of([[0]] * length, 1))
        assert float(jnp.sum(state.tree[-1])) == 0
    state, _ = fill(replay, steps_of([[0]] * 4, 1))
    assert np.flatnonzero(state.tree[-1]).tolist() == [0]


def test_all_transitions_of_a_short_episode_are_kept() -> None:
    """An episode of two steps under n = 3: both transitions exist, with fewer rewards."""
    replay = make(10, 1, 3)
    state, _ = fill(replay, steps_of([[0], [0], [1]], 1))
    assert np.flatnonzero(state.tree[-1]).tolist() == [0, 1]
    transitions = replay.transitions(state.rows, jnp.array([0, 1]))
    np.testing.assert_allclose(transitions.r_t, [-1 + DISCOUNT * 0, 0])
    np.testing.assert_allclose(transitions.discount_t, [0, 0])


def test_a_truncated_episode_bootstraps_from_its_final_observation() -> None:
    replay = make(10, 1, 3)
    rows = steps_of([[0], [0], [2], [0], [0], [0]], 1)
    state, _ = fill(replay, rows)
    transitions = replay.transitions(state.rows, jnp.array([0, 1]))
    np.testing.assert_allclose(transitions.discount_t, [DISCOUNT**2, DISCOUNT])
    assert transitions.s_t[:, 0].tolist() == [3, 3]  # the observation before the reset


def test_termination_and_truncation_at_once_is_termination() -> None:
    replay = make(10, 1, 1)
    rows = steps_of([[0], [1]], 1)
    state, _ = fill(replay, rows)
    assert float(replay.transitions(state.rows, jnp.array([0])).discount_t[0]) == 0


@pytest.mark.parametrize("batch_size", [1, 32])
def test_sampling_frequencies_follow_the_priorities(batch_size: int) -> None:
    replay = make(16, 2, 1)
    state, twin = fill(replay, steps_of([[0, 0]] * 9, 2))
    leaves = np.array(sorted(twin.transitions()))
    errors = jnp.arange(1.0, len(leaves) + 1)
    alpha = 0.7
    state = replay.set_priorities(state, jnp.asarray(leaves), errors, jnp.float32(alpha))
    expected = (np.arange(1, len(leaves) + 1) + 0.01) ** alpha
    expected /= expected.sum()
    batches = 4000
    sample = jax.jit(
        jax.vmap(lambda key: replay.sample(state, key, batch_size, jnp.float32(0.4)).indices)
    )
    drawn = np.asarray(sample(jax.random.split(jax.random.key(0), batches))).ravel()
    frequency = np.bincount(drawn, minlength=leaves.max() + 1)[leaves] / drawn.size
    assert frequency.sum() == pytest.approx(1)
    assert np.abs(frequency - expected).max() < 5 * np.sqrt(0.25 / batches)


def test_importance_weights() -> None:
    replay = make(8, 1, 1)
    state, twin = fill(replay, steps_of([[0]] * 8, 1))
    leaves = jnp.asarray(sorted(twin.transitions()))
    state = replay.set_priorities(state, leaves, jnp.arange(1.0, 8.0), jnp.float32(1))
    batch = replay.sample(state, jax.random.key(3), 64, jnp.float32(0.5))
    probability = np.asarray(state.tree[-1]).ravel()[batch.indices] / float(jnp.sum(state.tree[0]))
    # (1 / (N P))^beta, divided by the largest of the batch (Schaul et al. 2016, section 3.4).
    expected = (1 / (len(leaves) * probability)) ** 0.5
    np.testing.assert_allclose(batch.weights, expected / expected.max(), rtol=1e-5)
    assert float(jnp.max(batch.weights)) == 1


def test_uniform_replay_ignores_errors() -> None:
    replay = make(8, 1, 1, prioritised=False)
    state, twin = fill(replay, steps_of([[0]] * 8, 1))
    leaves = jnp.asarray(sorted(twin.transitions()))
    state = replay.set_priorities(state, leaves, jnp.arange(1.0, 8.0), jnp.float32(0.6))
    assert set(np.asarray(state.tree[-1]).ravel()[leaves].tolist()) == {1.0}
    batch = replay.sample(state, jax.random.key(0), 32, jnp.float32(0.4))
    np.testing.assert_array_equal(batch.weights, np.ones(32))


def test_new_transitions_get_the_largest_priority_and_alpha_once() -> None:
    replay = make(20, 1, 1)
    state, _ = fill(replay, steps_of([[0]] * 3, 1))
    alpha = jnp.float32(0.5)
    state = replay.set_priorities(state, jnp.array([0]), jnp.array([-15.99]), alpha)
    assert float(state.max_priority) == pytest.approx(16)
    state = replay.add(state, to_row([Step(9, 0, 0, False, False)]), alpha)
    assert float(state.tree[-1][0, 2]) == pytest.approx(4)
    # A smaller error later lowers its own priority, not the largest seen.
    state = replay.set_priorities(state, jnp.array([0]), jnp.array([0.0]), alpha)
    assert float(state.tree[-1][0, 0]) == pytest.approx(0.1)
    assert float(state.max_priority) == pytest.approx(16)


def test_the_largest_error_of_a_repeated_index_counts() -> None:
    replay = make(8, 1, 1)
    state, _ = fill(replay, steps_of([[0]] * 5, 1))
    state = replay.set_priorities(
        state, jnp.array([1, 2, 1]), jnp.array([3.0, 1.0, -5.0]), jnp.float32(1)
    )
    np.testing.assert_allclose(state.tree[-1][0, 1:3], [5.01, 1.01], rtol=1e-6)


def test_observations_keep_their_type() -> None:
    replay = make(8, 1, 1)
    row = Row(
        jnp.zeros((4, 4), jnp.uint8), jnp.int32(0), jnp.float32(0), jnp.bool_(0), jnp.bool_(0)
    )
    transitions: Transition = replay.transitions(replay.init(row).rows, jnp.array([0]))
    assert transitions.s_tm1.dtype == transitions.s_t.dtype == jnp.uint8
