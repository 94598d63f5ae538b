"""The compiled runner: when noise is resampled, when updates are made, what is stored."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.probes import SMALL, CountingEnv, act, adapted, train
from tests.trees import priorities

from noisydqn import PRESETS
from noisydqn.envs.catcher import CatcherPixels
from noisydqn.envs.device import DeviceEnvironment
from noisydqn.learner.gradient import no_metrics
from noisydqn.runners import device
from noisydqn.runners.device import DeviceRunner
from noisydqn.runners.replay_core import ReplayCore, ReplayTraining

pytestmark = pytest.mark.slow


def make(env: Any, **options: Any) -> DeviceRunner:
    return DeviceRunner.create(SMALL.replace(**options).program, adapted(env))


def play(runner: DeviceRunner, vector_steps: int) -> list[ReplayTraining]:
    """The state before and after each step of all environments."""
    state = runner.init(jax.random.key(0))
    sums = no_metrics()
    step = jax.jit(runner.step)
    states = [state.training]
    for i in range(vector_steps):
        state, sums = step(state, jnp.int32(i * runner.num_envs), sums)
        states.append(state.training)
    return states


def noise(state: ReplayTraining) -> Any:
    """The noise to act with next."""
    return state.actor.explorer


def noise_changes(states: list[ReplayTraining]) -> np.ndarray:
    """[steps, envs]: whether the acting noise of each environment was resampled after a step."""
    first_layer = [np.asarray(noise(state).tree.hidden[0].output) for state in states]
    return np.array([(a != b).all(-1) for a, b in itertools.pairwise(first_layer)])


def test_noise_is_resampled_at_every_step_also_before_learning() -> None:
    states = play(make(CountingEnv(), acting_noise="step", learning_starts=10**6), 6)
    assert int(states[-1].learner.updates) == 0
    assert noise_changes(states).all()


def test_noise_is_resampled_when_an_update_is_scheduled_also_before_learning() -> None:
    runner = make(CountingEnv(), acting_noise="update", updates_per_step=0.25, learning_starts=10)
    states = play(runner, 12)  # two environments: an update is scheduled after every second step
    changed = noise_changes(states)
    assert changed.all(1).tolist() == changed.any(1).tolist() == [False, True] * 6
    updates = [int(state.learner.updates) for state in states[1:]]
    assert updates == [0, 0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4]


def test_noise_is_resampled_where_an_episode_has_ended() -> None:
    """So a whole episode is played under one sample; the action at its end is ignored."""
    runner = make(CountingEnv(lengths=(3, 5)), acting_noise="episode")
    states = play(runner, 14)
    ended = np.array([np.asarray(s.actor.time_step.last) for s in states[1:]])
    assert ended.any(0).all()
    np.testing.assert_array_equal(noise_changes(states), ended)


def test_the_runner_acts_under_its_noise() -> None:
    """Noise is not off while acting: stored actions are those of the noisy network in force."""
    runner = make(CountingEnv(), learning_starts=10**6, acting_noise="step", sigma_init=3.0)
    states = play(runner, 12)
    differ = 0
    for t, state in enumerate(states[:-1]):
        network, seen = state.learner.online.tree, state.actor.time_step.observation
        noisy = act(network, seen, noise(state).tree)
        np.testing.assert_array_equal(states[t + 1].replay.rows.action[t], noisy)
        differ += int(jnp.sum(noisy != act(network, seen, None)))
    assert differ > 0


def test_environments_have_separate_noise_unless_shared() -> None:
    state = make(CountingEnv()).init(jax.random.key(0)).training
    first, second = noise(state).tree.hidden[0].output
    assert not jnp.any(first == second)
    shared = make(CountingEnv(), acting_noise_shared=True, acting_noise="episode")
    states = play(shared, 8)
    assert noise(states[0]).tree.hidden[0].output.shape == (8,)
    ended = [bool(np.asarray(s.actor.time_step.last).any()) for s in states[1:]]
    samples = [np.asarray(noise(s).tree.hidden[0].output) for s in states]
    changed = [bool((a != b).all()) for a, b in itertools.pairwise(samples)]
    assert changed == ended


def test_between_groups_nothing_is_learned_and_noise_is_held() -> None:
    runner = make(CountingEnv(), updates_per_step=1, learn_every=3, learning_starts=0)
    states = play(runner, 12)
    made = [int(s.learner.updates) for s in states]
    steps_done = range(2, 26, 2)
    first = runner.core.schedule.first_step
    for steps, (before, after), (old, new) in zip(
        steps_done, itertools.pairwise(states), itertools.pairwise(made), strict=True
    ):
        ends = steps % 6 == 0
        assert new - old == (6 if ends and steps >= first else 0)
        assert bool(jnp.any(noise(before).vector != noise(after).vector)) == ends


def test_updates_per_episode() -> None:
    runner = make(
        CountingEnv(lengths=(3, 4)), updates_per_step=0, updates_per_episode=5, learning_starts=0
    )
    states = play(runner, 10)
    for number, (before, after) in enumerate(itertools.pairwise(states), start=1):
        ended = after.actor.time_step.terminated | after.actor.time_step.truncated
        made = int(after.learner.updates - before.learner.updates)
        steps_done = 2 * number
        expected = 5 * int(ended.sum()) if steps_done >= runner.core.schedule.first_step else 0
        assert made == expected


def test_what_is_stored_is_what_happened() -> None:
    """Every complete transition that is stored, against the counting environment's own rules."""
    lengths = (3, 5)
    runner = make(CountingEnv(lengths=lengths), n_step=2, discount=0.5, learning_starts=10**6)
    state = play(runner, 15)[-1]
    leaves = np.flatnonzero(priorities(state.replay.tree))
    assert len(leaves) > 15
    assert isinstance(runner.core, ReplayCore)
    got = runner.core.replay.transitions(state.replay.rows, jnp.asarray(leaves))
    for i in range(len(leaves)):
        time, length, action = (int(x) for x in got.s_tm1[i])
        assert time < length  # never from a final observation
        span = min(2, length - time)
        assert got.s_t[i].tolist()[:2] == [time + span, length]
        rewards = [float(time + k) for k in range(1, span + 1)]  # the reward is the new time
        assert float(got.r_t[i]) == sum(0.5**k * reward for k, reward in enumerate(rewards))
        terminates = time + span == length and length == min(lengths)  # the longer is truncated
        assert float(got.discount_t[i]) == (0 if terminates else 0.5**span)
        del action


