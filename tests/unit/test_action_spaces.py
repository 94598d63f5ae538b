"""Environments whose actions are arrays: what choices they offer, and whole runs."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import jax
import numpy as np
import onnxruntime
import pytest
import torch
from gymnasium import spaces
from tests.action_envs import FIRST, PLACES, Aim, Levers
from tests.exports import export
from tests.host_envs import ShowingEnv
from tests.hosts import SMALL, make
from tests.runs import results, tiny, train_until

import noisydqn
from noisydqn import Config, UserError
from noisydqn.envs.actions import MAX_ACTIONS, Bins, Categories, decoded, describe_actions, sizes_of
from noisydqn.envs.check import examine
from noisydqn.envs.encoding import Encoding
from noisydqn.envs.spaces import Discrete
from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.errors import SpaceError
from noisydqn.play.policy import GreedyPolicy
from noisydqn.play.rollout import rollout
from noisydqn.runners import build
from noisydqn.runners.cores import make_core
from noisydqn.runs.folder import RunFolder, check_spaces
from noisydqn.runs.messages import describe_actions as announced
from noisydqn.runs.start import problem_of_rows

KEY = jax.random.key(0)
SEEN = spaces.Box(0, 1, (2,))


def every_action(actions: Any) -> list[np.ndarray]:
    """Decode every joint action, one after the other."""
    sizes = sizes_of(actions)
    choices = np.stack([x.reshape(-1) for x in np.indices(sizes)], axis=-1)
    rows = choices[:, 0] if len(sizes) == 1 else choices
    together = decoded(actions, rows)
    for choice, action in zip(rows, together, strict=True):
        np.testing.assert_array_equal(decoded(actions, choice[None])[0], action)
    return list(together)


@pytest.mark.parametrize(
    ("space", "bins", "sizes"),
    [
        (spaces.Discrete(3, start=-4), None, (3,)),
        (spaces.MultiDiscrete([3, 2, 4], start=[1, 0, -2]), None, (3, 2, 4)),
        (spaces.MultiDiscrete(np.array([[2, 3], [1, 2]])), None, (2, 3, 1, 2)),
        (spaces.MultiDiscrete([5], start=[7]), None, (5,)),
        (spaces.MultiDiscrete([2, 2], dtype=np.int8), None, (2, 2)),
        (spaces.MultiBinary([2, 2]), None, (2, 2, 2, 2)),
        (spaces.Box(-2, 2, (1,)), None, (3,)),
        (spaces.Box(-2, 2, ()), 4, (4,)),
        (Aim().action_space, 5, (5, 5, 5, 5)),
        (spaces.Box(-1e30, 1e30, (2,), np.float64), 2, (2, 2)),
    ],
    ids=str,
)
def test_every_joint_action_is_one_of_the_space(
    space: gymnasium.Space[Any], bins: int | None, sizes: tuple[int, ...]
) -> None:
    described = describe_actions(space, bins)
    assert sizes_of(described) == sizes
    actions = every_action(described)
    assert all(space.contains(np.asarray(action)) for action in actions)
    assert len(np.unique(np.stack(actions).reshape(len(actions), -1), axis=0)) == np.prod(sizes)
    if isinstance(space, spaces.Box):
        low, high = np.min(actions, axis=0), np.max(actions, axis=0)
        np.testing.assert_array_equal(low, space.low)
        np.testing.assert_array_equal(high, space.high)
        assert actions[0].dtype == space.dtype


def test_bins_lie_at_even_distances() -> None:
    encoding = Encoding.of(SEEN, Aim().action_space, bins=3)
    actions = encoding.decode_actions(np.array([[0, 1, 2, 1]]))
    np.testing.assert_allclose(actions, [[[-1, 2.5], [4, 0]]], atol=1e-7)
    assert encoding.action_names[:5] == ("0: -1", "0: 0", "0: 1", "1: 0", "1: 2.5")
    assert Encoding.of(SEEN, spaces.Box(-2, 2, (1,))).action_names == ("-2", "0", "2")
    assert Encoding.of(SEEN, Levers().action_space).action_names[:4] == (
        "0: 1",
        "0: 2",
        "0: 3",
        "1: 0",
    )


@pytest.mark.parametrize("space", [Levers().action_space, Aim().action_space], ids=str)
def test_encodings_survive_json(space: gymnasium.Space[Any]) -> None:
    encoding = Encoding.of(SEEN, space)
    assert Encoding.from_json(encoding.to_json()) == encoding
    stored = json.loads(encoding.to_json())
    assert stored["actions"]["kind"] in ("Bins", "Categories")
    stored["actions"]["shape"] = [7]
    with pytest.raises(ValueError, match="of shape"):
        Encoding.from_json(json.dumps(stored).encode())


@pytest.mark.parametrize(
    ("space", "bins", "message"),
    [
        (spaces.Box(-1, np.inf, (2,)), None, "has no bounds, so it cannot be divided into bins"),
        (spaces.Box(0, 9, (2,), np.int32), None, "is a Box of int32, expected floats, or Multi"),
        (spaces.Box(0, 1, (0,)), None, "has no dimension: there is nothing to choose"),
        (spaces.MultiDiscrete(np.zeros(0, int)), None, "has no dimension"),
        (spaces.Dict({"a": spaces.Discrete(2)}), None, "is Dict, expected Discrete, MultiDiscrete"),
        (spaces.Tuple([spaces.Box(0, 1)]), None, "is Tuple, expected Discrete, MultiDiscrete"),
        (spaces.Discrete(2), 3, "--action-bins 3 is for actions that are a Box, but the action"),
        (spaces.MultiDiscrete([2]), 3, "--action-bins 3 is for actions that are a Box"),
        (spaces.Box(-1, 1, (70,)), 1_000, "has too many actions, expected at most 65,536"),
        (spaces.MultiDiscrete([MAX_ACTIONS, 2]), None, "too many actions"),
    ],
    ids=str,
)
def test_spaces_that_are_refused(
    space: gymnasium.Space[Any], bins: int | None, message: str
) -> None:
    with pytest.raises(SpaceError, match=message) as error:
        Encoding.of(SEEN, space, bins=bins)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("bins", [1, 0, MAX_ACTIONS + 1])
def test_bins_are_checked(bins: int) -> None:
    with pytest.raises(UserError, match="--action-bins must be between 2 and 65536"):
        Config(action_bins=bins)


@pytest.mark.parametrize("distribution", ["categorical", "hl-gauss"])
@pytest.mark.parametrize("learner", ["replay", "parallel"])
def test_distributions_over_a_support_are_refused(distribution: str, learner: str) -> None:
    config = Config(distribution=distribution, learner=learner)
    make_core(config.program, make(lambda: ShowingEnv(SEEN)).spec).init(KEY)
    core = make_core(config.program, make(Levers).spec)
    with pytest.raises(UserError, match="actions of 3 dimensions exclude each other, as its ret"):
        core.init(KEY)


def test_a_run_says_what_an_action_is() -> None:
    assert announced(make(lambda: ShowingEnv(SEEN)).spec) is None
    assert announced(make(Levers).spec) == "actions: MultiDiscrete [3, 2, 4]; 9 action values"
    aim = make(Aim, action_bins=5).spec
    assert announced(aim) == "actions: Box [2, 2] in 5 bins each; 20 action values"


def test_rows_of_actions_that_do_not_exist_are_refused() -> None:
    spec = make(Levers).spec
    core = make_core(SMALL.program, spec)
    rows: Any = core.rows(jax.eval_shape(core.init, KEY))
    rows = jax.tree.map(lambda x: np.zeros((3, *x.shape[1:]), x.dtype), rows)
    assert rows.action.shape == (3, 2, 3)
    assert problem_of_rows(rows, spec) == ""
    rows.action[0, 0] = [2, 1, 3]
    assert problem_of_rows(rows, spec) == ""
    rows.action[0, 0] = [1, 2, 3]
    assert "actions that the environment does not have" in problem_of_rows(rows, spec)


@pytest.mark.slow
@pytest.mark.parametrize("learner", ["replay", "parallel"])
@pytest.mark.parametrize(
    ("env", "options"),
    [
        (Levers, {"n_step": 2}),
        (Levers, {"vectorization": "subprocess", "exploration": "both"}),
        (Aim, {"action_bins": 3, "distribution": "quantile", "quantiles": 4}),
    ],
    ids=str,
)
def test_a_resumed_run_ends_with_the_same_bits(
    env: Any,
    options: dict[str, Any],
    learner: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if learner == "parallel":
        options = {name: x for name, x in options.items() if name != "n_step"}
    options = tiny(env=env, learner=learner, **options)
    noisydqn.train(**options, out=tmp_path / "whole")
    train_until(3, monkeypatch, **options, checkpoint_seconds=1e-9, out=tmp_path / "part")
    noisydqn.resume(tmp_path / "part", env=env, quiet=True)
    assert results(tmp_path / "part") == results(tmp_path / "whole")


@pytest.mark.slow
def test_a_vector_of_its_own_takes_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its episodes are replayed by the history alone."""
    register = partial(gymnasium.register, entry_point="tests.action_envs:Levers")
    register("noisydqn-tests/OwnLevers-v0", vector_entry_point="tests.action_envs:vector")
    try:
        options = tiny(env="noisydqn-tests/OwnLevers-v0", vectorization="own")
        noisydqn.train(**options, out=tmp_path / "whole")
        train_until(3, monkeypatch, **options, checkpoint_seconds=1e-9, out=tmp_path / "part")
        noisydqn.resume(tmp_path / "part", quiet=True)
        assert results(tmp_path / "part") == results(tmp_path / "whole")
    finally:
        del gymnasium.registry["noisydqn-tests/OwnLevers-v0"]


