"""Exported policies: what `load_policy` gives, the command, and the cards."""

import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from tests.exports import CASES, Case, export, make
from tests.runs import create_folders

from noisydqn import PRESETS, UserError, load_policy
from noisydqn.cli import main
from noisydqn.envs.encoding import Encoding
from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.export import describe, export_policy, export_run
from noisydqn.folders import File
from noisydqn.learner.agent import values
from noisydqn.play.policy import GreedyPolicy
from noisydqn.runners import build
from noisydqn.runs.exported import read_card
from noisydqn.runs.folder import RunFolder
from noisydqn.runs.weights import save_policy

pytestmark = pytest.mark.slow


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


# Runs and cards


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