def test_episode_returns_and_lengths() -> None:
    config = SMALL.replace(steps=80, chunk_steps=20)
    episodes = [
        episode
        for chunk in train(config, CountingEnv(lengths=(3, 5)))
        for episode in chunk.seeds[0].episodes
    ]
    assert {(e.episode_return, e.length) for e in episodes} == {(6.0, 3), (15.0, 5)}
    assert all(episode.step <= 80 for episode in episodes)
    assert [e.step for e in episodes] == sorted(e.step for e in episodes)


def test_random_steps_come_first() -> None:
    runner = make(CountingEnv(), random_steps=40, sigma_init=0.0, learning_starts=10**6)
    states = play(runner, 36)
    greedy = [
        act(state.learner.online.tree, state.actor.time_step.observation, None)
        for state in states[:-1]
    ]
    taken = [state.replay.rows.action[t % 20] for t, state in enumerate(states[1:])]
    agree = [bool((a == b).all()) for a, b in zip(taken, greedy, strict=True)]
    assert not all(agree[:20])  # 40 steps, two at a time
    assert all(agree[20:])


@pytest.mark.parametrize("preset", ["catcher", "catcher-notebook"])
def test_a_chunk_returns_the_types_it_takes(preset: str) -> None:
    """Weak types included: else the program is compiled twice."""
    runner = DeviceRunner.create(PRESETS[preset].program, DeviceEnvironment.create(CatcherPixels()))
    before = jax.eval_shape(lambda key: (runner.init(key), runner.empty_log()), jax.random.key(0))
    number = jnp.int32(1)
    after = jax.eval_shape(runner.advance, *before, number, number, number)
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert (old.shape, old.dtype, old.weak_type) == (new.shape, new.dtype, new.weak_type)