@pytest.mark.slow
def test_a_run_starts_from_another_and_its_replay_buffer(tmp_path: Path) -> None:
    options = tiny(env="noisydqn-tests/Levers-v0", steps=120)
    noisydqn.train(**options, out=tmp_path / "first")
    more: dict[str, Any] = {"start_from": tmp_path / "first", "from_replay": True}
    noisydqn.train(**options, **more, out=tmp_path / "second")
    aim = tiny(env="noisydqn-tests/Aim-v0", steps=120, action_bins=3)
    with pytest.raises(UserError, match=r"actions 3 \+ 2 \+ 4 there, 3 \+ 3 \+ 3 \+ 3 here"):
        noisydqn.train(**aim, start_from=tmp_path / "first", out=tmp_path / "third")
    noisydqn.train(**aim, out=tmp_path / "third")
    with pytest.raises(UserError, match=r"takes Box \[2, 2\] in 3 bins each"):
        check_spaces(RunFolder.at(tmp_path / "third"), make(Levers).spec)


@pytest.mark.slow
def test_a_loaded_policy_returns_what_the_environment_takes(tmp_path: Path) -> None:
    for name, env in (("Levers", Levers()), ("Aim", Aim())):
        options = tiny(env=f"noisydqn-tests/{name}-v0", steps=80)
        noisydqn.train(**options, out=tmp_path / name)
        policy = noisydqn.load_policy(tmp_path / name)
        seen, _ = env.reset(seed=0)
        action = policy(seen)
        assert env.action_space.contains(action)
        batch = policy(np.stack([seen, seen]))
        np.testing.assert_array_equal(batch, [action, action])
        sizes = policy.spec.action_sizes
        q = policy.values(seen)
        assert q.shape == (len(sizes), max(sizes))
        assert np.isfinite(q).sum() == sum(sizes)
        np.testing.assert_array_equal(
            policy.spec.encoding.decode_actions(np.argmax(q, axis=-1)[None])[0], action
        )


