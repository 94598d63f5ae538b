"""The parallel learner: what a rollout holds, what is learned from it, when."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.host_envs import CountingHostEnv
from tests.hosts import make as make_host
from tests.probes import CountingEnv, adapted, run_host

from noisydqn import Config
from noisydqn.errors import ConfigError
from noisydqn.learner.agent import acting_values, values
from noisydqn.learner.gradient import METRIC_NAMES, no_metrics
from noisydqn.learner.parallel import Minibatch, ParallelAgent
from noisydqn.nets.noisy import sample_noise
from noisydqn.runners import host, host_programs
from noisydqn.runners.device import DeviceRunner
from noisydqn.runners.exploration import EpsilonGreedy
from noisydqn.runners.parallel_core import ParallelCore, ParallelTraining
from noisydqn.runners.stop import Stop

pytestmark = pytest.mark.slow

STEPS, ENVS = 4, 2
SMALL = Config(
    learner="parallel",
    rollout_steps=STEPS,
    minibatches=2,
    epochs=3,
    torso="flat",
    hidden=(8,),
    num_envs=ENVS,
    steps=100,
    chunk_steps=24,
    discount=0.5,
)
UPDATES = 6


def play(vector_steps: int, **options: Any) -> list[ParallelTraining]:
    """The state before and after each step of all environments on the device."""
    runner = DeviceRunner.create(SMALL.replace(**options).program, adapted(CountingEnv()))
    state, sums, step = runner.init(jax.random.key(0)), no_metrics(), jax.jit(runner.step)
    states: list[ParallelTraining] = [state.training]
    for i in range(vector_steps):
        state, sums = step(state, jnp.int32(i * ENVS), sums)
        states.append(state.training)
    return states


def play_on_host(vector_steps: int) -> list[ParallelTraining]:
    """The state after the first observation, then after each step was taken in."""
    env = make_host(CountingHostEnv)
    made = host_programs.programs(SMALL.program, env.spec)
    vector = env.vector(ENVS)
    start = made.init(jax.random.key(0)), vector.reset(0)
    run = host._Run(made, vector, start, 1_000, Stop())  # pyright: ignore[reportPrivateUsage]
    states: list[Any] = []
    for _ in range(vector_steps + 1):
        run._step()  # pyright: ignore[reportPrivateUsage]
        states.append(jax.tree.map(np.array, run.state))
    vector.close()
    return states


@pytest.mark.parametrize("runner", ["device", "host"])
def test_a_rollout_holds_what_happened(runner: str) -> None:
    """Every step of three rollouts, against the counting environment's own rules."""
    states = play(3 * STEPS) if runner == "device" else play_on_host(3 * STEPS)
    slots: list[Any] = []
    for number in range(3):
        rollout = states[(number + 1) * STEPS].rollout
        slots += [jax.tree.map(lambda x, t=t: np.asarray(x)[t], rollout) for t in range(STEPS)]
    for e in range(ENVS):
        for now, following in itertools.pairwise(slots):
            time, length = now.observation[e, :2]
            following_time = following.observation[e, 0]
            assert now.ignored[e] == (time == length)  # the step after the end is a reset
            if now.ignored[e]:
                assert following_time == 0
                assert not now.last[e]
                continue
            assert following_time == now.reward[e] == time + 1
            assert following.observation[e, 2] == now.action[e]
            assert now.last[e] == (following_time == length)
            assert now.terminated[e] == (now.last[e] and length == 3)
    assert sum(slot.last.sum() for slot in slots) >= 4


def test_updates_come_after_each_rollout_and_noise_is_resampled_then() -> None:
    states = play(3 * STEPS)
    assert [int(state.learner.updates) for state in states] == [
        *[0] * STEPS,
        *[UPDATES] * STEPS,
        *[2 * UPDATES] * STEPS,
        3 * UPDATES,
    ]
    vectors = [np.asarray(state.actor.explorer.vector) for state in states]
    changed = [bool((a != b).any()) for a, b in itertools.pairwise(vectors)]
    assert changed == [i % STEPS == 0 for i in range(1, 3 * STEPS + 1)]


