"""The host runner and its environments: what is seen, stored and learned."""

import itertools
import signal
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.host_envs import CountingHostEnv, Cue, Fatal
from tests.hosts import SMALL, make
from tests.probes import run_host
from tests.trees import priorities

import noisydqn
from noisydqn import Config
from noisydqn.envs.given import Instance
from noisydqn.envs.host import HostEnvironment
from noisydqn.errors import EnvironmentFailedError, UserError
from noisydqn.play.evaluate import evaluate
from noisydqn.runners import host, host_programs
from noisydqn.runners.replay_core import ReplayCore
from noisydqn.runners.schedule import UpdateSchedule
from noisydqn.runners.stop import Stop
from noisydqn.types import TimeStep

pytestmark = pytest.mark.slow


def expected_steps(vector_steps: int, num_envs: int, actions: np.ndarray) -> list[TimeStep]:
    """What counting environments show, by playing each alone: a reset takes a step."""
    columns: list[list[tuple[Any, ...]]] = []
    for e in range(num_envs):
        env = CountingHostEnv()
        column: list[tuple[Any, ...]] = [(env.reset()[0], 0.0, False, False)]
        for t in range(vector_steps):
            over = column[-1][2] or column[-1][3]
            column.append(
                (env.reset()[0], 0.0, False, False) if over else env.step(actions[t, e])[:4]
            )
        columns.append(column)
    return [
        TimeStep(
            *map(jnp.asarray, map(np.array, zip(*[column[t] for column in columns], strict=True))),
            info={},
        )
        for t in range(vector_steps + 1)
    ]


@pytest.mark.parametrize(
    ("entry", "vectorization"),
    [
        ("noisydqn-tests/Counting-v0", "sync"),
        ("tests.host_envs:noisydqn-tests/Counting-v0", "subprocess"),
        (CountingHostEnv, "subprocess"),
        ("noisydqn-tests/CountingVector-v0", "own"),
    ],
)
def test_time_steps(entry: Any, vectorization: str) -> None:
    """Final observations, terminations, truncations and resets, however they are vectorized."""
    env = make(entry, vectorization=vectorization)
    actions = np.random.default_rng(0).integers(0, 2, (20, 3))
    vector = env.vector(3, processes=True)
    try:
        steps = [vector.reset(0), *(vector.step(action) for action in actions)]
    finally:
        vector.close()
    assert any(step.truncated.any() for step in steps)
    assert any(step.terminated.any() for step in steps)
    for got, expected in zip(steps, expected_steps(20, 3, actions), strict=True):
        for a, b in zip(got[:4], expected[:4], strict=True):
            np.testing.assert_array_equal(a, b)
        assert got.observation.dtype == np.float32


def test_an_environment_at_rest_plays_again_after_a_reset_with_a_seed() -> None:
    vector = make(CountingHostEnv).vector(2)
    vector.reset(0)
    vector.rest(np.array([True, False]))
    resting = vector.step(np.array([0, 0])).observation
    assert np.asarray(resting)[:, 0].tolist() == [0, 1]
    vector.reset(0)
    playing = vector.step(np.array([0, 0])).observation
    assert np.asarray(playing)[:, 0].tolist() == [1, 1]
    vector.close()


def start(config: Config, env: HostEnvironment) -> host._Run:  # pyright: ignore[reportPrivateUsage]
    """A run that is to be stepped by hand."""
    made = host_programs.programs(config, env.spec)
    vector = env.vector(config.runner.num_envs)
    state = made.init(jax.random.key(0))
    steps = config.total_steps
    return host._Run(made, vector, (state, vector.reset(0)), steps, Stop())  # pyright: ignore[reportPrivateUsage]