def new_policy(spec: EnvironmentSpec, config: Config = SMALL) -> GreedyPolicy:
    return GreedyPolicy(build.make_policy(config.program, spec, KEY), spec)


def test_policies_name_their_actions() -> None:
    assert "vector (2,) -> MultiDiscrete [3, 2, 4], " in repr(new_policy(make(Levers).spec))
    seen = Encoding.of(SEEN, spaces.MultiDiscrete([3]))
    policy = new_policy(EnvironmentSpec.of(seen))
    assert policy.values(np.zeros(2, np.float32)).shape == (3,)
    assert policy(np.zeros(2, np.float32)).shape == (1,)


@pytest.mark.slow
@pytest.mark.parametrize(
    "space",
    [Levers().action_space, Aim().action_space, spaces.Box(-2, 2, (1,)), spaces.MultiBinary(3)],
    ids=str,
)
@pytest.mark.parametrize("distribution", ["expected", "quantile", "implicit-quantile"])
def test_exported_files_choose_the_same_actions(
    space: gymnasium.Space[Any], distribution: str, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"distribution": distribution}
    case = SMALL.replace(**options), EnvironmentSpec.of(Encoding.of(SEEN, space))
    seen = np.random.default_rng(0).normal(size=(200, 2)).astype(np.float32)
    file, made = export(tmp_path, case, "onnx")
    policy = GreedyPolicy(made, case[1])
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    values, actions = map(np.asarray, session.run(None, {"observation": seen}))
    expected = policy(seen)
    assert actions.dtype == expected.dtype
    np.testing.assert_array_equal(actions, expected)
    q = policy.values(seen)
    np.testing.assert_allclose(values, q[np.isfinite(q)].reshape(200, -1), atol=1e-4)
    for file in tmp_path.iterdir():
        file.unlink()
    file, _ = export(tmp_path, case, "torch")
    program: Any = torch.export.load(file)
    ours = program.module()(torch.from_numpy(seen)).detach().numpy()
    np.testing.assert_allclose(ours, values, atol=1e-4)
    card = json.loads(file.with_name(file.name + ".json").read_text())["actions"]
    numbers, parts = np.array(card["numbers"]), np.split(ours, np.cumsum(card["sizes"])[:-1], 1)
    firsts = np.cumsum([0, *card["sizes"][:-1]])
    chosen = numbers[np.stack([x.argmax(1) for x in parts], 1) + firsts]
    np.testing.assert_allclose(chosen.reshape(-1, *card["shape"]), expected, atol=1e-6)