def test_a_chunk_in_parts_gives_the_bits_of_a_whole_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Calls are cut to what a signal may wait for; what is learned must not depend on that."""
    config = SMALL.replace(steps=80, chunk_steps=40, learning_starts=22, updates_per_step=0.5)
    ends: list[np.ndarray] = []
    for seconds in (1e-9, 1e9):  # one step at a time, and as many as parts may grow to
        monkeypatch.setattr(device, "PART_SECONDS", seconds)
        chunks = train(config, CountingEnv())
        arrays = jax.tree.leaves(chunks[-1].policy(0).network)
        ends.append(np.concatenate([np.ravel(x) for x in arrays]))
        assert len(chunks[0].seeds[0].episodes) > 2
    assert (ends[0] == ends[1]).all()


def test_steps_that_are_not_a_multiple_of_the_chunk() -> None:
    config = SMALL.replace(steps=50, chunk_steps=20)
    assert [chunk.steps for chunk in train(config, CountingEnv())] == [20, 40, 50]


def test_max_updates_is_exact() -> None:
    config = SMALL.replace(steps=200, max_updates=7, updates_per_step=1)
    chunks = train(config, CountingEnv())
    assert chunks[-1].seeds[0].updates == 7
    assert chunks[-1].steps < 200


def test_metrics_are_means_over_updates() -> None:
    config = SMALL.replace(learning_starts=22, updates_per_step=1)
    runner = DeviceRunner.create(config.program, adapted(CountingEnv()))
    advance, start = jax.jit(runner.advance), jnp.int32(0)
    state, log = runner.init(jax.random.key(0)), runner.empty_log()
    state, log = advance(state, log, jnp.int32(0), start, jnp.int32(10))
    assert int(state.training.learner.updates) == 0
    assert not log.sums.vector.any()
    state, _ = jax.jit(runner.end)(state)
    state, log = advance(state, log, jnp.int32(20), start, jnp.int32(10))
    assert int(state.training.learner.updates) == 20
    chunks = train(config, CountingEnv())
    assert np.isnan(chunks[0].seeds[0].metrics["loss"])
    second = chunks[1].seeds[0]
    assert second.metrics["loss"] == pytest.approx(float(log.sums.tree["loss"]) / 20, rel=1e-4)
    assert set(chunks[0].seeds[0].sigma) == {"hidden.0", "advantage", "value"}
    assert all(0 <= chunk.seeds[0].action_change <= 1 for chunk in chunks)


def test_updates_per_episode_with_several_seeds() -> None:
    """Seeds whose episodes end at different times make different numbers of updates."""
    config = SMALL.replace(
        num_seeds=3, updates_per_step=0, updates_per_episode=2, max_updates=50, steps=400
    )
    chunks = train(config, CountingEnv(lengths=(3, 7)))
    for i in range(3):
        episodes = sum(len(chunk.seeds[i].episodes) for chunk in chunks)
        assert chunks[-1].seeds[i].updates <= min(50, 2 * episodes)
    assert chunks[-1].seeds[0].updates == 50
    made = [tuple(chunk.seeds[i].updates for i in range(3)) for chunk in chunks]
    assert any(len(set(updates)) > 1 for updates in made)


def test_an_environment_may_keep_a_key_in_its_state() -> None:
    """Keys of resets and of steps are of one kind: episodes begin in both."""

    counting = CountingEnv()

    class Keeper:
        num_actions = 2
        default_params = None

        def observe(self, state: Any) -> jax.Array:
            return counting.observe(state[0])

        def reset_env(self, key: jax.Array, params: Any) -> Any:
            observation, state = counting.reset_env(key, params)
            return observation, (state, key)

        def step_env(self, key: jax.Array, state: Any, action: jax.Array, params: Any) -> Any:
            observation, inner, *rest = counting.step_env(key, state[0], action, params)
            return observation, (inner, state[1]), *rest

        def is_truncated(self, state: Any, params: Any) -> jax.Array:
            return counting.is_truncated(state[0], params)

    states = play(make(Keeper()), 8)
    assert sum(int(state.actor.time_step.last.sum()) for state in states) > 0


def test_seeds_trained_together_equal_seeds_trained_alone() -> None:
    """Not to the bit, as products are batched, but to rounding."""
    config = SMALL.replace(steps=40)
    (*_, both) = train(config.replace(num_seeds=2), CountingEnv())
    for i in range(2):
        (*_, alone) = train(config.replace(seed=i), CountingEnv())
        ours, theirs = both.policy(i).network, alone.policy(0).network
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
