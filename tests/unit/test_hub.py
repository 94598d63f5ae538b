"""Sharing runs, against a stub of the hub's client: there is no network in tests."""

import shutil
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np
import pytest
from tests.runs import create_folders

from noisydqn import PRESETS, UserError, hub, load_policy
from noisydqn.cli import main
from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.runners import build
from noisydqn.runs.weights import save_policy

SPEC = EnvironmentSpec(jax.ShapeDtypeStruct((42, 42), np.uint8), 3, ("left", "right", "stay"))


class Hub:
    """The calls of `huggingface_hub.HfApi` that are used, with folders for repositories."""

    def __init__(self, root: Path) -> None:
        self.root, self.revisions = root, list[str | None]()

    def whoami(self) -> dict[str, Any]:
        return {"name": "me"}

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
        assert exist_ok
        (self.root / repo_id).mkdir(parents=True, exist_ok=True)
        (self.root / repo_id / ".private").write_text(str(private))

    def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> None:
        assert commit_message == "noisydqn/Catcher-v0, shared by me"
        shutil.copytree(folder_path, self.root / repo_id, dirs_exist_ok=True)

    def list_repo_files(self, repo_id: str, *, revision: str | None) -> list[str]:
        self.revisions.append(revision)
        files = [path.name for path in (self.root / repo_id).iterdir()]
        return [*files, "../outside.txt", "nested/policy.mp4"]

    def hf_hub_download(
        self, repo_id: str, filename: str, *, revision: str | None, cache_dir: str
    ) -> str:
        self.revisions.append(revision)
        link = Path(cache_dir) / filename  # as in the client's cache
        link.symlink_to(self.root / repo_id / filename)
        return str(link)


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The hub."""
    stub = Hub(tmp_path / "hub")
    monkeypatch.setattr(hub.huggingface_hub, "HfApi", lambda: stub)
    monkeypatch.chdir(tmp_path)
    return stub


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder."""
    config = PRESETS["catcher"].replace(hidden=(8,))
    out, (folder,) = create_folders(config, tmp_path / "run", SPEC)
    for path in (folder.best, folder.final):
        save_policy(path, build.make_policy(config.program, SPEC, jax.random.key(0)))
    evaluation = {"episodes": 10, "mean_return": 274.5, "caught_fraction": 0.9993}
    folder.summary.write_json({"steps": 64_000, "evaluation": evaluation})
    folder.video.path.write_bytes(b"film")
    (out / "notes.txt").write_text("mine alone")
    return out


def test_a_run_survives_push_and_pull(
    stub: Hub, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", str(run), "me/catcher", "--private"]) == 0
    assert capsys.readouterr().out == "https://huggingface.co/me/catcher\n"
    there = {path.name for path in (stub.root / "me/catcher").iterdir()}
    needed = {"config.json", "spaces.json", "best.safetensors", "final.safetensors"}
    assert there == {"README.md", "summary.json", "policy.mp4", ".private", *needed}
    assert (stub.root / "me/catcher/.private").read_text() == "True"

    for name in ("runs/catcher", "runs/catcher-2"):  # nothing is overwritten
        assert main(["pull", "me/catcher", "--revision", "main"]) == 0
        assert capsys.readouterr().out == f"{name}\n"
    assert set(stub.revisions) == {"main"}
    fetched = tmp_path / "runs/catcher"
    assert {path.name for path in fetched.iterdir()} == there - {"README.md", ".private"}
    assert not any(path.is_symlink() for path in fetched.iterdir())
    seen = np.random.default_rng(0).integers(0, 256, (3, 42, 42), np.uint8)
    np.testing.assert_array_equal(load_policy(fetched).values(seen), load_policy(run).values(seen))
    assert not (tmp_path / "outside.txt").exists()


def test_the_card_has_results_in_the_hubs_format(stub: Hub, run: Path) -> None:
    hub.push(run, "me/catcher")
    card = hub.ModelCard.load(stub.root / "me/catcher/README.md")
    data: Any = card.data
    results = data.eval_results
    found = {result.metric_type: result.metric_value for result in results}
    assert found == {"mean_return": 274.5, "caught_fraction": 0.9993}
    assert {result.dataset_type for result in results} == {"noisydqn/Catcher-v0"}
    assert data.library_name == "noisydqn"
    assert "policy.mp4" in card.text
    assert "64,000 steps" in card.text


def raising(error: Exception) -> Any:
    def call(*args: Any, **kwargs: Any) -> NoReturn:
        del args, kwargs
        raise error

    return call


def test_says_when_nobody_is_logged_in(
    stub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stub, "whoami", raising(hub.LocalTokenNotFoundError("no token")))
    with pytest.raises(UserError, match="not logged in to the hub: run `hf auth login`"):
        hub.push(run, "me/catcher")
    assert not stub.root.exists()
    monkeypatch.setattr(stub, "whoami", raising(ConnectionError("no network")))
    with pytest.raises(UserError, match=r"the hub refused the log-in or .*\(no network\)"):
        hub.push(run, "me/catcher")


def test_says_when_the_hub_refuses(stub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stub, "upload_folder", raising(OSError("not yours")))
    with pytest.raises(UserError, match=r"the hub refused you/catcher .*\(not yours\)"):
        hub.push(run, "you/catcher")
    with pytest.raises(UserError, match="the hub refused you/nothing"):
        hub.pull("you/nothing")


def test_refuses_bad_names_and_folders(stub: Hub, run: Path, tmp_path: Path) -> None:
    for name in ("run", "../run", "me/../run", "me/", "a/b/c"):
        with pytest.raises(UserError, match="is not a repository: give USER/NAME"):
            hub.push(run, name)
        with pytest.raises(UserError, match="is not a repository: give USER/NAME"):
            hub.pull(name)
    with pytest.raises(UserError, match="is not empty, nothing was changed"):
        hub.pull("me/catcher", run)
    (stub.root / "me/other").mkdir(parents=True)
    with pytest.raises(UserError, match="me/other holds no run of noisydqn"):
        hub.pull("me/other")
    out, _ = create_folders(PRESETS["catcher"].replace(num_seeds=2), tmp_path / "two")
    with pytest.raises(UserError, match="holds 2 runs: name the folder of one of them"):
        hub.push(out, "me/catcher")
    (run / "best.safetensors").unlink()
    with pytest.raises(UserError, match=r"holds no best\.safetensors"):
        hub.push(run, "me/catcher")