def test_what_is_stored_is_what_happened() -> None:
    """Every complete transition in the memory, against the counting environment's own rules."""
    config = SMALL.replace(discount=0.5, learning_starts=10**6)
    run = start(config, make(CountingHostEnv))
    taken: list[np.ndarray] = []
    for _ in range(15):
        run._step()  # pyright: ignore[reportPrivateUsage]
        taken.append(np.asarray(run.state.replay.rows.action[len(taken)]))
    assert isinstance(run.made.core, ReplayCore)
    replay = run.made.core.replay
    leaves = np.flatnonzero(priorities(run.state.replay.tree))
    got = replay.transitions(run.state.replay.rows, jnp.asarray(leaves))
    assert len(leaves) > 15
    for i, leaf in enumerate(leaves):
        time, length, _, episode = (int(x) for x in got.s_tm1[i])
        assert time < length  # never from a final observation
        span = min(2, length - time)
        assert got.s_t[i].tolist()[:2] == [time + span, length]
        assert int(got.s_t[i][3]) == episode
        rewards = [float(time + k) for k in range(1, span + 1)]
        assert float(got.r_t[i]) == sum(0.5**k * reward for k, reward in enumerate(rewards))
        terminates = time + span == length and length == 3
        assert float(got.discount_t[i]) == (0 if terminates else 0.5**span)
        slot, column = divmod(int(leaf), config.runner.num_envs)
        assert int(got.a_tm1[i]) == int(taken[slot][column])
        if span == 1:  # the environment shows the action that led there
            assert int(got.s_t[i][2]) == int(taken[slot][column])


@pytest.mark.parametrize(
    ("ratio", "steps", "starts"), [(0.5, 100, 0), (1.5, 64, 30), (0.125, 100, 0)]
)
def test_updates_follow_the_ratio(ratio: float, steps: int, starts: int) -> None:
    config = SMALL.replace(updates_per_step=ratio, steps=steps, learning_starts=starts)
    chunks = list(run_host(config, make(CountingHostEnv), jax.random.key(0)))
    assert chunks[-1].steps == steps
    before = UpdateSchedule.create(config.program).first_step - config.runner.num_envs
    assert chunks[-1].seeds[0].updates == int(steps * ratio) - int(before * ratio)


def test_updates_of_several_steps_are_made_together() -> None:
    config = SMALL.replace(updates_per_step=1, learn_every=4, learning_starts=0)
    run = start(config, make(CountingHostEnv))
    made, draws = [0], [np.asarray(run.state.actor.explorer.vector)]
    for _ in range(13):
        run._step()  # pyright: ignore[reportPrivateUsage]
        made.append(run.updates)
        draws.append(np.asarray(run.state.actor.explorer.vector))
    burst = 4 * config.runner.num_envs  # due after steps 4, 8 and 12, made while the next is taken
    assert made == [0] * 5 + [burst] * 4 + [2 * burst] * 4 + [3 * burst]
    renewed = [bool((a != b).any()) for a, b in itertools.pairwise(draws)]
    assert renewed == [i in (4, 8, 12) for i in range(13)]


def test_max_updates_is_exact() -> None:
    config = SMALL.replace(steps=400, max_updates=7, updates_per_step=1)
    (*_, last) = run_host(config, make(CountingHostEnv), jax.random.key(0))
    assert last.seeds[0].updates == 7
    assert last.steps < 400


def test_updates_per_episode() -> None:
    config = SMALL.replace(updates_per_step=0, updates_per_episode=3)
    chunks = list(run_host(config, make(CountingHostEnv), jax.random.key(0)))
    episodes = [episode for chunk in chunks for episode in chunk.seeds[0].episodes]
    first = UpdateSchedule.create(config.program).first_step
    learned = sum(episode.step >= first for episode in episodes)
    assert chunks[-1].seeds[0].updates == 3 * learned


def test_episode_returns_and_lengths() -> None:
    chunks = list(run_host(SMALL, make(CountingHostEnv), jax.random.key(0)))
    episodes = [episode for chunk in chunks for episode in chunk.seeds[0].episodes]
    assert [(e.episode_return, e.length) for e in episodes[:4]] == [
        (6, 3),
        (6, 3),
        (15, 5),
        (15, 5),
    ]
    assert [e.step for e in episodes[:4]] == [6, 6, 18, 18]  # the reset between takes a step


