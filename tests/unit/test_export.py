"""Exported policies play like the originals."""

import contextlib
import dataclasses
import io
import json
import sys
from pathlib import Path
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from tests.runs import create_folders

from noisydqn import PRESETS, Config, NoisyLinear, UserError, load_policy
from noisydqn.cli import main
from noisydqn.distributions import DISTRIBUTIONS, Distribution, Quantile
from noisydqn.envs.encoding import Encoding, numbered
from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.export import (
    SUFFIXES,
    Format,
    card_path,
    describe,
    example_observations,
    export_policy,
    export_run,
    graph,
)
from noisydqn.folders import File
from noisydqn.imports import name_of
from noisydqn.learner.agent import values
from noisydqn.learner.policy import Policy
from noisydqn.nets.torsos import Flatten
from noisydqn.play.policy import GreedyPolicy
from noisydqn.preprocessing import normalize
from noisydqn.runners import build
from noisydqn.runs.exported import read_card
from noisydqn.runs.folder import RunFolder
from noisydqn.runs.weights import save_policy

pytestmark = pytest.mark.slow

OBSERVATIONS = 1_000

Case = tuple[Config, EnvironmentSpec]


def spec(shape: tuple[int, ...], dtype: Any, actions: int) -> EnvironmentSpec:
    return EnvironmentSpec(jax.ShapeDtypeStruct(shape, dtype), actions, numbered(actions))


BASE = Config(hidden=(16,))
IMPLICIT: dict[str, Any] = {
    "distribution": "implicit-quantile",
    "quantiles": 2,
    "acting_quantiles": 5,
}
CASES: dict[str, Case] = {
    "vector": (BASE.replace(hidden=(16, 16)), spec((8,), np.float32, 4)),
    "vector, plain": (
        BASE.replace(dueling=False, exploration="greedy"),
        spec((3,), np.float32, 2),
    ),
    "frames of numbers": (BASE.replace(frame_stack=3), spec((), np.float32, 2)),
    "frames of vectors": (BASE.replace(frame_stack=3), spec((4,), np.float32, 2)),
    "bits": (BASE.replace(torso="minatar"), spec((10, 10, 4), np.bool_, 3)),
    "bytes": (PRESETS["catcher"].replace(hidden=(16,)), spec((42, 42), np.uint8, 3)),
    "frames of bytes": (BASE.replace(frame_stack=4), spec((36, 36), np.uint8, 3)),
    "frames in color": (
        BASE.replace(frame_stack=2, torso="minatar"),
        spec((10, 12, 3), np.uint8, 3),
    ),
    "normalized bytes": (
        PRESETS["catcher-notebook"].replace(hidden=(16,)),
        spec((42, 42), np.uint8, 3),
    ),
    "normalized and clipped": (
        BASE.replace(normalize_observations="running", observation_clip=0.5),
        spec((5,), np.float32, 3),
    ),
    "atoms": (
        BASE.replace(distribution="categorical", atoms=5, v_min=-1.0, v_max=2.0),
        spec((4,), np.float32, 3),
    ),
    "quantiles": (
        BASE.replace(distribution="quantile", quantiles=4),
        spec((4,), np.float32, 3),
    ),
    "quantiles, plain": (
        BASE.replace(
            distribution="quantile", quantiles=4, dueling=False, exploration="epsilon-greedy"
        ),
        spec((4,), np.float32, 3),
    ),
    "implicit quantiles": (
        BASE.replace(**IMPLICIT, hidden=(16, 8), layer_norm=True),
        spec((4,), np.float32, 3),
    ),
    "implicit quantiles of features": (
        BASE.replace(**IMPLICIT, hidden=(), dueling=False),
        spec((4,), np.float32, 3),
    ),
    "streams": (
        BASE.replace(
            distribution="categorical", atoms=5, hidden=(), dueling_hidden=(16, 8), layer_norm=True
        ),
        spec((4,), np.float32, 3),
    ),
    "implicit quantiles of streams": (
        BASE.replace(**IMPLICIT, dueling_hidden=(8,)),
        spec((4,), np.float32, 3),
    ),
    "mlp": (BASE.replace(torso="mlp", torso_widths=(8, 6)), spec((2, 3), np.float32, 3)),
    "normalized layers": (
        BASE.replace(torso="mlp", torso_widths=(8,), hidden=(16, 8), layer_norm=True),
        spec((4,), np.float32, 3),
    ),
    "impala": (
        BASE.replace(torso="impala", torso_widths=(4, 6), frame_stack=2),
        spec((9, 6), np.uint8, 3),
    ),
    "btr": (
        BASE.replace(torso="btr", torso_widths=(4,), frame_stack=2),
        spec((21, 9), np.uint8, 3),
    ),
    "hadamax": (BASE.replace(torso="hadamax"), spec((9, 6), np.uint8, 3)),
    "normalized convolutions": (
        BASE.replace(torso="catcher", torso_layer_norm=True),
        spec((20, 24), np.uint8, 3),
    ),
    "normalized residual convolutions": (
        BASE.replace(torso="btr", torso_widths=(4,), torso_layer_norm=True),
        spec((13, 9, 2), np.uint8, 3),
    ),
    "normalized maxima": (
        BASE.replace(torso="notebook", torso_layer_norm=True),
        spec((42, 42), np.uint8, 3),
    ),
}
TRACED = [
    *("vector", "bits", "frames in color", "normalized bytes", "atoms", "quantiles, plain"),
    *("implicit quantiles", "streams", "normalized layers", "impala"),
    *("btr", "hadamax", "normalized residual convolutions"),
]
"""Cases that show PyTorch every step."""


