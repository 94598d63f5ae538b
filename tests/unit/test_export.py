"""Exported policies play like the originals."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from tests.exports import BASE, CASES, MASKED, OBSERVATIONS, Case, assert_equal, export, spec

from noisydqn import UserError, load_policy
from noisydqn.distributions import DISTRIBUTIONS, Quantile
from noisydqn.envs.encoding import Encoding
from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.export import card_path, example_masks, example_observations, graph
from noisydqn.imports import name_of
from noisydqn.nets.torsos import Flatten
from noisydqn.play.policy import GreedyPolicy

pytestmark = pytest.mark.slow

TRACED = [
    *("vector", "bits", "frames in color", "normalized bytes", "atoms", "quantiles, plain"),
    *("implicit quantiles", "streams", "normalized layers", "impala"),
    *("btr", "hadamax", "normalized residual convolutions"),
]
"""Cases that show PyTorch every step."""


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


@pytest.mark.parametrize("case", MASKED.values(), ids=MASKED)
def test_onnx_takes_action_masks(case: Case, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    file, policy = export(tmp_path, case, "onnx")
    seen = example_observations(policy, case[1], OBSERVATIONS)
    masks = example_masks(case[1], OBSERVATIONS)
    assert masks is not None
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    given = {"observation": seen, "action_mask": masks}
    ours, action = session.run(["values", "action"], given)
    assert_equal(ours, policy, seen, masks)
    np.testing.assert_array_equal(np.isfinite(ours), masks)
    assert masks[np.arange(OBSERVATIONS), action].all()
    np.testing.assert_array_equal(action, ours.argmax(-1))


def test_torch_takes_action_masks(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    case = MASKED["atoms"]
    file, policy = export(tmp_path, case, "torch")
    seen = example_observations(policy, case[1], OBSERVATIONS)
    masks = example_masks(case[1], OBSERVATIONS)
    assert masks is not None
    program = torch.export.load(file).module()
    ours = program(torch.from_numpy(seen), torch.from_numpy(masks)).detach().numpy()
    assert_equal(ours, policy, seen, masks)


def test_safetensors_take_action_masks(tmp_path: Path) -> None:
    case = MASKED["streams"]
    file, policy = export(tmp_path, case, "safetensors")
    seen, masks = example_observations(policy, case[1], 20), example_masks(case[1], 20)
    loaded = load_policy(file)
    assert loaded.spec.masked
    assert_equal(loaded.values(seen, action_mask=masks), policy, seen, masks)
    with pytest.raises(UserError, match="give action_mask"):
        loaded.predict(seen)


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