@pytest.mark.parametrize("cadence", ["step", "update", "episode"])
def test_noise_is_resampled_as_configured(cadence: str) -> None:
    config = SMALL.replace(acting_noise=cadence, updates_per_step=0.25, learning_starts=10**6)
    run = start(config, make(CountingHostEnv))
    draws = [np.asarray(run.state.actor.explorer.vector)]
    ended = []
    for _ in range(12):
        run._step()  # pyright: ignore[reportPrivateUsage]
        draws.append(np.asarray(run.state.actor.explorer.vector))
        ended.append(np.asarray(run.state.actor.time_step.last))
    changed = np.array([(a != b).any(-1) for a, b in itertools.pairwise(draws)])
    if cadence == "step":
        assert changed.all()
    elif cadence == "update":  # scheduled after every second step, and sampled during the next
        assert (
            changed.all(1).tolist()
            == changed.any(1).tolist()
            == [False, False, True]
            + [
                False,
                True,
            ]
            * 4
            + [False]
        )
    else:
        np.testing.assert_array_equal(changed, ended)


def test_acting_is_noisy_unless_layers_are_plain() -> None:
    run = start(SMALL, make(CountingHostEnv))
    assert run.state.actor.explorer.vector.size > 0
    for kind in ("greedy", "epsilon-greedy"):
        plain = start(SMALL.replace(exploration=kind), make(CountingHostEnv))
        assert plain.state.actor.explorer == ()
        chunk = next(run_host(SMALL.replace(exploration=kind), plain_env(), jax.random.key(0)))
        assert chunk.seeds[0].sigma == {}
        assert chunk.seeds[0].action_change == 0


def plain_env() -> HostEnvironment:
    return make(CountingHostEnv)


def test_epsilon_is_the_share_of_random_actions() -> None:
    """Under a constant policy the other action is taken with probability epsilon / 2."""
    config = SMALL.replace(
        exploration="epsilon-greedy",
        epsilon=1.0,
        epsilon_final=0.2,
        epsilon_steps=2_000,
        num_envs=4,
        replay_capacity=8_000,
        learning_starts=10**6,
        steps=8_000,
    )
    run = start(config, make(CountingHostEnv))
    network = run.state.learner.online.tree
    biased = jnp.zeros_like(network.advantage.weight), jnp.array([1.0, 0.0])
    flat = type(run.state.learner.online).of(
        jax.tree.map(
            lambda x: biased[0] if x is network.advantage.weight else x,
            jax.tree.map(lambda x: biased[1] if x is network.advantage.bias else x, network),
        )
    )
    run.state = run.state._replace(learner=run.state.learner._replace(online=flat))
    for _ in range(2_000):
        run._step()  # pyright: ignore[reportPrivateUsage]
    actions = np.asarray(run.state.replay.rows.action[:2_000])
    # Four standard deviations of 1,000 or more draws are 0.065 at most.
    assert np.mean(actions[:100]) == pytest.approx(0.5 * 0.96, abs=0.1)
    assert np.mean(actions[1_000:]) == pytest.approx(0.1, abs=0.03)


def test_an_environment_that_breaks_in_a_worker_ends_the_run_cleanly() -> None:
    """The last chunk holds what was trained; the process that trains keeps its signals."""
    env = make(partial(Fatal, "SIGKILL"), vectorization="subprocess", step_timeout=60.0)
    chunks: list[int] = []
    with pytest.raises(EnvironmentFailedError, match="of environment 0 was killed by SIGKILL"):
        chunks.extend(c.steps for c in run_host(SMALL.replace(num_envs=1), env, jax.random.key(0)))
    assert chunks == [1]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_one_instance_is_trained_on_and_evaluated() -> None:
    config = SMALL.replace(num_envs=1)
    counting = CountingHostEnv()
    env = HostEnvironment.create(config.environment, Instance(counting))
    chunks = run_host(config, env, jax.random.key(0))
    first = next(chunks)
    with pytest.raises(UserError, match="one instance, which is in use: give a function"):
        evaluate(env, first.policy(0), episodes=3, key=jax.random.key(0))
    (*_, last) = chunks
    played = counting.episode
    assert len(evaluate(env, last.policy(0), episodes=3, key=jax.random.key(0)).returns) == 3
    assert counting.episode == played + 3