@pytest.mark.parametrize("noise", ["mean", "acting"])
def test_states_are_valued_by_the_weights_that_were_asked_for(noise: str) -> None:
    states = play(STEPS - 1, return_noise=noise, sigma_init=3.0)
    state = states[0]
    network = state.learner.online.tree
    seen = state.actor.time_step.observation
    held = state.actor.explorer.tree
    acted, mean = acting_values(network, seen, held), values(network, seen, None)
    expected = acted if noise == "acting" else mean
    assert not np.allclose(acted, mean)
    valued = np.asarray(states[1].rollout.value[0, :, 0])
    np.testing.assert_allclose(valued, np.max(np.asarray(expected), axis=-1), rtol=1e-5)


def test_targets_are_those_of_a_slow_twin() -> None:
    """Over a rollout with a truncated, a terminated and an unfinished episode in it."""
    states = play(STEPS * 4, rollout_steps=STEPS * 4, return_lambda=0.65)
    before, after = states[-2:]
    core = DeviceRunner.create(
        SMALL.replace(rollout_steps=STEPS * 4).program, adapted(CountingEnv())
    ).core
    assert isinstance(core, ParallelCore)
    network = before.learner.online.tree  # it was not updated before
    rollout = jax.tree.map(np.asarray, after.rollout)
    final = np.max(values(network, after.actor.time_step.observation, None), axis=-1)
    got = core.agent.targets(
        network.distribution, after.rollout, jnp.asarray(final)[:, None], 1.0, jax.random.key(0)
    )[..., 0]
    checked = 0
    for e in range(ENVS):
        following = final[e]
        for t in reversed(range(STEPS * 4)):
            value = final[e] if t == STEPS * 4 - 1 else rollout.value[t + 1, e, 0]
            if rollout.ignored[t, e]:
                following = value
                continue
            mixed = value if rollout.last[t, e] else 0.65 * following + 0.35 * value
            following = rollout.reward[t, e] + 0.5 * (not rollout.terminated[t, e]) * mixed
            np.testing.assert_allclose(got[t, e], following, rtol=1e-4)
            checked += 1
    assert checked > STEPS * 5
    assert rollout.terminated.any()
    assert (rollout.last & ~rollout.terminated).any()


MATCHED: dict[str, Any] = {
    "noise": "indexed",
    "index_dim": 4,
    "sigma_init": 3.0,
    "prior_scale": 1.0,
    "noise_samples": 3,
    "matched_targets": True,
}


def test_matched_targets_value_states_under_each_sample() -> None:
    """The samples are held for a rollout, and its updates learn under the same ones."""
    states = play(2 * STEPS + 1, **MATCHED)
    for before, after in itertools.pairwise(states[: STEPS - 1]):
        network, seen = before.learner.online.tree, before.actor.time_step.observation
        assert before.matched is not None
        for k in range(3):
            noise = jax.tree.map(lambda x, k=k: x[k], before.matched.tree)
            best = np.max(values(network, seen, noise), axis=-1)
            np.testing.assert_allclose(after.decision.value[:, k, 0], best, rtol=1e-4, atol=1e-5)
    vectors = [np.asarray(state.matched and state.matched.vector) for state in states]
    changed = [bool((a != b).any()) for a, b in itertools.pairwise(vectors)]
    assert changed == [i % STEPS == 0 for i in range(1, 2 * STEPS + 2)]
    for number in (1, 2):
        lesson = states[number * STEPS].lesson
        assert lesson.matched is not None
        np.testing.assert_array_equal(lesson.matched.vector, vectors[number * STEPS - 1])


