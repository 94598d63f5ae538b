"""The replay memory against a slow twin that keeps episodes as Python lists."""

import dataclasses
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.trees import priorities, total_priority

from noisydqn.learner.replay import Replay, ReplayState
from noisydqn.types import Row, Transition

DISCOUNT = 0.9
OFFSET = 0.01
BATCH = 4


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

    def __init__(self, replay: Replay) -> None:
        self.slots, self.n_step, self.frames = replay.slots, replay.n_step, replay.frames
        self.steps: list[list[Step]] = [[] for _ in range(replay.num_envs)]
        self.priorities: dict[tuple[int, int], float] = {}  # of (env, number of the first step)
        self.max_priority = 1.0

    def add(self, row: list[Step], alpha: float) -> None:
        for steps, step in zip(self.steps, row, strict=True):
            steps.append(step)
        now = {key: key in self.priorities for key in self._existing()}
        new = self.max_priority**alpha
        self.priorities = {key: self.priorities[key] if old else new for key, old in now.items()}

    def set_priorities(self, leaves: list[int], errors: list[float], alpha: float) -> None:
        by_leaf = {self.leaf(key): key for key in self.priorities}
        for leaf in set(leaves):
            error = max(abs(e) for at, e in zip(leaves, errors, strict=True) if at == leaf)
            self.priorities[by_leaf[leaf]] = (error + OFFSET) ** alpha
            self.max_priority = max(self.max_priority, error + OFFSET)

    def leaf(self, key: tuple[int, int]) -> int:
        env, start = key
        return (start % self.slots) * len(self.steps) + env

    def seen(self, leaf: int, last: int) -> list[list[int]]:
        """The stacks of numbers at a leaf's first step and at the step of its last observation."""
        env, start = next(key for key in self._existing() if self.leaf(key) == leaf)
        end = next(i for i, step in enumerate(self.steps[env]) if step.number == last)
        return [self._stack(self.steps[env], at) for at in (start, end)]

    def _stack(self, steps: list[Step], at: int) -> list[int]:
        stack = [steps[at].number]
        while len(stack) < self.frames:
            at = at if at == 0 or steps[at - 1].last else at - 1
            stack.insert(0, steps[at].number)
        return stack

    def transitions(self) -> dict[int, tuple[int, float, float, int]]:
        """Leaf -> (action, return, discount, number of the last observation) of all that exist."""
        return {
            self.leaf((env, start)): (self.steps[env][start].action, *window)
            for (env, start), window in self._existing().items()
        }

    def _existing(self) -> dict[tuple[int, int], tuple[float, float, int]]:
        found: dict[tuple[int, int], tuple[float, float, int]] = {}
        for env, steps in enumerate(self.steps):
            for start in range(max(0, len(steps) - self.slots + self.frames - 1), len(steps)):
                window = self._window(steps, start)
                if window is not None:
                    found[env, start] = window
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
    defaults: dict[str, Any] = {"prioritized": True, "priority_offset": OFFSET}
    return Replay(
        capacity=capacity, num_envs=num_envs, n_step=n_step, discount=DISCOUNT, **defaults | options
    )


def empty(replay: Replay) -> ReplayState:
    row = jax.tree.map(lambda x: x[0], to_row([Step(0, 0, 0, False, False)]))
    return replay.init(row)


class Compiled(NamedTuple):
    add: Any
    transitions: Any
    sample: Any
    set_priorities: Any


@cache
def compiled(replay: Replay) -> Compiled:
    return Compiled(
        jax.jit(replay.add),
        jax.jit(replay.transitions),
        jax.jit(lambda state, key, beta: replay.sample(state, key, BATCH, beta)),
        jax.jit(replay.set_priorities),
    )


def fill(replay: Replay, rows: list[list[Step]]) -> tuple[ReplayState, SlowReplay]:
    state, twin = empty(replay), SlowReplay(replay)
    for row in rows:
        state = compiled(replay).add(state, to_row(row), jnp.float32(1))
        twin.add(row, 1)
    return state, twin


