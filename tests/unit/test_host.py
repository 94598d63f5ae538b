"""The host runner and its environments: what is seen, stored and refused."""

import itertools
import re
import signal
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import SyncVectorEnv
from tests import probes
from tests.host_envs import (
    BrokenEnv,
    CountingHostEnv,
    CountingVectorEnv,
    Cue,
    Drawing,
    Fatal,
    Giving,
    Panic,
    Raising,
    ShowingEnv,
)
from tests.probes import run_host
from tests.trees import priorities

import noisydqn
from noisydqn import Config
from noisydqn.envs.backends import NativeBackend
from noisydqn.envs.given import Instance
from noisydqn.envs.host import HostEnvironment
from noisydqn.envs.vectors import HostVector
from noisydqn.errors import EnvironmentFailedError, UserError
from noisydqn.play.evaluate import evaluate
from noisydqn.runners import host
from noisydqn.runners.build import make_policy
from noisydqn.runners.schedule import UpdateSchedule
from noisydqn.runners.stop import Stop
from noisydqn.types import TimeStep

pytestmark = pytest.mark.slow

SMALL = probes.SMALL.replace(env="python:tests", torso="auto", updates_per_step=0.5)


def make(entry: Any, **options: Any) -> HostEnvironment:
    return HostEnvironment.create(SMALL.replace(**options).environment, entry)


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
    made = host.programs(config, env.spec)
    vector = env.vector(config.runner.num_envs)
    state = made.init(jax.random.key(0))
    steps = config.total_steps, config.runner.vector_steps
    return host._Run(made, vector, (state, vector.reset(0)), steps, Stop())  # pyright: ignore[reportPrivateUsage]


def test_what_is_stored_is_what_happened() -> None:
    """Every complete transition in the memory, against the counting environment's own rules."""
    config = SMALL.replace(discount=0.5, learning_starts=10**6)
    run = start(config, make(CountingHostEnv))
    taken: list[np.ndarray] = []
    for _ in range(15):
        run._step()  # pyright: ignore[reportPrivateUsage]
        taken.append(np.asarray(run.state.replay.rows.action[len(taken)]))
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


# Observation spaces


IMAGE = spaces.Box(0, 255, (12, 10, 3), np.uint8)


def flat(space: spaces.Space[Any], value: Any) -> np.ndarray:
    return np.asarray(spaces.flatten(space, value), np.float32)