@pytest.mark.slow
def test_videos_show_every_dimension(tmp_path: Path) -> None:
    class Drawn(Levers):
        def __init__(self) -> None:
            super().__init__()
            self.metadata = {"render_modes": ["rgb_array"], "render_fps": 5}
            self.render_mode = "rgb_array"

        def render(self) -> Any:
            return np.zeros((16, 16, 3), np.uint8)

    env = make(Drawn)
    policy = new_policy(env.spec)
    (shot, *_) = rollout(env).shots(policy.policy, 1.0, KEY)
    assert shot.q.shape == (9,)
    assert len(shot.actions) == 3
    best = np.argmax(policy.values(shot.seen), axis=-1)
    assert shot.actions == tuple(best + np.array([0, 3, 5]))
    noisydqn.train(**tiny(env=Drawn, steps=80, video_seconds=1), out=tmp_path / "run")
    assert (tmp_path / "run" / "policy.mp4").exists()


@pytest.mark.slow
def test_doctor_examines_environments_of_arrays() -> None:
    facts = examine(make(Levers), 50).facts
    assert facts[0] == "vector (2,), MultiDiscrete [3, 2, 4]"
    assert examine(make(Aim), 50).facts[0] == "vector (4,), Box [2, 2] in 3 bins each"


def test_the_kinds_of_descriptions() -> None:
    assert describe_actions(spaces.Discrete(2), None) == Discrete(2)
    described = describe_actions(Levers().action_space, None)
    assert described == Categories(tuple(PLACES.tolist()), tuple(FIRST.tolist()), (3,), "int64")
    box = describe_actions(spaces.Box(-1, 1, (2,)), 4)
    assert box == Bins((-1.0, -1.0), (1.0, 1.0), 4, (2,), "float32")
