"""A stub of the hub's client, a run to share, and what is needed to test both."""

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import jax
import numpy as np
import pytest
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

from noisydqn import PRESETS, hub
from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.learner.policy import Policy
from noisydqn.runners import build
from noisydqn.runs.weights import save_policy
from tests.runs import create_folders

SPEC = EnvironmentSpec(jax.ShapeDtypeStruct((42, 42), np.uint8), 3, ("left", "right", "stay"))
NAMES = {
    "config.json",
    "spaces.json",
    "best.safetensors",
    "final.safetensors",
    "summary.json",
    "policy.mp4",
    "curves.png",
    "metrics.csv",
    "episodes.csv",
    "evaluations.csv",
}
CSVS = {
    "metrics.csv": "step,seconds,updates\n100,1.0,50\n",
    "episodes.csv": "step,return,length,success\n90,1.0,9,\n",
    "evaluations.csv": "",  # before the first
}
RESPONSE: Any = SimpleNamespace(headers={}, request=None)


class Hub:
    """The calls of `huggingface_hub.HfApi` that are used, with a folder for each commit.

    `sizes` replaces those that are listed, `meanwhile` is called after each download.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.private = root, list[bool]()
        self.asked: list[str | None] = []
        self.sizes: dict[str, int | None] = {}
        self.others: list[str] = []
        self.meanwhile: Callable[[Path], object] = lambda _: None

    def whoami(self) -> dict[str, Any]:
        return {"name": "me"}

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
        assert exist_ok
        (self.root / repo_id).mkdir(parents=True, exist_ok=True)
        self.private.append(private)

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> None:
        assert commit_message == "noisydqn/Catcher-v0, shared by me"
        self.commit(repo_id, Path(folder_path))

    def commit(self, repo_id: str, files: Path) -> str:
        """Make a commit that holds these files and no others."""
        repository = self.root / repo_id
        repository.mkdir(parents=True, exist_ok=True)
        commit = f"{len(list(repository.iterdir())):040x}"
        shutil.copytree(files, repository / commit)
        return commit

    def newest(self, repo_id: str) -> Path:
        """The folder of the newest commit."""
        if not (self.root / repo_id).is_dir():
            raise RepositoryNotFoundError("404", response=RESPONSE)
        return max((self.root / repo_id).iterdir())

    def model_info(self, repo_id: str, *, revision: str | None, files_metadata: bool) -> Any:
        assert files_metadata
        self.asked.append(revision)
        newest = self.newest(repo_id)
        folder = newest if revision in (None, "main") else newest.with_name(str(revision))
        if not folder.exists():
            raise RevisionNotFoundError("404", response=RESPONSE)
        sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
        listed: dict[str, Any] = sizes | dict.fromkeys(self.others, 1) | self.sizes
        files = [SimpleNamespace(rfilename=name, size=size) for name, size in listed.items()]
        return SimpleNamespace(sha=folder.name, siblings=files)

    def hf_hub_download(
        self, repo_id: str, filename: str, *, revision: str, local_dir: Path
    ) -> str:
        assert filename in NAMES
        self.asked.append(revision)
        place = local_dir / filename
        shutil.copyfile(self.root / repo_id / revision / filename, place)
        (local_dir / ".cache").mkdir(exist_ok=True)  # as the client does
        self.meanwhile(place)
        return str(place)


def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """Put a stub in the place of the hub's client."""
    stub = Hub(tmp_path / "hub")
    monkeypatch.setattr(hub.huggingface_hub, "HfApi", lambda: stub)
    monkeypatch.chdir(tmp_path)
    return stub


def make_run(path: Path) -> Path:
    """Make a run's folder with all that is shared, and a file of the user's."""
    config = PRESETS["catcher"].replace(hidden=(8,))
    out, (folder,) = create_folders(config, path, SPEC)
    for file in (folder.best, folder.final):
        save_policy(file, _policy())
    evaluation = {"episodes": 10, "mean_return": 274.5, "caught_fraction": 0.9993}
    folder.summary.write_json({"steps": 64_000, "evaluation": evaluation})
    folder.video.write(b"\0\0\0\x18ftypisom film")
    folder.curves.write(b"\x89PNG\r\n\x1a\n picture")
    for name, text in CSVS.items():
        (out / name).write_text(text)
    (out / "notes.txt").write_text("mine alone")
    return out


@cache
def _policy() -> Policy:
    program = PRESETS["catcher"].replace(hidden=(8,)).program
    return build.make_policy(program, SPEC, jax.random.key(0))


def tree(folder: Path) -> dict[Path, bytes]:
    """Every file under a folder; of a folder the empty bytes."""
    return {path: path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


def raising(error: BaseException) -> Any:
    def call(*args: Any, **kwargs: Any) -> NoReturn:
        del args, kwargs
        raise error

    return call