def make(case: Case) -> Policy:
    config, of = case
    policy = with_learned_norms(build.make_policy(config.program, of, jax.random.key(0)))
    seen = jnp.asarray(example_observations(policy, of, 50))
    if policy.moments is not None:
        moments = normalize.update(normalize.init(seen.shape[1:]), seen).rounded
        policy = eqx.tree_at(lambda p: p.moments, policy, moments)
    # Centered, so that every action is the best of some observations.
    center = values(policy.network, policy.preprocess(seen), None).mean(0)

    def bias(policy: Policy) -> Any:
        head: Any = policy.network.advantage
        return head.bias_mu if isinstance(head, NoisyLinear) else head.bias

    return eqx.tree_at(bias, policy, bias(policy) - outputs_of(policy.network.distribution, center))


def with_learned_norms(policy: Policy) -> Policy:
    """Layer normalizations with another scale than one and another offset than zero."""
    rng = np.random.default_rng(0)

    def learned(x: Any) -> Any:
        if not isinstance(x, eqx.nn.LayerNorm):
            return x
        return jax.tree.map(lambda p: p + rng.normal(0, 0.3, p.shape).astype(np.float32), x)

    return jax.tree.map(learned, policy, is_leaf=lambda x: isinstance(x, eqx.nn.LayerNorm))


def outputs_of(distribution: Distribution, values: jax.Array) -> jax.Array:
    """Outputs [A * N] that move action values by these, to first order of evenly likely atoms."""
    support = distribution.support
    if support is not None:
        return jnp.outer(values, support / jnp.var(support)).reshape(-1)
    return jnp.repeat(values, distribution.num_outputs)


def export(tmp_path: Path, case: Case, file_format: Format) -> tuple[Path, Policy]:
    config, of = case
    policy = make(case)
    file = tmp_path / f"policy{SUFFIXES[file_format]}"
    card = describe(RunFolder.at(tmp_path), config, of)
    export_policy(File.at(file), file_format, policy, of, card)
    assert sorted(x.name for x in tmp_path.iterdir()) == [file.name, file.name + ".json"]
    assert json.loads(card_path(file).read_text()) == json.loads(json.dumps(card))
    return file, policy


