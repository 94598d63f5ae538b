"""Sharing runs, against a stub of the hub's client: there is no network in tests."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.hub import NAMES, Hub, make_run, raising, serve
from tests.runs import create_folders

from noisydqn import PRESETS, UserError, hub, load_policy
from noisydqn.cli import main


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The hub."""
    return serve(tmp_path, monkeypatch)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder."""
    return make_run(tmp_path / "run")


def test_a_run_survives_push_and_pull(
    stub: Hub, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", str(run), "me/catcher", "--private"]) == 0
    assert capsys.readouterr().out == "https://huggingface.co/me/catcher\n"
    there = stub.newest("me/catcher")
    assert {path.name for path in there.iterdir()} == {"README.md", *NAMES}
    assert stub.private == [True]

    stub.others = ["../outside.txt", "/outside.txt", "nested/policy.mp4", "Config.json"]
    for name in ("runs/catcher", "runs/catcher-2"):  # nothing is overwritten
        assert main(["pull", "me/catcher", "--revision", "main"]) == 0
        assert capsys.readouterr().out == f"{name}\n"
    fetched = tmp_path / "runs/catcher"
    assert {path.name for path in fetched.iterdir()} == {"README.md", *NAMES}
    assert {path.name for path in fetched.parent.iterdir()} == {"catcher", "catcher-2"}
    for name in NAMES:
        assert (fetched / name).read_bytes() == (run / name).read_bytes()
    seen = np.random.default_rng(0).integers(0, 256, (3, 42, 42), np.uint8)
    np.testing.assert_array_equal(load_policy(fetched).values(seen), load_policy(run).values(seen))


def test_a_pulled_run_says_which_commit_it_is(stub: Hub, run: Path, tmp_path: Path) -> None:
    first = stub.commit("me/catcher", run)
    (run / "summary.json").write_text('{"steps": 1}')
    second = stub.commit("me/catcher", run)
    for revision, commit in ((None, second), (first, first)):
        fetched = hub.pull("me/catcher", tmp_path / commit, revision=revision)
        readme = (fetched / "README.md").read_text()
        assert f"noisydqn pull me/catcher --revision {commit}\n" in readme
    assert hub.push(fetched, "me/again")  # whose README is the card
    assert "64,000 steps" in (stub.newest("me/again") / "README.md").read_text()


def test_all_files_are_of_one_commit(stub: Hub, run: Path, tmp_path: Path) -> None:
    """Even if the branch gets a new one meanwhile."""
    commit = stub.commit("me/catcher", run)
    other = shutil.copytree(run, tmp_path / "other")
    (other / "summary.json").write_text("{}")
    stub.meanwhile = lambda _: stub.commit("me/catcher", other)
    fetched = hub.pull("me/catcher", revision="main")
    assert (fetched / "summary.json").read_bytes() == (run / "summary.json").read_bytes()
    assert stub.asked == ["main", *[commit] * len(NAMES)]


def test_a_run_needs_no_more_than_config_and_weights(stub: Hub, run: Path) -> None:
    for name in NAMES - {"config.json", "best.safetensors"}:
        (run / name).unlink()
    hub.push(run, "me/catcher")
    assert "not evaluated" in (stub.newest("me/catcher") / "README.md").read_text()
    fetched = hub.pull("me/catcher")
    assert {x.name for x in fetched.iterdir()} == {"README.md", "config.json", "best.safetensors"}


def test_runs_of_older_versions_are_shared(stub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("device", "host", "implicit"):
        stub.commit(f"me/{name}", Path(__file__).parents[1] / "golden/v1" / name)
        assert load_policy(hub.pull(f"me/{name}"))
    (stub.newest("me/host") / "metrics.csv").write_text("steps,seconds,updates\n")
    assert hub.pull("me/host")
    monkeypatch.setattr(stub, "upload_folder", lambda **_: None)
    assert hub.push(Path("runs/host"), "me/again")


def test_pull_into_an_empty_folder(
    stub: Hub, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That stays the same one: it may be where the shell is."""
    stub.commit("me/catcher", run)
    out = tmp_path / "empty"
    out.mkdir()
    monkeypatch.chdir(out)
    assert hub.pull("me/catcher", Path()) == Path()
    assert {path.name for path in Path().iterdir()} == {"README.md", *NAMES}
    (tmp_path / "link").symlink_to(tmp_path / "also")
    (tmp_path / "also").mkdir()
    hub.pull("me/catcher", tmp_path / "link")
    assert (tmp_path / "also/config.json").exists()