@pytest.mark.parametrize(
    ("space", "shape", "dtype", "encode"),
    [
        (spaces.Box(-1, 1, (3,), np.float64), (3,), "float32", np.float32),
        (spaces.Box(-5, 5, (2, 1), np.int32), (2, 1), "float32", np.float32),
        (spaces.Box(0, 255, (7,), np.uint8), (7,), "uint8", np.asarray),
        (spaces.Box(0, 3, (7,), np.uint8), (7,), "float32", np.float32),
        (spaces.Box(0, 1, (5, 5, 2), cast(Any, bool)), (5, 5, 2), "bool", np.asarray),
        (IMAGE, (12, 10, 3), "uint8", np.asarray),
        (
            spaces.Box(0, 255, (3, 12, 10), np.uint8),
            (12, 10, 3),
            "uint8",
            lambda x: x.transpose(1, 2, 0),
        ),
        (spaces.Box(0, 255, (12, 10), np.uint8), (12, 10), "uint8", np.asarray),
        (spaces.Discrete(4, start=2), (4,), "float32", lambda x: np.eye(4)[x - 2]),
        (spaces.MultiBinary(3), (3,), "float32", np.float32),
        (spaces.MultiDiscrete([2, 3]), (5,), "float32", None),
        (
            spaces.Dict({"a": spaces.Box(0, 1, (2,)), "b": spaces.Discrete(3)}),
            (5,),
            "float32",
            None,
        ),
        (
            spaces.Tuple([spaces.Box(0, 1, (2,), np.float64), spaces.Discrete(3)]),
            (5,),
            "float32",
            None,
        ),
    ],
    ids=lambda x: str(x) if isinstance(x, spaces.Space) else "",
)
def test_observation_spaces(space: Any, shape: Any, dtype: str, encode: Any) -> None:
    space.seed(0)
    showing = ShowingEnv(space)
    env = make(lambda: showing)
    assert env.spec.observation.shape == shape
    assert env.spec.observation.dtype == dtype
    assert env.spec.num_actions == 3
    showing.shown.clear()
    vector = env.vector(1)
    steps = [vector.reset(0), *(vector.step(np.array([i % 3])) for i in range(6))]
    encode = partial(flat, space) if encode is None else encode
    for step, shown in zip(steps, showing.shown, strict=True):
        np.testing.assert_array_equal(step.observation[0], encode(shown))
        assert step.observation.dtype == dtype
    showing.shown.clear()
    (*_, last) = run_host(SMALL.replace(steps=40), env, jax.random.key(0))
    assert last.seeds[0].updates > 0


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (spaces.Box(-1, 1, (2,)), "is continuous, expected Discrete"),
        (spaces.MultiDiscrete([2, 2]), "is MultiDiscrete, expected Discrete"),
        (spaces.MultiBinary(2), "is MultiBinary, expected Discrete"),
    ],
)
def test_action_spaces_that_are_not_supported(actions: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(lambda: ShowingEnv(spaces.Box(0, 1, (2,)), actions))


def test_observation_space_that_is_not_supported() -> None:
    with pytest.raises(UserError, match="is not supported: expected Box, Discrete"):
        make(lambda: ShowingEnv(spaces.Sequence(spaces.Discrete(2))))


# Failures


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("raise", "it raised RuntimeError: the motor is 100% broken"),
        ("nan", r"observation\[1\] is nan"),
        ("shape", r"observation is float64 \[2\], expected finite float32 \[4\]"),
        ("reward", "reward is nan"),
    ],
)
def test_a_broken_environment_is_named(how: str, message: str) -> None:
    env = make(partial(BrokenEnv, how), vectorization="subprocess" if how == "raise" else "sync")
    run = run_host(SMALL.replace(chunk_steps=10, num_envs=1), env, jax.random.key(0))
    where = "the environment failed at step 2 of episode 3 of environment 0: "
    chunks: list[int] = []
    with pytest.raises(EnvironmentFailedError, match=f"^{where}{message}") as failure:
        chunks.extend(chunk.steps for chunk in run)
    # Three episodes of 3, 5 and 3 steps, as many resets, and one step before the one that broke.
    assert chunks == [10, 15]
    assert ("RuntimeError" in failure.value.traceback) == (how == "raise")
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize("vectorization", ["sync", "subprocess"])
def test_an_environment_that_breaks_in_its_first_reset_is_named(vectorization: str) -> None:
    env = make(partial(BrokenEnv, "reset"), vectorization=vectorization)
    with pytest.raises(EnvironmentFailedError, match=r"step 0 of episode 0 .* 100% empty"):
        next(run_host(SMALL, env, jax.random.key(0)))


def test_dictionaries_are_checked_key_by_key() -> None:
    class Wrong(ShowingEnv):
        def step(self, action: Any) -> Any:
            observation, *rest = super().step(action)
            return {**observation, "speed": np.array([np.inf, 0.0])}, *rest

    space = spaces.Dict({"speed": spaces.Box(-1, 1, (2,)), "gear": spaces.Discrete(3)})
    vector = make(lambda: Wrong(space)).vector(1)
    vector.reset(0)
    with pytest.raises(EnvironmentFailedError, match=r"observation\['speed'\]\[0\] is inf"):
        vector.step(np.array([0]))


def test_a_vector_environment_that_hides_final_observations_is_refused() -> None:
    with pytest.raises(UserError, match="expected NEXT_STEP"):
        make(
            "noisydqn-tests/CountingVector-v0",
            vectorization="own",
            env_kwargs='{"autoreset_mode": "SameStep"}',
        )


