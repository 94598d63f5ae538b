"""A user's own environment in JAX: trained on the device, played, recorded, resumed, refused."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.jax_envs import Bare, DrawnWalk, FramesWalk, Params, Walk, make_walk, make_with_params
from tests.unit.test_resume import results, train_until
from tests.unit.test_train import TINY, flags, summary

import noisydqn
from noisydqn import Config, UserError
from noisydqn.cli import main
from noisydqn.envs.device import DeviceEnvironment
from noisydqn.envs.device_vector import VectorEnvironment
from noisydqn.envs.given import JaxInstance, accept
from noisydqn.envs.registry import make_environment
from noisydqn.errors import EnvironmentFailedError
from noisydqn.imports import name_of
from noisydqn.play import video
from noisydqn.play.evaluate import evaluate
from noisydqn.play.rollout import rollout
from noisydqn.runners import build

pytestmark = pytest.mark.slow

KEY = jax.random.key(0)
SMALL = Config(env="CartPole-v1", hidden=(8,), torso="mlp")
WALK = "python:tests.jax_envs.make_walk"


def device_environment(env: Any, **options: Any) -> DeviceEnvironment:
    """What the registry makes of an environment that a user gives."""
    entry, _ = accept(env)
    made = make_environment(SMALL.replace(**options).environment, entry)
    assert isinstance(made, DeviceEnvironment)
    return made


@pytest.mark.parametrize(
    ("env", "name"),
    [
        (Walk(), "python:<tests.jax_envs.Walk>"),
        ((Walk(), Params(limit=9)), "python:<tests.jax_envs.Walk>"),
        (Walk, "python:tests.jax_envs.Walk"),
        (make_walk, WALK),
        (make_with_params, "python:tests.jax_envs.make_with_params"),
        (lambda: Bare(), f"python:<{__name__}.<lambda>>"),  # noqa: PLW0108
        (WALK, WALK),
    ],
)
def test_environments_in_jax_are_accepted_in_every_form(env: Any, name: str) -> None:
    made = device_environment(env)
    assert made.spec.num_actions in (2, 3)
    assert made.cache_key is None
    assert env == name or name_of(accept(env).entry) == name


def test_parameters_are_those_given() -> None:
    assert device_environment((Walk(), Params(limit=9))).params == Params(limit=9)
    assert device_environment(make_with_params).params == Params(limit=7)
    assert device_environment(Walk()).params == Params()
    assert device_environment(Bare()).params is None
    start = device_environment(make_walk, env_kwargs='{"start": 3}').env
    assert isinstance(start, Walk)
    assert start.start == 3


def test_programs_of_an_instance_are_not_used_by_a_later_run() -> None:
    """Its attributes may change between two runs, so that the programs of one are not reused."""
    env = Walk()
    assert device_environment(env) != device_environment(env)
    catcher = [make_environment(SMALL.environment, "noisydqn/Catcher-v0") for _ in range(2)]
    assert catcher[0] == catcher[1]
    assert hash(catcher[0]) == hash(catcher[1])


def test_limits_truncate_and_ends_terminate() -> None:
    """Walking to and fro reaches the limit; walking left ends the episode."""
    for env, actions, expected in (
        (device_environment((Walk(), Params(limit=3))), (0, 1, 0), [(0, 0), (0, 0), (0, 1)]),
        (device_environment(Walk(), max_episode_steps=2), (1, 0), [(0, 0), (0, 1)]),
        (device_environment(Walk(), max_episode_steps=2), (0, 0), [(0, 0), (1, 0)]),
    ):
        vector = VectorEnvironment(env, 1)
        states, time_step = vector.reset(KEY)
        np.testing.assert_allclose(time_step.observation, [[0.4, 0]])
        flags: list[tuple[int, int]] = []
        for action in actions:
            states, time_step = vector.step(
                KEY, states, jnp.full(1, action, jnp.int32), jnp.zeros(1, bool)
            )
            flags.append((int(time_step.terminated[0]), int(time_step.truncated[0])))
        assert flags == expected


def played(out: Path) -> dict[str, Any]:
    return json.loads((out / "summary.json").read_text())["evaluation"]


def test_an_instance_trains_with_video_and_statistics(tmp_path: Path) -> None:
    out = tmp_path / "run"
    options: dict[str, Any] = TINY | {"learner": "replay", "evaluation_every": 120}
    result = noisydqn.train(env=DrawnWalk(), out=out, **options)
    assert summary(out)["updates"] > 0
    assert (out / "policy.mp4").stat().st_size > 0
    assert set(played(out)) >= {"wins", "wins_per_episode"}
    header = (out / "evaluations.csv").read_text().splitlines()[0]
    assert header.endswith(",wins,wins_per_episode")
    action, _ = result.seeds[0].policy.predict(np.zeros(2, np.float32))
    assert action in (0, 1)
    with pytest.raises(UserError, match=r"cannot be found again by its name: pass the function"):
        noisydqn.evaluate(out)
    assert noisydqn.evaluate(out, env=DrawnWalk()).summary() == played(out)


def test_an_instance_has_the_parallel_learner_unless_the_other_is_named(tmp_path: Path) -> None:
    options: dict[str, Any] = {"hidden": (8,), "num_envs": 2, "rollout_steps": 8, "minibatches": 4}
    options |= {"steps": 80, "chunk_steps": 40, "evaluation_episodes": 1, "video_seconds": 0}
    noisydqn.train(env=Walk(), out=tmp_path / "run", quiet=True, **options)
    assert summary(tmp_path / "run")["updates"] == 80 // 16 * 4 * 2
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (stored["learner"], stored["preset"]) == ("parallel", "Walk")
    with pytest.raises(UserError, match=r"--n-step 3 .* it belongs to --learner replay"):
        noisydqn.train(env=Walk(), out=tmp_path / "no", n_step=3)


def test_a_function_trains_without_video(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    noisydqn.train(env=make_walk, out=out, **TINY)
    assert "no video: the environment has no render(state)" in capsys.readouterr().err
    assert not (out / "policy.mp4").exists()
    assert set(played(out)) == {"episodes", "mean_return", "truncated_episodes"}
    assert noisydqn.evaluate(out, trust=True).summary() == played(out)


def test_the_command_line_finds_an_environment_by_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(["train", WALK, *flags(num_seeds=2), "--out", str(out)]) == 0
    assert main(["resume", str(out), "--steps", "300", "--trust"]) == 0
    assert main(["evaluate", str(out / "seed1"), "--episodes", "1", "--trust"]) == 0
    assert summary(out / "seed1")["steps"] == 300
    assert "without noise" in capsys.readouterr().out
    argv = ["train", WALK, *flags(vectorization="sync"), "--out", str(tmp_path / "no")]
    assert main(argv) == 2
    assert "--vectorization sync is for environments of Gymnasium" in capsys.readouterr().err


def test_a_resumed_run_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = TINY | {
        "learner": "replay",
        "evaluation_every": 120,
        "video_seconds": 0,
    }
    env = DrawnWalk()
    noisydqn.train(env=env, out=tmp_path / "whole", **options)
    out = tmp_path / "killed"
    train_until(2, monkeypatch, env=env, out=out, checkpoint_seconds=1e-9, **options)
    noisydqn.resume(out, env=env, quiet=True)
    assert results(out) == results(tmp_path / "whole")


def test_the_goal_is_the_environments_own() -> None:
    """A policy that walks right wins all its episodes, one that walks left none."""
    env = device_environment(DrawnWalk())
    policy = build.make_policy(SMALL.replace(dueling=False).program, env.spec, KEY)

    def biased(bias: list[float]) -> Any:
        return eqx.tree_at(lambda p: p.network.advantage.bias_mu, policy, jnp.array(bias))

    right, left = (
        evaluate(env, biased(bias), episodes=3, key=KEY) for bias in ([-1e6, 1e6], [1e6, -1e6])
    )
    assert right.stats == {"wins": 1, "wins_per_episode": 1}
    assert right.describe() == "return 1.0, 100.0% of the walks won, 1.00 wins"
    assert right.solved
    assert left.stats == {"wins": 0, "wins_per_episode": 0}
    assert not left.solved


def test_pictures_of_every_step_are_shown() -> None:
    for made, number, lines in (
        (DrawnWalk(), 1, ("episode  1", "return  0.0", "step  1")),
        (FramesWalk(), 2, ("won  0",)),
    ):
        env = device_environment(made)
        assert env.video_problem is None
        policy = build.make_policy(SMALL.program, env.spec, KEY)
        shots = list(rollout(env).shots(policy, 9.0, KEY))
        assert len(shots) == 90  # ten a second
        assert shots[0].lines == lines
        assert shots[0].picture.dtype == np.uint8
        assert shots[0].picture.max() == 255
        for i in range(number):
            assert shots[i].actions == shots[0].actions
        frames, rate = video.film_frames(env, policy, 0.2, KEY)
        assert (len(list(frames)), rate) == (2, 10)


@pytest.mark.parametrize(
    ("drawn", "problem"),
    [
        (lambda _self, _state: jnp.zeros((5, 5, 5)), r"shape \[5, 5, 5\], expected \[height, wi"),
        (lambda _self, state: np.zeros(int(state.place)), "render cannot be compiled by JAX"),
        (lambda _self, _state: None, "render cannot be compiled by JAX"),
    ],
)
def test_renderings_that_are_not_pictures_are_named_in_one_line(drawn: Any, problem: str) -> None:
    env = device_environment(type("Odd", (Walk,), {"render": drawn})())
    assert env.video_problem is not None
    assert "\n" not in env.video_problem
    assert re.search(problem, env.video_problem)


def odd(**attributes: Any) -> Any:
    return type("Odd", (Walk,), attributes)()


class Box:
    shape = (2,)


class Wrapper:
    """A wrapper that passes on what it does not define, as gymnax's do."""

    def __init__(self, env: Any) -> None:
        self._env = env

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)