def test_the_card_has_results_in_the_hubs_format(stub: Hub, run: Path) -> None:
    hub.push(run, "me/catcher")
    card = hub.ModelCard.load(stub.newest("me/catcher") / "README.md")
    data: Any = card.data
    results = data.eval_results
    found = {result.metric_type: result.metric_value for result in results}
    assert found == {"mean_return": 274.5, "caught_fraction": 0.9993}
    assert {result.dataset_type for result in results} == {"noisydqn/Catcher-v0"}
    assert data.library_name == "noisydqn"
    assert "policy.mp4" in card.text
    assert "64,000 steps" in card.text


def test_says_when_nobody_is_logged_in(
    stub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stub, "whoami", raising(hub.LocalTokenNotFoundError("no token")))
    with pytest.raises(UserError, match="not logged in to the hub: run `hf auth login`"):
        hub.push(run, "me/catcher")
    assert not stub.root.exists()
    monkeypatch.setattr(stub, "whoami", raising(ConnectionError("no network")))
    with pytest.raises(UserError, match=r"the hub refused the log-in or .*no network\)"):
        hub.push(run, "me/catcher")


def test_says_when_the_hub_refuses(stub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stub, "upload_folder", raising(OSError("not yours")))
    with pytest.raises(UserError, match=r"the hub refused you/catcher .*not yours\): try again"):
        hub.push(run, "you/catcher")
    with pytest.raises(UserError, match="you/nothing is not on the hub, or not for you to see"):
        hub.pull("you/nothing")
    stub.commit("me/catcher", run)
    with pytest.raises(UserError, match="me/catcher has no such revision: give a branch, a tag"):
        hub.pull("me/catcher", revision="v9")
    monkeypatch.setattr(stub, "model_info", raising(RuntimeError("not\nhttp")))  # of its parts
    with pytest.raises(UserError, match=r"refused me/catcher .*\(RuntimeError: not http\): try"):
        hub.pull("me/catcher")
    assert not Path("runs").exists()


@pytest.mark.usefixtures("stub")
def test_refuses_bad_names_and_folders(run: Path, tmp_path: Path) -> None:
    for name in ("run", "../run", "me/../run", "me/", "a/b/c"):
        with pytest.raises(UserError, match="is not a repository: give USER/NAME"):
            hub.push(run, name)
        with pytest.raises(UserError, match="is not a repository: give USER/NAME"):
            hub.pull(name)
    with pytest.raises(UserError, match="is not empty, nothing was changed"):
        hub.pull("me/catcher", run)
    with pytest.raises(UserError, match="is a file: name a folder that is new or empty"):
        hub.pull("me/catcher", run / "config.json")
    (tmp_path / "nowhere").symlink_to(tmp_path / "missing")
    with pytest.raises(UserError, match="is a file: name a folder that is new or empty"):
        hub.pull("me/catcher", tmp_path / "nowhere")
    out, _ = create_folders(PRESETS["catcher"].replace(num_seeds=2), tmp_path / "two")
    with pytest.raises(UserError, match="holds 2 runs: name the folder of one of them"):
        hub.push(out, "me/catcher")
    (run / "best.safetensors").unlink()
    with pytest.raises(UserError, match=r"holds no best\.safetensors"):
        hub.push(run, "me/catcher")