@pytest.mark.parametrize(
    ("entry", "options", "message"),
    [
        ("CartPole-v9", {}, "no environment 'CartPole-v9': did you mean CartPole-v1"),
        ("CartPole-v1", {"env_kwargs": '{"speed": 3}'}, "cannot be made: .*speed"),
        ("no_such_module:Env-v0", {}, "names a module that cannot be imported"),
        (CountingHostEnv, {"vectorization": "own"}, "own needs an environment that is given by"),
        ("noisydqn-tests/Counting-v0", {"vectorization": "own"}, "vector entry point"),
    ],
)
def test_environments_that_cannot_be_made(entry: Any, options: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(entry, **options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import no_such_dependency", "needs the module no_such_dependency, which cannot be found"),
        ("import json.no_such", "needs the module json.no_such, which cannot be found"),
        ("from json import no_such", "importing its module broken_module raised ImportError: "),
        ("def (", "importing its module broken_module raised SyntaxError: .*; correct the module"),
        ("1 / 0", "importing its module broken_module raised ZeroDivisionError: division by zero"),
    ],
)
def test_modules_that_cannot_be_imported(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that register an id, and those that define it."""
    (tmp_path / "broken_module.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    elsewhere = EnvSpec("noisydqn-tests/Elsewhere-v0", "broken_module:Env")
    monkeypatch.setitem(gymnasium.registry, elsewhere.id, elsewhere)
    with pytest.raises(UserError, match=message):
        make("broken_module:Some-v0")
    of_gymnasium = "needs" in message or "ImportError" in message
    with pytest.raises(UserError, match="made: (No module|cannot)" if of_gymnasium else message):
        make(elsewhere.id)


@pytest.mark.parametrize(
    ("entry", "extra"), [("ALE/Pong-v5", "atari"), ("MinAtar/Breakout-v1", "minatar")]
)
def test_missing_packages_are_named(
    monkeypatch: pytest.MonkeyPatch, entry: str, extra: str
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UserError, match=rf"pip install 'noisydqn\[{extra}\]'"):
        make(entry)


def test_missing_box2d_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_box2d(*_: Any, **__: Any) -> None:
        raise gymnasium.error.DependencyNotInstalled(
            'run `pip install swig` followed by `pip install "gymnasium[box2d]"`'
        )

    monkeypatch.setattr("gymnasium.make", no_box2d)
    with pytest.raises(UserError, match=r"pip install 'noisydqn\[box2d\]'"):
        make("LunarLander-v3")


def test_a_missing_package_of_a_named_environment_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """CartPole needs pygame only to render; the notice comes before training."""
    monkeypatch.setitem(sys.modules, "pygame", None)
    env = make("CartPole-v1")
    problem = "needs a package that is not installed: pip install 'noisydqn[classic-control]'"
    assert env.video_problem == f"to draw pictures, CartPole-v1 {problem}"


def test_a_vector_of_its_own_is_why_there_is_no_video() -> None:
    problem = make("CartPole-v1", vectorization="own").video_problem or ""
    assert problem.startswith("--vectorization own draws no pictures")
    assert make("CartPole-v1", vectorization="sync").video_problem is None


def play_a_step(maker: Any, **options: Any) -> None:
    vector = make(maker, **options).vector(1)
    vector.reset(0)
    vector.step(np.array([0]))


@pytest.mark.parametrize("where", ["constructor", "reset", "step"])
@pytest.mark.parametrize("error", [SystemExit(3), Panic("out of fuel"), RuntimeError("off\nroad")])
def test_whatever_an_environment_raises_is_one_line(where: str, error: BaseException) -> None:
    with pytest.raises(EnvironmentFailedError) as failure:
        play_a_step(lambda: Raising(where, error))
    assert f"raised {type(error).__name__}: {' '.join(str(error).split())}" in str(failure.value)
    assert "Traceback" in failure.value.traceback


def test_only_the_user_may_interrupt_an_environment() -> None:
    with pytest.raises(KeyboardInterrupt):
        play_a_step(lambda: Raising("step", KeyboardInterrupt()))


def test_closing_never_hides_the_first_error_and_is_told_once() -> None:
    actions = spaces.MultiBinary(2)
    with pytest.warns(UserWarning, match=r"close\(\) raised OSError: gone; it was ignored") as told:
        make(lambda: Raising("close", OSError("gone"))).vector(3).close()
    assert len(told) == 1
    with (
        pytest.warns(UserWarning, match="raised OSError: gone"),
        pytest.raises(UserError, match="is MultiBinary, expected Discrete"),
    ):
        make(lambda: Raising("close", OSError("gone"), actions))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"outcome": (np.zeros(4), 0.0, False, {})}, "step returned 4 values, expected 5: obs"),
        ({"outcome": None}, "step returned 1 value, expected 5"),
        ({"start": np.zeros(4)}, r"reset returned ndarray, expected \(observation, info\)"),
        ({"first": np.full(4, 1e300)}, r"observation\[0\] is 1e\+300, expected finite float32"),
        ({"reward": 1e39}, r"reward is 1e\+39, expected a finite float32"),
        ({"terminated": None}, "terminated is None, expected True or False"),
    ],
)
def test_values_from_an_environment_are_checked(given: dict[str, Any], message: str) -> None:
    with pytest.raises(EnvironmentFailedError, match=f"episode 0 of environment 0: {message}"):
        play_a_step(partial(Giving, **given))


def test_an_old_step_within_a_limit_is_named() -> None:
    old = partial(Giving, outcome=(np.zeros(4), 0.0, False, {}))
    with pytest.raises(EnvironmentFailedError, match="step must return 5 values: observation"):
        play_a_step(old, max_episode_steps=5)


@pytest.mark.parametrize(
    ("shown", "reward", "message"),
    [
        (
            np.array([0, 1e300, 0, 0]),
            0.0,
            r"observation\[1\] is 1e\+300, expected finite float32 \[4\]",
        ),
        (np.zeros(4), 1e39, r"reward is 1e\+39, expected a finite float32"),
        (np.zeros(4), np.nan, "reward is nan, expected a finite float32"),
    ],
)
def test_rewards_and_observations_of_a_native_vector_are_checked(
    shown: np.ndarray, reward: float, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = make("noisydqn-tests/CountingVector-v0", vectorization="own")
    vector = env.vector(2)
    vector.reset(0)
    outcome = np.zeros((2, 4)), np.zeros(2), np.zeros(2, bool), np.zeros(2, bool), {}
    outcome[0][1], outcome[1][1] = shown, reward
    monkeypatch.setattr(CountingVectorEnv, "step", lambda *_: outcome)
    where = "the environment failed at step 1 of environment 1: "
    with pytest.raises(EnvironmentFailedError, match=f"^{where}{message}"):
        vector.step(np.zeros(2, int))


@pytest.mark.parametrize(
    ("space", "shown", "message"),
    [
        (spaces.Discrete(3), 3, "of environment 1: observation is 3, expected an integer from 0"),
        (spaces.Discrete(3), -1, "of environment 1: observation is -1, expected an integer"),
        (spaces.MultiDiscrete([2, 4]), [1, 9], r"1: observation\[1\] is 9, expected integers"),
        (
            spaces.Dict({"gear": spaces.Discrete(3, start=2), "speed": spaces.Box(0, 1, (2,))}),
            {"gear": 1},
            r"of environment 1: observation\['gear'\] is 1, expected an integer from 2 to 4",
        ),
        (spaces.MultiBinary(2), [0, 5], r"1: observation\[1\] is 5, expected zeros and ones"),
        (
            spaces.Dict({"gear": spaces.Discrete(3), "speed": spaces.Box(0, 1, (2,))}),
            {"speed": np.array([0, np.inf], np.float32)},
            r"of environment 1: observation\['speed'\]\[1\] is inf, expected finite float32 \[2\]",
        ),
    ],
)
def test_observations_of_a_native_vector_are_checked_part_by_part(
    space: spaces.Space[Any], shown: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = ShowingEnv(space)
    given = {**space.sample(), **shown} if isinstance(space, spaces.Dict) else np.array(shown)
    backend = NativeBackend(SyncVectorEnv([lambda: ShowingEnv(space), lambda: wrong]))
    vector = HostVector(backend)
    vector.reset(0)
    monkeypatch.setattr(wrong, "_seen", lambda: given)
    with pytest.raises(EnvironmentFailedError, match=f"failed at step 1 .*{message}") as failure:
        vector.step(np.zeros(2, int))
    assert "\n" not in str(failure.value)


class OldEnv:
    __module__ = "gym.old"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (lambda: None, "returned None, expected an instance of gymnasium.Env"),
        (lambda: 3, "returned an instance of int, expected an instance of gymnasium.Env"),
        (lambda: CountingVectorEnv(2), "CountingVectorEnv is a vector of environments, expected"),
        (lambda: SimpleNamespace(step=0), "returned an instance of types.SimpleNamespace"),
        (partial(OldEnv), "gym.old.OldEnv is an environment of gym, expected one of its succ"),
        (lambda: Giving(cast(Any, "left or right")), "observation_space of .* is str, expected"),
    ],
)
def test_what_is_not_an_environment(entry: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(entry)


class Limited(CountingHostEnv):
    """Of this no more than two may exist at once."""

    alive = 0
    made = 0

    def __init__(self) -> None:
        if Limited.alive == 2:
            raise OSError("the port is in use")
        super().__init__()
        Limited.alive += 1
        Limited.made += 1

    def close(self) -> None:
        Limited.alive -= 1


def test_evaluation_accepts_fewer_environments(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    env = make(Limited)
    assert (Limited.alive, Limited.made) == (0, 1)
    notices: list[str] = []
    env.notices.tell(notices.append)
    policy = make_policy(SMALL.program, env.spec, jax.random.key(0))
    for _ in range(2):
        evaluation = evaluate(env, policy, episodes=5, key=jax.random.key(0))
        assert sorted(evaluation.returns) == [6.0, 6.0, 6.0, 15.0, 15.0]
    assert Limited.alive == 0
    assert Limited.made == 1 + 2 * 2
    (notice,) = notices
    assert notice.startswith("evaluating with 2 environments, not 5: ")
    assert "the port is in use" in notice
    with pytest.raises(EnvironmentFailedError, match="the port is in use"):
        env.vector(3)
    assert Limited.alive == 0
    monkeypatch.setattr(Limited, "alive", 1)
    env.vector(2, fewer=True).close()
    assert notices[-1].startswith("evaluating with 1 environment, not 2: ")


def test_environments_that_differ_are_refused() -> None:
    sizes = itertools.count(1)
    env = make(lambda: ShowingEnv(spaces.Box(0, 1, (next(sizes),))))
    with pytest.raises(UserError, match="two environments that were made alike have the obs"):
        env.vector(2)


# Pictures


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        ([None], "the environment rendered no picture at step 0: render returned NoneType"),
        ([np.zeros((0, 4, 3), np.uint8)], r"render returned shape \[0, 4, 3\], expected \[height"),
        ([[]], "render returned an empty list"),
        (["text"], "render returned str"),
        ([np.full((4, 4, 3), 999)], "render returned values from 999 to 999, expected 0 to 255"),
    ],
)
def test_what_keeps_a_video_from_being_made(pictures: list[Any], message: str) -> None:
    problem = make(partial(Drawing, pictures)).video_problem
    assert problem is not None
    assert re.search(message, problem)


def test_a_render_that_raises_keeps_a_video_from_being_made() -> None:
    problem = make(lambda: Raising("render", Panic("no screen"))).video_problem
    assert problem is not None
    assert "it raised Panic: no screen" in problem
    assert "draws no pictures" in (make(CountingHostEnv).video_problem or "")


def test_max_episode_steps_truncates_and_does_not_terminate() -> None:
    vector = make(CountingHostEnv, max_episode_steps=2).vector(1)
    vector.reset(0)
    first, second = vector.step(np.array([0])), vector.step(np.array([0]))
    assert not first.last[0]
    assert second.truncated[0]
    assert not second.terminated[0]
