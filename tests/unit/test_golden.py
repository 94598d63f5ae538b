"""Files that older versions wrote are read: each folder under `tests/golden` is of one format."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import noisydqn
from noisydqn.config.stored import VERSION, from_stored

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).parent.parent / "golden"
RUNS = ["v1/device", "v1/host", "v1/implicit", "v3/parallel"]


@pytest.mark.parametrize("name", RUNS)
def test_a_run_of_an_older_format_is_loaded_and_evaluated(name: str) -> None:
    folder = GOLDEN / name
    policy = noisydqn.load_policy(folder)
    observation = np.array([0.01, 0.02, -0.03, 0.04], np.float32)
    assert policy.predict(observation)[0] in (0, 1)
    summary = json.loads((folder / "summary.json").read_text())
    evaluation = noisydqn.evaluate(folder)
    assert evaluation.mean_return == summary["evaluation"]["mean_return"]


@pytest.mark.parametrize("name", RUNS)
def test_a_run_of_an_older_format_is_resumed(name: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(GOLDEN / name, out)
    before = json.loads((out / "summary.json").read_text())
    noisydqn.resume(out, steps=before["steps"] + 200, quiet=True)
    after = json.loads((out / "summary.json").read_text())
    assert after["steps"] == before["steps"] + 200
    assert after["updates"] > before["updates"]
    assert json.loads((out / "config.json").read_text())["version"] == VERSION
    episodes = (out / "episodes.csv").read_text()
    assert episodes.startswith((GOLDEN / name / "episodes.csv").read_text())


@pytest.mark.parametrize("name", ["device", "exported", "implicit"])
def test_an_exported_policy_of_format_1_plays_as_its_run(name: str) -> None:
    exported = noisydqn.load_policy(GOLDEN / "v1" / f"{name}.safetensors")
    run = noisydqn.load_policy(GOLDEN / "v1" / {"exported": "host"}.get(name, name))
    observations = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)
    np.testing.assert_allclose(
        exported.values(observations), run.values(observations), rtol=1e-5, atol=1e-6
    )


def test_layer_norm_of_format_2_leaves_convolutions_alone() -> None:
    """An option normalizes them since; a config that lacks it means the network that it had."""
    file = GOLDEN / "v2" / "convolutions.safetensors"
    options = json.loads(file.with_suffix(".safetensors.json").read_text())["config"]
    assert options["layer_norm"]
    assert "torso_layer_norm" not in options
    seen = (np.arange(2 * 12 * 13).reshape(2, 12, 13) * 7 % 256).astype(np.uint8)
    values = [[-0.1138113, 0.1590267, 0.0325969], [-0.1022663, 0.1200133, 0.0041933]]
    policy = noisydqn.load_policy(file)
    np.testing.assert_allclose(policy.values(seen), values, rtol=1e-5, atol=1e-6)
    assert not from_stored(options, file).admit(trust=False).network.torso_layer_norm


def presets_of(form: str) -> dict[str, Any]:
    return json.loads((GOLDEN / form / "presets.json").read_text())


@pytest.mark.parametrize("name", presets_of("v2"))
def test_configs_of_format_1_and_2_mean_the_same(name: str) -> None:
    old, new = (from_stored(presets_of(form)[name], Path(form)) for form in ("v1", "v2"))
    assert old.options == new.options


NOISE_OF_FORMAT_4: dict[str, Any] = {
    "index_dim": 8,
    "prior_scale": 0.0,
    "update_noise": "sample",
    "noise_samples": 1,
    "matched_targets": False,
}
RUN_OF_FORMAT_4: dict[str, Any] = {"track": [], "tuned_seeds": []}
PARTS_OF_FORMAT_4: dict[str, Any] = {"images": ["auto"], "vector_widths": [], "action_bins": None}
RUNNER_OF_FORMAT_4: dict[str, Any] = {
    "devices": 1,
    "actors": 0,
    "actor_mode": "synchronous",
    "actor_steps": 16,
    "actor_lag": 1,
}
GOAL_OF_FORMAT_4: dict[str, Any] = {
    "noise_goal": None,
    "noise_goal_start": 1.0,
    "noise_goal_steps": 20_000,
    "noise_goal_share": None,
}


@pytest.mark.parametrize("form", ["v3", "v4"])
@pytest.mark.parametrize("name", presets_of("v3"))
def test_configs_of_later_formats_mean_the_same(form: str, name: str) -> None:
    """In format 3 sigma learned as fast as the rest; in format 4 noise had no index and no goal."""
    stored = presets_of(form)[name]
    options = {option: x for option, x in stored.items() if option != "version"}
    expected = options | NOISE_OF_FORMAT_4 | RUN_OF_FORMAT_4 | PARTS_OF_FORMAT_4
    expected |= RUNNER_OF_FORMAT_4
    if form == "v3":
        expected["sigma_rate"] = 1.0
    if stored["exploration"] in ("noisy", "both"):
        expected |= GOAL_OF_FORMAT_4
    if stored["learner"] == "replay":
        expected["target_perturbation"] = 0.0
    upgraded = from_stored(stored, Path(form))
    assert json.loads(json.dumps(upgraded.options)) == expected