def outcome(**changes: Any) -> Any:
    """A `step_env` whose outcome has some parts changed."""

    def step_env(self: Walk, *args: Any) -> tuple[Any, ...]:
        names = ("observation", "state", "reward", "terminated", "info")
        parts = dict(zip(names, Walk.step_env(self, *args), strict=True)) | changes
        return tuple(parts.values())

    return step_env


def branches(self: Walk, key: Any, state: Any, action: Any, params: Any) -> Any:
    if state.place > 3:
        return Walk.step_env(self, key, state, action, params)
    return Walk.step_env(self, key, state, -action, params)


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (odd(action_space=lambda *_: Box()), "action space of .*Odd is Box, expected Discrete"),
        (odd(action_space=None), "Odd has neither action_space.params. nor num_actions"),
        (odd(step_env=None), "Odd has no step_env, expected gymnax's reset_env"),
        (Wrapper(Walk()), "Wrapper wraps an environment in JAX but has no reset_env of its own"),
        (odd(step_env=branches), "Odd.step_env cannot be compiled by JAX: it raised TracerBool"),
        (
            odd(reset_env=lambda *_: np.zeros(2)),
            "Odd.reset_env returned 1 value, expected 2: observation, state",
        ),
        (
            odd(step_env=outcome(truncated=False)),
            "Odd.step_env returned 6 values, expected 5: observation, state, reward, terminated",
        ),
        (odd(step_env=outcome(reward=jnp.zeros(2))), r"reward of .*Odd is shape \[2\], expected"),
        (odd(step_env=outcome(observation={"a": 1})), "the observation of .*Odd is dict, expected"),
        (odd(step_env=outcome(state=3)), "Odd.step_env returned a state of another structure"),
        (odd(statistics=DrawnWalk.statistics, step_env=outcome(info={})), "has no 'won'"),
        (odd(is_truncated=lambda *_: 1 / 0), "Odd.is_truncated cannot be compiled .* ZeroDivis"),
    ],
)
def test_mistakes_in_an_environment_are_named_in_one_line(env: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        device_environment(env)
    assert "\n" not in str(refused.value)


def test_a_state_must_keep_its_types() -> None:
    def step_env(self: Walk, key: Any, state: Any, action: Any, params: Any) -> Any:
        seen, state, *rest = Walk.step_env(self, key, state, action, params)
        return seen, state._replace(time=state.time + 0.5), *rest

    def turns(self: Walk, key: Any, state: Any, action: Any, params: Any) -> Any:
        seen, after, *rest = Walk.step_env(self, key, state, action, params)
        kind = {jnp.bool_: jnp.int32}.get(state.time.dtype.type, jnp.float32)
        return seen, after._replace(time=state.time.astype(kind)), *rest

    def reset_env(self: Walk, key: Any, params: Any) -> Any:
        seen, state = Walk.reset_env(self, key, params)
        return seen, state._replace(time=jnp.bool_(False))

    wider = device_environment(odd(step_env=step_env))
    states, _ = VectorEnvironment(wider, 1).reset(KEY)
    assert states.inner.time.dtype == jnp.float32
    with pytest.raises(UserError, match=r"changes its type: .*time is int32, but float32 after"):
        device_environment(odd(step_env=turns, reset_env=reset_env))


def test_the_traceback_of_the_environment_is_kept() -> None:
    with pytest.raises(EnvironmentFailedError) as failed:
        device_environment(odd(step_env=branches))
    assert "if state.place > 3:" in failed.value.traceback


def test_arguments_do_not_fit_an_instance() -> None:
    with pytest.raises(UserError, match="--env-kwargs"):
        make_environment(SMALL.replace(env_kwargs='{"start": 1}').environment, JaxInstance(Walk()))


def test_gymnax_is_not_needed(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "sys.modules['gymnax'] = None\n"
        "import noisydqn\n"
        "from tests.jax_envs import Walk\n"
        f"options = {TINY!r} | {{'learner': 'replay', 'video_seconds': 0}}\n"
        f"noisydqn.train(env=Walk(), out={str(tmp_path / 'run')!r}, **options)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=300)
    assert summary(tmp_path / "run")["steps"] == 240


def test_instances_of_gymnax_are_given_with_parameters() -> None:
    gymnax = pytest.importorskip("gymnax")
    env, params = gymnax.make("Catch-bsuite")
    made = device_environment((env, params))
    assert made.spec.num_actions == 3
    assert made.video_problem is not None  # gymnax's own plots for people
    by_name = make_environment(SMALL.environment, "gymnax:Catch-bsuite")
    assert by_name.spec == made.spec