def assert_equal(ours: np.ndarray, policy: Policy, seen: np.ndarray) -> None:
    """The same values, to 1e-4, and the same actions."""
    expected = np.asarray(values(policy.network, policy.preprocess(jnp.asarray(seen)), None))
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4)
    np.testing.assert_array_equal(ours.argmax(-1), expected.argmax(-1))
    if len(seen) == OBSERVATIONS:
        assert len(np.unique(expected.argmax(-1))) == expected.shape[-1]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_onnx_plays_like_the_original(case: Case, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    file, policy = export(tmp_path, case, "onnx")
    seen = example_observations(policy, case[1], OBSERVATIONS)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    ours, action = session.run(["values", "action"], {"observation": seen})
    assert_equal(ours, policy, seen)
    np.testing.assert_array_equal(action, ours.argmax(-1))
    one = session.run(["values"], {"observation": seen[:1]})[0]
    np.testing.assert_allclose(one, ours[:1], atol=1e-5)


@pytest.mark.parametrize("name", TRACED)
def test_torch_plays_like_the_original(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    torch = pytest.importorskip("torch")
    file, policy = export(tmp_path, case, "torch")
    seen = example_observations(policy, case[1], OBSERVATIONS)
    program = torch.export.load(file).module()
    assert_equal(program(torch.from_numpy(seen)).detach().numpy(), policy, seen)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_safetensors_play_like_the_original(case: Case, tmp_path: Path) -> None:
    file, policy = export(tmp_path, case, "safetensors")
    loaded = load_policy(file)
    seen = example_observations(policy, case[1], 20)
    newest = seen[:, -1] if policy.frames > 1 else seen
    stacked = np.repeat(newest[:, None], policy.frames, 1) if policy.frames > 1 else seen
    assert_equal(loaded.values(newest), policy, stacked)
    actions, _ = loaded.predict(newest, deterministic=True)
    np.testing.assert_array_equal(actions, loaded.values(newest).argmax(-1))
    assert actions.dtype == np.int64


# load_policy


def loaded(name: str) -> GreedyPolicy:
    return GreedyPolicy(make(CASES[name]), CASES[name][1])


def test_single_and_batched_observations() -> None:
    policy = loaded("vector")
    batch = np.random.default_rng(0).normal(size=(6, 8))  # float64, as some environments give
    actions, state = policy.predict(batch)
    assert actions.shape == (6,)
    assert state is None
    single, _ = policy.predict(batch[2])
    assert single.shape == ()
    assert single == actions[2] == policy(batch[2])
    assert policy.values(batch[2]).shape == (4,)


def test_frames_are_kept_in_the_state() -> None:
    policy = loaded("frames of vectors")
    seen = np.random.default_rng(0).normal(size=(4, 2, 4)).astype(np.float32)
    stacks = [[0, 0, 0], [0, 0, 1], [0, 1, 2], [3, 3, 3]]  # the fourth starts an episode
    state = None
    for i, places in enumerate(stacks):
        actions, state = policy.predict(seen[i], state, episode_start=np.array([i == 3] * 2))
        assert state is not None
        np.testing.assert_array_equal(state, np.swapaxes(seen[places], 0, 1))
        x = policy.policy.preprocess(jnp.asarray(state))
        expected = np.asarray(values(policy.policy.network, x, None)).argmax(-1)
        np.testing.assert_array_equal(actions, expected)


def test_images_with_channels_first_are_transposed() -> None:
    config, of = CASES["frames in color"]
    shown = spaces.Box(0, 255, (3, 10, 12), np.uint8)
    turned = EnvironmentSpec.of(Encoding.of(shown, spaces.Discrete(3)))
    assert turned.observation == of.observation
    network = make((config, of))
    first, last = GreedyPolicy(network, turned), GreedyPolicy(network, of)
    image = np.random.default_rng(0).integers(0, 256, (10, 12, 3), np.uint8)
    np.testing.assert_array_equal(first.values(np.moveaxis(image, -1, 0)), last.values(image))


def test_refuses_what_it_cannot_do() -> None:
    with pytest.raises(UserError, match="nothing is random"):
        loaded("vector").predict(np.zeros(8), deterministic=False)
    with pytest.raises(UserError, match=r"state has shape \[1\], expected \[1, 3, 4\]"):
        loaded("frames of vectors").predict(np.zeros(4), np.zeros(1))


# Runs


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run of Catcher, with fresh weights."""
    config = PRESETS["catcher"].replace(hidden=(8,))
    out, (folder,) = create_folders(config, tmp_path / "run")
    for path in (folder.best, folder.final):
        save_policy(path, build.make_policy(config.program, CASES["bytes"][1], jax.random.key(0)))
    return out


def test_a_run_is_exported_by_the_command(run: Path) -> None:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for _ in range(2):  # nothing is overwritten
            assert main(["export", str(run), "--format", "safetensors"]) == 0
    names = ["policy.safetensors", "policy-2.safetensors"]
    lines = [str(run / (name + end)) for name in names for end in ("", ".json")]
    assert printed.getvalue().splitlines() == lines
    card = json.loads((run / "policy.safetensors.json").read_text())
    assert card["observation"] == {"shape": [42, 42], "dtype": "uint8", "frames": 1}
    assert card["actions"] == {"number": 3, "start": 0, "names": ["left", "right", "stay"]}
    spaces_of_card = Encoding.from_json(json.dumps(card["spaces"]).encode())
    assert spaces_of_card.observation == CASES["bytes"][1].encoding.observation
    seen = np.random.default_rng(0).integers(0, 256, (5, 42, 42), np.uint8)
    of_run = load_policy(run)
    of_file = load_policy(str(run / "policy-2.safetensors"))
    np.testing.assert_array_equal(of_file.values(seen), of_run.values(seen))


def test_refuses_files_and_folders_that_do_not_fit(run: Path, tmp_path: Path) -> None:
    def export_to(out: Path, *argv: str) -> None:
        export_run(run, "safetensors", out, *argv)

    with pytest.raises(UserError, match="exists, nothing was changed"):
        export_to(run / "best.safetensors")
    with pytest.raises(UserError, match=r"name a \.safetensors file in a folder that exists"):
        export_to(tmp_path / "policy.bin")
    with pytest.raises(UserError, match="is not a file that load_policy reads"):
        load_policy(run / "config.json")
    with pytest.raises(UserError, match="holds no exported policy"):
        load_policy(run / "best.safetensors")
    (damaged := tmp_path / "damaged.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="is damaged and cannot be read"):
        load_policy(damaged)
    out, _ = create_folders(PRESETS["catcher"].replace(num_seeds=2), tmp_path / "two")
    with pytest.raises(UserError, match="holds 2 runs: name the folder of one of them: seed0"):
        load_policy(out)
    with pytest.raises(UserError, match="holds 2 runs: name the folder of one of them"):
        export_run(out)
    with pytest.raises(UserError, match="the format 'pt2' is unknown: there are onnx, torch"):
        export_run(run, cast(Any, "pt2"))


def test_a_card_of_another_version_is_refused(tmp_path: Path) -> None:
    config, of = CASES["vector"]
    card = {**describe(RunFolder.at(tmp_path), config, of), "version": 9}
    export_policy(
        File.at(tmp_path / "p.safetensors"), "safetensors", make(CASES["vector"]), of, card
    )
    with pytest.raises(UserError, match="has a card of version 9, expected 1"):
        load_policy(tmp_path / "p.safetensors")


def card_of(case: Case) -> dict[str, Any]:
    return json.loads(json.dumps(describe(RunFolder.at(Path()), *case)))


@pytest.mark.parametrize(
    "text",
    [
        "no JSON",
        "[" * 100_000,
        '{"version": 1}',
        json.dumps({**card_of(CASES["vector"]), "spaces": {"version": 1}}),
        json.dumps({**card_of(CASES["vector"]), "spaces": None, "observation": {"shape": [-8]}}),
        json.dumps(
            {
                **card_of(CASES["vector"]),
                "spaces": None,
                "observation": {"shape": [2**28] * 8, "dtype": "float32"},
            }
        ),
    ],
    ids=["text", "deep", "empty", "spaces", "negative", "huge"],
)
def test_cards_from_files_are_checked(text: str) -> None:
    with pytest.raises(UserError, match=r"^p has a damaged card \(.*\): export it again$") as error:
        read_card(text, Path("p"))
    assert "\n" not in str(error.value)


def test_a_card_without_spaces_describes_observations_as_they_are_stored() -> None:
    card = card_of(CASES["bytes"])
    card.pop("spaces")
    of, options = read_card(json.dumps(card), Path("p"))
    assert of.encoding == CASES["bytes"][1].encoding
    assert options == card["config"]


@pytest.mark.parametrize("where", ["card", "weights"])
def test_a_changed_bit_is_noticed(where: str, tmp_path: Path) -> None:
    file, _ = export(tmp_path, CASES["vector, plain"], "safetensors")
    data = bytearray(file.read_bytes())
    data[-1 if where == "weights" else data.index(b"mean weights are exported")] ^= 1
    file.write_bytes(data)
    with pytest.raises(UserError, match="is damaged and cannot be read"):
        load_policy(file)


def test_onnx_gives_the_environments_own_actions(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    config, _ = CASES["vector, plain"]
    encoding = Encoding.of(spaces.Box(-1, 1, (3,)), spaces.Discrete(2, start=-4))
    of = EnvironmentSpec.of(encoding)
    file, policy = export(tmp_path, (config, of), "onnx")
    assert json.loads(card_path(file).read_text())["actions"]["start"] == -4
    seen = example_observations(policy, of, 20)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (action,) = session.run(["action"], {"observation": seen})
    np.testing.assert_array_equal(action, GreedyPolicy(policy, of)(seen))
    assert set(action) == {-4, -3}


def make_torso(shape: tuple[int, ...], key: jax.Array) -> eqx.Module:
    return eqx.nn.Linear(shape[0], 6, key=key)


OWN_TORSO = (BASE.replace(torso=name_of(make_torso)), spec((4,), np.float32, 3))


@dataclasses.dataclass(frozen=True)
class OwnDistribution(Quantile):
    def values(self, outputs: jax.Array) -> jax.Array:
        return jnp.median(outputs, axis=-1)


def test_unknown_parts_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"torso UserTorso cannot .*--format safetensors takes any"):
        export(tmp_path, OWN_TORSO, "onnx")
    monkeypatch.setitem(DISTRIBUTIONS, "own", OwnDistribution)
    config, interface = CASES["quantiles"]
    own = config.replace(distribution=OwnDistribution())
    with pytest.raises(UserError, match="the distribution OwnDistribution cannot be exported: it"):
        export(tmp_path, (own, interface), "onnx")
    assert not list(tmp_path.iterdir())


def test_safetensors_take_torsos_of_the_user(tmp_path: Path) -> None:
    file, policy = export(tmp_path, OWN_TORSO, "safetensors")
    seen = example_observations(policy, OWN_TORSO[1], 20)
    with pytest.raises(UserError, match=r"names code .*torso python:.*make_torso.* --trust"):
        load_policy(file)
    assert_equal(load_policy(file, trust=True).values(seen), policy, seen)


def test_a_file_that_differs_from_its_policy_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def wrong(torso: Flatten, ops: graph.Ops, x: Any, shape: tuple[int, ...]) -> Any:
        del torso, shape
        return ops.add(x, ops.constant(np.ones(1, np.float32)))

    monkeypatch.setitem(graph.TORSOS, Flatten, wrong)
    with pytest.raises(RuntimeError, match="differs from its policy"):
        export(tmp_path, CASES["vector"], "onnx")
    assert not list(tmp_path.iterdir())


def test_without_the_packages_there_is_one_line(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in ("onnx", "torch"):
        monkeypatch.delitem(sys.modules, f"noisydqn.export.{package}", raising=False)
        monkeypatch.setitem(sys.modules, package, None)
        assert main(["export", str(run), "--format", package]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert f"pip install 'noisydqn[{package}]'" in error
