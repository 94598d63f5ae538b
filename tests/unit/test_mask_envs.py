"""Environments with action masks: where they are found, what can be wrong, and whole runs."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector.utils import create_shared_memory
from tests.host_envs import Mission, ShowingEnv
from tests.hosts import SMALL, make
from tests.mask_envs import (
    ITEMS,
    LARGEST,
    ROOM,
    Giving,
    JaxKnapsack,
    Knapsack,
    NumbersForMasks,
    Pictured,
    TicTacToe,
)
from tests.probes import run_device, run_host
from tests.runs import results, tiny, train_until

import noisydqn
from noisydqn import Config, UserError
from noisydqn.cli import main
from noisydqn.envs.device import DeviceEnvironment
from noisydqn.envs.device_vector import VectorEnvironment
from noisydqn.envs.encoding import Encoding
from noisydqn.envs.guard import guarded
from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.errors import EnvironmentFailedError
from noisydqn.play.evaluate import evaluate
from noisydqn.play.policy import GreedyPolicy
from noisydqn.runners import build
from noisydqn.runners.cores import make_core
from noisydqn.runs.folder import RunFolder, check_spaces, write_spaces
from noisydqn.runs.messages import describe_masks
from noisydqn.runs.start import problem_of_rows

pytestmark = pytest.mark.slow

SOURCES = ["info", "method", "observation"]


@pytest.mark.parametrize("source", SOURCES)
def test_masks_are_found_wherever_they_are(source: str) -> None:
    """A wrong action would raise; the mask agrees with what the agent sees."""
    env = make(partial(Knapsack, source))
    assert env.spec.encoding.action_mask == source
    vector = env.vector(1)
    try:
        step = vector.reset(3)
        for _ in range(12):
            weights, left, (room,) = np.split(np.asarray(step.observation)[0], [ITEMS, 2 * ITEMS])
            fits = (left > 0) & (weights * LARGEST <= room * ROOM + 1e-4)
            assert step.action_mask is not None
            mask = np.asarray(step.action_mask)[0]
            assert mask.dtype == bool
            np.testing.assert_array_equal(mask, fits | step.last[0])
            step = vector.step(np.flatnonzero(mask)[-1:])
    finally:
        vector.close()


def test_masks_come_from_worker_processes() -> None:
    env = make(TicTacToe, vectorization="subprocess")
    vectors = [env.vector(2, processes=processes) for processes in (True, False)]
    try:
        steps = [vector.reset(1) for vector in vectors]
        for _ in range(12):
            for one, other in zip(*steps, strict=True):
                np.testing.assert_array_equal(one, other)
            masks = np.asarray(steps[0].action_mask)
            steps = [vector.step(masks.argmax(axis=1)) for vector in vectors]
    finally:
        for vector in vectors:
            vector.close()


EXPECTED = r"expected \[5\] of booleans or of 0 and 1, one for each action"
WRONG: dict[str, tuple[Any, str]] = {
    "missing": ("missing", rf'info\["action_mask"\] is missing, {EXPECTED}'),
    "none": (None, rf'info\["action_mask"\] is missing, {EXPECTED}'),
    "shape": (np.ones(4, bool), rf'info\["action_mask"\] is bool \[4\], {EXPECTED}'),
    "text": ("all", rf'info\["action_mask"\] is \'all\', {EXPECTED}'),
    "numbers": ([0, 1, 2, 0, 0], rf'info\["action_mask"\]\[2\] is 2, {EXPECTED}'),
    "nothing": (
        np.zeros(5, np.int8),
        r'info\["action_mask"\] allows no action, expected at least one unless the episode has '
        "terminated",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_mask_is_named(wrong: str) -> None:
    given, message = WRONG[wrong]
    vector = make(partial(Giving, given)).vector(2)
    where = "^the environment failed at step 2 of episode 0 of environment 0: "
    try:
        vector.reset(0)
        vector.step(np.zeros(2, int))
        with pytest.raises(EnvironmentFailedError, match=f"{where}{message}; correct the"):
            vector.step(np.zeros(2, int))
    finally:
        vector.close()


def test_a_wrong_mask_at_the_first_reset_is_named() -> None:
    vector = make(partial(Giving, np.zeros(5, bool), 0)).vector(1)
    with pytest.raises(EnvironmentFailedError, match=r"step 0 of episode 0 .*allows no action"):
        vector.reset(0)
    vector.close()


class Late(Knapsack):
    """Gives masks only after steps; everything fits."""

    def mask(self) -> np.ndarray:
        return np.ones(ITEMS, bool)

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        return super().reset(**kwargs)[0], {}


def test_masks_that_come_late_are_named() -> None:
    vector = make(Late).vector(1)
    vector.reset(0)
    with pytest.raises(EnvironmentFailedError, match="was not there when the environment was"):
        vector.step(np.array([0]))
    vector.close()


class Other(gymnasium.Env[Any, Any]):
    """An environment with given spaces."""

    def __init__(self, seen: spaces.Space[Any], actions: spaces.Space[Any]) -> None:
        self.observation_space, self.action_space = seen, actions


def test_spaces_that_do_not_fit_the_masks_are_refused() -> None:
    number, mask = spaces.Box(0, 1, (2,)), spaces.MultiBinary(3)
    for seen, actions, message in (
        (
            spaces.Dict({"observation": number, "action_mask": mask}),
            spaces.Discrete(4),
            r'the space of observation\["action_mask"\] is MultiBinary\(3\), expected \[4\]',
        ),
        (
            spaces.Dict({"action_mask": mask}),
            spaces.Discrete(3),
            r'the observations hold nothing but observation\["action_mask"\]',
        ),
        (
            spaces.Dict({"observation": number, "action_mask": mask}),
            number,
            r"action masks .* are for Discrete actions, but its action space is Box",
        ),
    ):
        with pytest.raises(UserError, match=message):
            make(partial(Other, seen, actions))


def test_the_rest_of_a_dictionary_is_what_the_agent_sees() -> None:
    board = spaces.Box(0, 1, (3, 3, 2), np.int8)
    mask = spaces.Box(0, 1, (9,), np.int8)
    alone = spaces.Dict({"observation": board, "action_mask": mask})
    assert make(partial(Other, alone, spaces.Discrete(9))).spec.observation.shape == (3, 3, 2)
    inner = spaces.Dict({"board": board, "turn": spaces.Discrete(2)})
    nested = spaces.Dict({"observation": inner, "action_mask": mask})
    nested.seed(0)
    env = make(partial(ShowingEnv, nested, spaces.Discrete(9)))
    vector = env.vector(1)
    assert vector.reset(0).observation.shape == (1, 20)
    vector.close()
    more = spaces.Dict({"board": board, "turn": spaces.Discrete(2), "action_mask": mask})
    encoding = make(partial(Other, more, spaces.Discrete(9))).spec.encoding
    assert [name for _, name in encoding.parts] == ["observation['board']", "observation['turn']"]


@pytest.mark.parametrize("source", ["info", "observation"])
def test_vectors_of_their_own_cannot_have_masks(source: str) -> None:
    kwargs = json.dumps({"source": source})
    message = "action masks, which --vectorization own cannot take: train with --vectorization sync"

    def play() -> None:
        env = make("noisydqn-tests/OwnMasks-v0", vectorization="own", env_kwargs=kwargs)
        vector = env.vector(1)
        vector.reset(0)
        vector.step(np.zeros(1, int))

    with pytest.raises(UserError, match=message):
        play()


def test_a_run_says_that_there_are_masks() -> None:
    assert describe_masks(make(Knapsack).spec) == (
        'action masks: info["action_mask"] says which of 5 actions are valid'
    )
    device = DeviceEnvironment.create(JaxKnapsack()).spec
    assert describe_masks(device) == (
        "action masks: action_mask(state) says which of 5 actions are valid"
    )
    seen = EnvironmentSpec.of(Encoding.as_stored((3,), np.float32, ("0", "1")))
    assert describe_masks(seen) is None
    assert "action_mask" not in msgspec.to_builtins(seen.encoding)


def test_a_run_without_masks_does_not_continue_with_them(tmp_path: Path) -> None:
    folder = RunFolder.at(tmp_path)
    spec = make(Knapsack).spec
    write_spaces(folder, spec)
    check_spaces(folder, spec)
    old = spec.encoding
    without = EnvironmentSpec.of(Encoding(old.observation, old.actions, old.action_names))
    with pytest.raises(UserError, match=r"takes Discrete.*, but .* action masks: give the"):
        check_spaces(folder, without)


# On the device


def test_masks_of_environments_in_jax() -> None:
    env = DeviceEnvironment.create(JaxKnapsack())
    assert env.spec.masked
    vector = VectorEnvironment(env, 3)
    state, step = jax.jit(vector.reset)(jax.random.key(0))
    advance = jax.jit(vector.step)
    for i in range(12):
        assert step.action_mask is not None
        fits = jax.vmap(JaxKnapsack().action_mask)(state)
        np.testing.assert_array_equal(step.action_mask, fits | step.terminated[:, None])
        actions = jnp.argmax(step.action_mask, axis=1)
        state, step = advance(jax.random.key(i), state, actions, step.last)
        assert not step.info["wrong"].any()
        assert not step.info["no_valid_action"].any()


def test_a_mask_in_jax_has_to_be_one() -> None:
    message = r"NumbersForMasks.action_mask returned float32 \[5\], expected bool \[5\]"
    with pytest.raises(UserError, match=message):
        DeviceEnvironment.create(NumbersForMasks())


@pytest.mark.parametrize("stuck_at", [0, 2])
def test_a_state_in_jax_without_a_valid_action_is_named(stuck_at: int) -> None:
    env = DeviceEnvironment.create(JaxKnapsack(stuck_at))
    config = SMALL.replace(chunk_steps=8, num_envs=2, steps=40)
    at = 0 if stuck_at == 0 else 4  # two steps of both environments
    message = f"failed at step {at} in environment 0: .*JaxKnapsack.action_mask allows no action"
    with pytest.raises(EnvironmentFailedError, match=message):
        list(run_device(config, env, jax.random.split(jax.random.key(0), 1)))
    policy = build.make_policy(config.program, env.spec, jax.random.key(0))
    with pytest.raises(EnvironmentFailedError, match=r"episode \d of an evaluation: .*no action"):
        evaluate(env, policy, episodes=2, key=jax.random.key(0))


# Whole runs


@pytest.mark.parametrize("learner", ["replay", "parallel"])
@pytest.mark.parametrize("env", [Knapsack, JaxKnapsack], ids=["host", "device"])
def test_a_run_takes_valid_actions_alone_and_resumes_exactly(
    env: Any, learner: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = tiny(env=env, learner=learner)
    noisydqn.train(**options, out=tmp_path / "whole")
    train_until(3, monkeypatch, **options, checkpoint_seconds=1e-9, out=tmp_path / "part")
    noisydqn.resume(tmp_path / "part", env=env, quiet=True)
    assert results(tmp_path / "part") == results(tmp_path / "whole")
    if env is JaxKnapsack:
        table = np.genfromtxt(tmp_path / "whole" / "episodes.csv", delimiter=",", names=True)
        assert len(table) > 20
        assert not table["wrong"].any()


def test_a_loaded_policy_takes_masks() -> None:
    spec = make(TicTacToe).spec
    policy = GreedyPolicy(build.make_policy(SMALL.program, spec, jax.random.key(0)), spec)
    env = TicTacToe()
    shown, _ = env.reset(seed=0)
    for _ in range(9):
        action = policy(shown)
        assert action == policy.predict(shown["observation"], action_mask=shown["action_mask"])[0]
        values = policy.values(shown)
        np.testing.assert_array_equal(np.isfinite(values), shown["action_mask"] == 1)
        shown, _, terminated, *_ = env.step(action)
        if terminated:
            shown, _ = env.reset()
    batch = jax.tree.map(lambda x: np.stack([x, x]), shown)
    np.testing.assert_array_equal(policy(batch), [policy(shown)] * 2)
    seen, mask = shown["observation"], shown["action_mask"]
    for given, message in (
        (None, r"trained with action masks: give action_mask, \[9\] of booleans or of 0 and 1"),
        (np.ones(8), r"action_mask is float64 \[8\], expected \[9\] of booleans"),
        (np.full(9, 2), r"action_mask\[0\] is 2, expected \[9\]"),
        (np.zeros(9), "action_mask allows no action: give masks of states that are not terminal"),
    ):
        with pytest.raises(UserError, match=message):
            policy.predict(seen, action_mask=given)
    unmasked = EnvironmentSpec(spec.observation, 9, spec.action_names)
    other = GreedyPolicy(build.make_policy(SMALL.program, unmasked, jax.random.key(0)), unmasked)
    with pytest.raises(UserError, match="was trained without action masks: leave it out"):
        other.predict(seen, action_mask=mask)


def test_evaluation_takes_valid_actions_alone() -> None:
    env = make(Knapsack)
    policy = build.make_policy(SMALL.program, env.spec, jax.random.key(0))
    played = evaluate(env, policy, episodes=20, key=jax.random.key(0))
    assert min(played.returns) > 0


def test_a_wrong_mask_ends_a_run_with_its_work_saved() -> None:
    env = make(partial(Giving, "missing", 7))
    run = run_host(SMALL.replace(chunk_steps=4, num_envs=1, steps=40), env, jax.random.key(0))
    chunks: list[int] = []
    with pytest.raises(EnvironmentFailedError, match="is missing"):
        chunks.extend(chunk.steps for chunk in run)
    assert chunks == [4, 6]


@pytest.mark.parametrize("learner", ["replay", "parallel"])
def test_masks_stand_beside_images_and_vectors(learner: str, tmp_path: Path) -> None:
    """An invalid action would raise. The export compares itself with the policy."""
    out = tmp_path / "run"
    options = tiny(learner=learner, env=Pictured, steps=160, video_seconds=0.5, out=out)
    summary = noisydqn.train(**options).seeds[0].summary
    assert summary["evaluation"]["mean_return"] > 0
    assert (out / "policy.mp4").exists()
    policy = noisydqn.load_policy(out)
    shown, _ = Pictured().reset(seed=0)
    action, _ = policy.predict(shown)
    assert shown["action_mask"][action]
    assert np.isneginf(policy.values(shown)[shown["action_mask"] == 0]).all()
    for form in ("onnx", "torch"):
        pytest.importorskip({"onnx": "onnxruntime", "torch": "torch"}[form])
        assert main(["export", str(out), "--format", form, "--trust"]) == 0


def test_a_run_older_than_masks_plays_without_them(tmp_path: Path) -> None:
    """Taxi has always given masks; they were not looked at."""
    out = tmp_path / "run"
    noisydqn.train(**tiny(env="Taxi-v4", steps=80, max_episode_steps=20, out=out))
    file = out / "spaces.json"
    stored = json.loads(file.read_text())
    assert stored.pop("action_mask") == "info"
    file.write_text(json.dumps(stored))
    assert len(noisydqn.evaluate(out, episodes=1).returns) == 1
    assert noisydqn.load_policy(out).predict(3)[0] in range(6)


def test_text_beside_masks_is_left_out() -> None:
    class Told(Knapsack):
        def __init__(self) -> None:
            super().__init__("observation")
            parts: Any = self.observation_space
            self.observation_space = spaces.Dict({**parts, "mission": Mission()})

    shown = guarded(Told, 0, masks="observation").observation_space
    create_shared_memory(shown, n=2)  # worker processes need it


def test_rows_whose_masks_allow_nothing_are_refused() -> None:
    config, env = Config(**SMALL.flat()), make(Knapsack)
    core = make_core(config.program, env.spec)
    rows = core.rows(jax.eval_shape(core.init, jax.random.key(0)))
    none = jax.tree.map(lambda x: np.zeros((3, *x.shape[1:]), x.dtype), rows)
    assert "allow no action" in problem_of_rows(none, env.spec)