def assert_agree(replay: Replay, state: ReplayState, twin: SlowReplay) -> None:
    """Exactly the twin's transitions can be sampled, and each is the twin's."""
    expected = twin.transitions()
    assert set(np.flatnonzero(priorities(state.tree)).tolist()) == set(expected)
    for key, priority in twin.priorities.items():
        assert priorities(state.tree)[twin.leaf(key)] == pytest.approx(priority, rel=1e-5)
    assert float(state.max_priority) == pytest.approx(twin.max_priority, rel=1e-6)
    everything = jnp.arange(replay.slots * replay.num_envs)
    got = jax.tree.map(np.asarray, compiled(replay).transitions(state.rows, everything))
    for leaf, (action, total, discount, last_number) in expected.items():
        assert got.a_tm1[leaf] == action
        assert got.r_t[leaf] == pytest.approx(total, abs=1e-5)
        assert got.discount_t[leaf] == pytest.approx(discount, abs=1e-6)
        for shown, numbers in zip((got.s_tm1, got.s_t), twin.seen(leaf, last_number), strict=True):
            stack = [[number, -number] for number in numbers]
            assert shown[leaf].tolist() == (stack if replay.frames > 1 else stack[0])


def steps_of(flags: list[list[int]], num_envs: int) -> list[list[Step]]:
    """Rows of steps; flag 0 continues, 1 terminates, 2 truncates. A step after a last resets."""
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


SHAPES = [
    *((1, 1, 3, 1), (1, 2, 12, 1), (1, 3, 5, 1), (2, 1, 7, 1), (2, 5, 7, 1), (3, 3, 9, 1)),
    *((1, 1, 4, 2), (1, 2, 12, 4), (2, 3, 8, 4), (3, 1, 9, 3)),
]
"""Environments, n, slots, frames: from the smallest ring upwards."""

EXPONENT = st.sampled_from([0.0, 0.4, 1.0])


@pytest.mark.slow
@settings(deadline=None, max_examples=120)
@given(st.data())
def test_random_operations_agree_with_the_twin(data: st.DataObject) -> None:
    """Adding, sampling and setting priorities in any order, under exponents that change.

    Episodes are shorter than n, cut, ended, and lie around the ring's end, in several envs; what
    is seen is one observation or a stack of several.
    """
    num_envs, n_step, slots, frames = data.draw(st.sampled_from(SHAPES))
    replay = make(slots * num_envs, num_envs, n_step, frames=frames)
    flag = st.lists(st.sampled_from([0, 0, 0, 1, 2]), min_size=num_envs, max_size=num_envs)
    rows = steps_of(data.draw(st.lists(flag, min_size=1, max_size=30)), num_envs)
    state, twin = empty(replay), SlowReplay(replay)
    for t, row in enumerate(rows):
        alpha = data.draw(EXPONENT)
        state = compiled(replay).add(state, to_row(row), jnp.float32(alpha))
        twin.add(row, alpha)
        if t > n_step:
            assert twin.priorities  # the ring always holds a complete transition
        if twin.priorities and data.draw(st.booleans()):
            key = jax.random.key(data.draw(st.integers(0, 99)))
            beta = data.draw(EXPONENT)
            batch = compiled(replay).sample(state, key, jnp.float32(beta))
            drawn = batch.indices.tolist()
            held = {twin.leaf(at): priority for at, priority in twin.priorities.items()}
            assert set(drawn) <= set(held)
            weights = np.array([held[leaf] for leaf in drawn]) ** -beta
            np.testing.assert_allclose(batch.weights, weights / weights.max(), rtol=1e-4)
            errors = data.draw(st.lists(st.floats(-9, 9, width=32), min_size=4, max_size=4))
            state = compiled(replay).set_priorities(
                state, batch.indices, jnp.asarray(errors), jnp.float32(alpha)
            )
            twin.set_priorities(drawn, errors, alpha)
    assert_agree(replay, state, twin)