def test_each_sample_has_returns_of_its_own() -> None:
    """As if each had been the only one."""
    states = play(STEPS * 4, rollout_steps=STEPS * 4, **MATCHED)
    rollout, lesson = states[-1].rollout, states[-1].lesson
    config = SMALL.replace(rollout_steps=STEPS * 4, **MATCHED)
    core = DeviceRunner.create(config.program, adapted(CountingEnv())).core
    single = DeviceRunner.create(
        SMALL.replace(rollout_steps=STEPS * 4).program, adapted(CountingEnv())
    ).core
    assert isinstance(core, ParallelCore)
    assert isinstance(single, ParallelCore)
    distribution, key = states[-1].learner.online.tree.distribution, jax.random.key(0)
    final = jax.random.normal(key, (ENVS, 3, 1))
    got = core.agent.targets(distribution, rollout, final, 1.0, key)
    assert got.shape == (STEPS * 4, ENVS, 3, 1)
    for k in range(3):
        of_k = rollout._replace(value=rollout.value[:, :, k])
        alone = single.agent.targets(distribution, of_k, final[:, k], 1.0, key)
        np.testing.assert_allclose(got[:, :, k], alone, rtol=1e-5)
    assert lesson.targets.shape == (STEPS * 4 * ENVS, 3, 1)


def test_an_update_averages_over_samples_and_their_targets() -> None:
    core = DeviceRunner.create(SMALL.replace(**MATCHED).program, adapted(CountingEnv())).core
    assert isinstance(core, ParallelCore)
    learner = core.init(jax.random.key(1)).learner
    noise = jax.vmap(lambda key: sample_noise(learner.online.tree, key))(
        jax.random.split(jax.random.key(3), 3)
    )
    batch = Minibatch(
        observation=jax.random.normal(jax.random.key(2), (6, 3)),
        action=jnp.array([0, 1, 0, 1, 0, 1]),
        target=jax.random.normal(jax.random.key(4), (6, 3, 1)),
        weight=jnp.array([1.0, 1, 1, 0, 1, 0]),
    )
    _, metrics = core.agent.update(learner, batch, noise, None)
    losses: list[float] = []
    for k in range(3):
        q = values(learner.online.tree, batch.observation, jax.tree.map(lambda x, k=k: x[k], noise))
        chosen = np.asarray(q)[np.arange(6), batch.action]
        error = np.abs(chosen - np.asarray(batch.target)[:, k, 0])
        huber = np.where(error < 1, 0.5 * error**2, error - 0.5)
        losses.append(float(np.sum(np.asarray(batch.weight) * huber) / 4))
    np.testing.assert_allclose(float(metrics["loss"]), np.mean(losses), rtol=1e-4)


def small_learner() -> tuple[ParallelAgent, Any, Minibatch]:
    core = DeviceRunner.create(SMALL.program, adapted(CountingEnv())).core
    assert isinstance(core, ParallelCore)
    learner = core.init(jax.random.key(1)).learner
    batch = Minibatch(
        observation=jax.random.normal(jax.random.key(2), (6, 3)),
        action=jnp.array([0, 1, 0, 1, 0, 1]),
        target=jnp.arange(6.0)[:, None],
        weight=jnp.array([1.0, 1, 1, 0, 1, 0]),
    )
    return core.agent, learner, batch


def test_resets_change_nothing() -> None:
    agent, learner, batch = small_learner()
    noise = sample_noise(learner.online.tree, jax.random.key(3))
    garbage = batch._replace(target=jnp.where(batch.weight[:, None] == 0, 1e6, batch.target))
    one, other = (agent.update(learner, b, noise, None)[0] for b in (batch, garbage))
    np.testing.assert_array_equal(one.online.vector, other.online.vector)
    assert int(one.updates) == 1