@pytest.mark.parametrize(
    "options",
    [
        {"num_envs": 2},
        {"evaluation_every": 50},
        {"stop_at_return": 1.0, "stop_at_evaluation": 2.0},
        {"vectorization": "subprocess"},
        {"env_kwargs": {"size": 3}},
    ],
)
def test_options_that_need_several_instances_are_refused(
    options: dict[str, Any], tmp_path: Path
) -> None:
    env = CountingHostEnv()
    with pytest.raises(UserError, match="more than the one instance that was given as env"):
        noisydqn.train(env=env, out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_same_seed_same_bits_however_vectorized() -> None:
    def weights(vectorization: str, seed: int) -> np.ndarray:
        env = make(Cue, vectorization=vectorization)
        (*_, last) = run_host(SMALL, env, jax.random.key(seed))
        return np.concatenate([x.ravel() for x in jax.tree.leaves(last.policy(0).network)])

    first = weights("sync", 0)
    np.testing.assert_array_equal(first, weights("sync", 0))
    np.testing.assert_array_equal(first, weights("subprocess", 0))
    assert (first != weights("sync", 1)).any()


@pytest.mark.parametrize(
    "options",
    [
        {"updates_per_step": 0.5, "learn_every": 3, "acting_noise": "step", "learning_starts": 20},
        {"distribution": "categorical", "acting_noise": "episode", "learning_starts": 20},
        {"learner": "parallel", "exploration": "noisy", "rollout_steps": 4, "minibatches": 2},
    ],
    ids=str,
)
def test_one_call_of_a_step_computes_what_two_calls_do(options: dict[str, Any]) -> None:
    """Up to rounding, which the first few updates do not amplify."""
    env = make(Cue)
    config = SMALL.replace(**{"steps": 48, "num_envs": 4, "chunk_steps": 16, **options})

    def state(overlap: bool) -> list[np.ndarray]:
        made = host_programs.programs(config.program, env.spec, overlap)
        (*_, last) = host.run(made, env, jax.random.key(0), config.total_steps)
        assert last.seeds[0].updates > 2
        return [*map(np.asarray, jax.tree.leaves(last.state))]

    for one, two in zip(state(overlap=False), state(overlap=True), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)


def test_with_a_single_core_a_step_is_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    spec, config = make(Cue).spec, SMALL.program
    for cores, calls in ([0], host_programs.Joined), ([0, 1], host_programs.Overlapping):
        monkeypatch.setattr(host_programs, "usable_cores", lambda cores=cores: cores)
        host_programs.programs.cache_clear()
        assert isinstance(host_programs.programs(config, spec).calls, calls)
    host_programs.programs.cache_clear()


def test_every_episode_has_its_own_seed() -> None:
    def cues(seed: int) -> list[float]:
        vector = make(Cue).vector(3)
        steps = [vector.reset(seed), *(vector.step(np.zeros(3, int)) for _ in range(40))]
        vector.close()
        return [float(x) for step in steps[::2] for x in step.observation[:, 0]]

    assert cues(0) == cues(0)
    assert cues(0) != cues(1)
    assert len(set(cues(0))) == 2


def test_evaluation_plays_every_episode_once() -> None:
    env = make(CountingHostEnv)
    (*_, last) = run_host(SMALL, env, jax.random.key(0))
    evaluation = evaluate(env, last.policy(0), episodes=120, key=jax.random.key(0))
    # 50 environments: 20 of them play three episodes (3, 5, 3 steps long), 30 play two.
    assert sorted(evaluation.returns) == [6.0] * 70 + [15.0] * 50
    assert evaluation.stats == {}
    one = evaluate(env, last.policy(0), episodes=1, key=jax.random.key(0))
    assert one.returns == (6.0,)


def test_max_episode_steps_truncates_and_does_not_terminate() -> None:
    vector = make(CountingHostEnv, max_episode_steps=2).vector(1)
    vector.reset(0)
    first, second = vector.step(np.array([0])), vector.step(np.array([0]))
    assert not first.last[0]
    assert second.truncated[0]
    assert not second.terminated[0]