def test_no_transition_before_its_window_is_complete() -> None:
    replay = make(10, 1, 3)
    for length in range(1, 4):
        state, _ = fill(replay, steps_of([[0]] * length, 1))
        assert float(priorities(state.tree).sum()) == 0
    state, _ = fill(replay, steps_of([[0]] * 4, 1))
    assert np.flatnonzero(priorities(state.tree)).tolist() == [0]


def test_all_transitions_of_a_short_episode_are_kept() -> None:
    """An episode of two steps under n = 3: both transitions exist, with fewer rewards."""
    replay = make(10, 1, 3)
    state, _ = fill(replay, steps_of([[0], [0], [1]], 1))
    assert np.flatnonzero(priorities(state.tree)).tolist() == [0, 1]
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
    # Strata within a batch make the frequencies only more exact than independent draws.
    deviation = np.sqrt(expected * (1 - expected) / drawn.size)
    assert (np.abs(frequency - expected) < 5 * deviation).all()


def test_importance_weights() -> None:
    replay = make(8, 1, 1)
    state, twin = fill(replay, steps_of([[0]] * 8, 1))
    leaves = jnp.asarray(sorted(twin.transitions()))
    state = replay.set_priorities(state, leaves, jnp.arange(1.0, 8.0), jnp.float32(1))
    batch = replay.sample(state, jax.random.key(3), 64, jnp.float32(0.5))
    probability = priorities(state.tree)[batch.indices] / total_priority(state.tree)
    # (1 / (N P))^beta, divided by the largest of the batch (Schaul et al. 2016, section 3.4).
    expected = (1 / (len(leaves) * probability)) ** 0.5
    np.testing.assert_allclose(batch.weights, expected / expected.max(), rtol=1e-5)
    assert float(jnp.max(batch.weights)) == 1


def test_uniform_replay_ignores_errors() -> None:
    replay = make(8, 1, 1, prioritized=False)
    state, twin = fill(replay, steps_of([[0]] * 8, 1))
    leaves = jnp.asarray(sorted(twin.transitions()))
    state = replay.set_priorities(state, leaves, jnp.arange(1.0, 8.0), jnp.float32(0.6))
    assert set(priorities(state.tree)[leaves].tolist()) == {1.0}
    batch = replay.sample(state, jax.random.key(0), 32, jnp.float32(0.4))
    np.testing.assert_array_equal(batch.weights, np.ones(32))


def test_new_transitions_get_the_largest_priority_and_alpha_once() -> None:
    replay = make(20, 1, 1)
    state, _ = fill(replay, steps_of([[0]] * 3, 1))
    alpha = jnp.float32(0.5)
    state = replay.set_priorities(state, jnp.array([0]), jnp.array([-15.99]), alpha)
    assert float(state.max_priority) == pytest.approx(16)
    state = replay.add(state, to_row([Step(9, 0, 0, False, False)]), alpha)
    assert float(priorities(state.tree)[2]) == pytest.approx(4)
    # A smaller error later lowers its own priority, not the largest seen.
    state = replay.set_priorities(state, jnp.array([0]), jnp.array([0.0]), alpha)
    assert float(priorities(state.tree)[0]) == pytest.approx(0.1)
    assert float(state.max_priority) == pytest.approx(16)


def test_the_largest_error_of_a_repeated_index_counts() -> None:
    replay = make(8, 1, 1)
    state, _ = fill(replay, steps_of([[0]] * 5, 1))
    state = replay.set_priorities(
        state, jnp.array([1, 2, 1]), jnp.array([3.0, 1.0, -5.0]), jnp.float32(1)
    )
    np.testing.assert_allclose(priorities(state.tree)[1:3], [5.01, 1.01], rtol=1e-6)


def test_observations_keep_their_type() -> None:
    replay = make(8, 1, 1)
    row = Row(
        jnp.zeros((4, 4), jnp.uint8), jnp.int32(0), jnp.float32(0), jnp.bool_(0), jnp.bool_(0)
    )
    transitions: Transition = replay.transitions(replay.init(row).rows, jnp.array([0]))
    assert transitions.s_tm1.dtype == transitions.s_t.dtype == jnp.uint8