def test_every_step_is_in_one_minibatch_of_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[np.ndarray] = []
    no = {name: jnp.float32(0) for name in METRIC_NAMES}

    def update(
        self: ParallelAgent, learner: Any, batch: Minibatch, noise: Any, query: Any
    ) -> tuple[Any, Any]:
        del self, noise, query
        jax.debug.callback(lambda x: seen.append(np.asarray(x)), batch.observation, ordered=True)
        return learner, no

    monkeypatch.setattr(ParallelAgent, "update", update)
    states = play(STEPS)
    jax.effects_barrier()
    stored = np.asarray(states[-1].rollout.observation).reshape(STEPS * ENVS, -1)
    assert len(seen) == UPDATES
    epochs = [np.concatenate(seen[i : i + 2]).reshape(STEPS * ENVS, -1) for i in (0, 2, 4)]
    for epoch in epochs:
        one, other = (x[np.lexsort(x.T)] for x in (epoch, stored))
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(epochs[0], epochs[1])


def test_updates_are_spread_over_the_next_rollout() -> None:
    """The same updates of the same steps, but two steps bring one and two."""
    at_once, spread = play(3 * STEPS), play(3 * STEPS, spread_updates=True)
    made = np.diff([int(state.learner.updates) for state in spread]).tolist()
    assert made == [0] * (STEPS - 1) + [2, 1, 2, 1] * 2 + [2]
    vectors = [np.asarray(state.actor.explorer.vector) for state in spread]
    changed = [bool((a != b).any()) for a, b in itertools.pairwise(vectors)]
    assert changed == [i % STEPS == 0 for i in range(1, 3 * STEPS + 1)]
    one, other = (states[STEPS].lesson.rollout for states in (at_once, spread))
    np.testing.assert_array_equal(one.observation, other.observation)
    for before, after in itertools.pairwise(spread[STEPS : 2 * STEPS]):
        np.testing.assert_array_equal(before.lesson.order, after.lesson.order)
        assert int(after.lesson.done) - int(before.lesson.done) in (1, 2)
    first = np.asarray(at_once[STEPS].learner.online.vector)
    np.testing.assert_allclose(first, spread[2 * STEPS - 1].learner.online.vector, rtol=1e-4)


def test_the_host_makes_the_same_updates() -> None:
    (*_, last) = run_host(SMALL, make_host(CountingHostEnv), jax.random.key(0))
    assert last.steps == 100
    assert last.seeds[0].updates == 100 // (STEPS * ENVS) * UPDATES


def test_minibatches_must_divide_the_rollout() -> None:
    with pytest.raises(ConfigError) as caught:
        Config(learner="parallel", num_envs=6, rollout_steps=10, minibatches=8)
    assert str(caught.value) == (
        "--num-envs 6 times --rollout-steps 10 makes rollouts of 60 steps, which --minibatches 8 "
        "does not divide: give --minibatches 6 or 10, or --num-envs 8"
    )
    for repaired in ({"minibatches": 6}, {"minibatches": 10}, {"minibatches": 8, "num_envs": 8}):
        Config(**{"learner": "parallel", "num_envs": 6, "rollout_steps": 10, **repaired})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"learner": "parallel", "n_step": 3},
            "--n-step 3 and --learner parallel exclude each other: it belongs to --learner replay",
        ),
        (
            {"epochs": 3},
            "--epochs 3 and --learner replay exclude each other: it belongs to --learner parallel",
        ),
        ({"learner": "rollout"}, "--learner must be one of replay, parallel, got 'rollout'"),
    ],
)
def test_options_of_one_learner_with_the_other(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config(**options)
    assert str(caught.value) == message


def test_shares_of_the_run_become_numbers() -> None:
    config = SMALL.replace(
        steps=800, exploration="epsilon-greedy", epsilon_share=0.1, schedule_share=0.5
    )
    program = config.program
    assert isinstance(program.exploration, EpsilonGreedy)
    assert program.exploration.epsilon_steps == 80
    assert program.learning.schedule_updates == 800 // (STEPS * ENVS) * UPDATES // 2
    with pytest.raises(ConfigError, match=r"--schedule-share .* exclude each other"):
        Config(schedule_share=0.5, updates_per_step=0, updates_per_episode=1)
    replay = config.replace(learner="replay", learning_starts=0)
    assert replay.program.learning.schedule_updates == 200
