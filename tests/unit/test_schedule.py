"""The schedule of updates against a twin that counts one step after another."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noisydqn import Config
from noisydqn.runners.schedule import MAX_BURST, PriorityExponents, UpdateSchedule


def slow_updates(schedule: UpdateSchedule, ended: list[int]) -> tuple[list[int], list[int]]:
    """Scheduled and made updates after each step of all environments, counted from the start."""
    scheduled_before = made = 0
    all_scheduled: list[int] = []
    all_made: list[int] = []
    for number in range(1, len(ended) + 1):
        steps = number * schedule.num_envs
        if schedule.per_episode:
            total = int(schedule.ratio) * sum(ended[:number])
        else:
            grouped = number // schedule.learn_every * schedule.learn_every
            total = math.floor(grouped * schedule.num_envs * schedule.ratio)
        scheduled = total - scheduled_before
        scheduled_before = total
        number_due = 0
        for _ in range(scheduled):
            started = steps >= schedule.first_step
            if started and (schedule.max_updates is None or made < schedule.max_updates):
                made, number_due = made + 1, number_due + 1
        all_scheduled.append(scheduled)
        all_made.append(number_due)
    return all_scheduled, all_made


SCHEDULES = st.builds(
    UpdateSchedule,
    ratio=st.fractions(Fraction(1, 1000), 5, max_denominator=1000),
    num_envs=st.integers(1, 5),
    learn_every=st.integers(1, 4),
    first_step=st.integers(0, 40),
    max_updates=st.none() | st.integers(1, 30),
) | st.builds(
    UpdateSchedule,
    ratio=st.integers(1, 5).map(Fraction),
    num_envs=st.integers(1, 5),
    per_episode=st.just(True),
    first_step=st.integers(0, 40),
    max_updates=st.none() | st.integers(1, 30),
)


@given(SCHEDULES, st.lists(st.integers(0, 3), min_size=1, max_size=60))
def test_the_schedule_agrees_with_the_twin(schedule: UpdateSchedule, ended: list[int]) -> None:
    updates = 0
    got_scheduled: list[int] = []
    got_due: list[int] = []
    for number, episodes in enumerate(ended):
        step = number * schedule.num_envs
        scheduled = schedule.scheduled(step, episodes)
        due = schedule.due(scheduled, step, updates)
        updates += due
        got_scheduled.append(scheduled)
        got_due.append(due)
    assert (got_scheduled, got_due) == slow_updates(schedule, ended)
    assert schedule.exhausted(updates) == (updates == schedule.max_updates)


@pytest.mark.parametrize("per_episode", [False, True])
@pytest.mark.parametrize("max_updates", [None, 7])
def test_arrays_give_what_integers_give(per_episode: bool, max_updates: int | None) -> None:
    ratio = Fraction(3) if per_episode else Fraction(7, 10)
    schedule = UpdateSchedule(ratio, 2, 1 if per_episode else 3, per_episode, 8, max_updates)

    @jax.jit
    def traced(step: jax.Array, ended: jax.Array, updates: jax.Array) -> tuple[jax.Array, ...]:
        scheduled = schedule.scheduled(step, ended)
        return scheduled, schedule.due(scheduled, step, updates)

    updates = 0
    for step in range(0, 40, 2):
        scheduled = schedule.scheduled(step, step % 3)
        due = schedule.due(scheduled, step, updates)
        arrays = traced(jnp.int32(step), jnp.int32(step % 3), jnp.int32(updates))
        assert [int(x) for x in arrays] == [scheduled, due]
        assert all(x.dtype == jnp.int32 for x in arrays)
        updates += due
    assert updates > 0


def test_the_worked_example() -> None:
    schedule = UpdateSchedule(Fraction(3, 10), 2)
    assert [schedule.scheduled(step, 0) for step in (0, 2, 4, 6, 8)] == [0, 1, 0, 1, 1]


def test_large_counts_stay_within_32_bits() -> None:
    schedule = UpdateSchedule(Fraction(999, 1000), 1000)
    step = 2**30 - 2**30 % 1000
    assert int(schedule.scheduled(jnp.int32(step), jnp.int32(0))) == 999


def test_learning_waits_for_a_whole_transition() -> None:
    few = UpdateSchedule.create(Config(learning_starts=0, n_step=3, num_envs=8).program)
    assert few.first_step == 32
    assert UpdateSchedule.create(Config(learning_starts=1000).program).first_step == 1000


def test_a_burst_is_what_is_scheduled_at_once_unless_that_is_much() -> None:
    assert UpdateSchedule(Fraction(3, 10), 2, 4).burst == 3
    assert UpdateSchedule(Fraction(10), 4).burst == MAX_BURST


def test_exponents_go_linearly_and_stay() -> None:
    exponents = PriorityExponents((0.6, 0.2), (0.4, 1.0), 10)
    got = [[float(x) for x in exponents.after(jnp.int32(i))] for i in (0, 5, 10, 99)]
    assert got == [pytest.approx(x) for x in ([0.6, 0.4], [0.4, 0.7], [0.2, 1.0], [0.2, 1.0])]
