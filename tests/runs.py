"""Small runs, their results, and folders of runs that were not trained."""

import json
from pathlib import Path
from typing import Any

import pytest

import noisydqn
from noisydqn import Config
from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.errors import QuitError
from noisydqn.runs.folder import RunFolder, write_config, write_spaces
from noisydqn.runs.session import Session


def create_folders(
    config: Config, out: Path, spec: EnvironmentSpec | None = None
) -> tuple[Path, list[RunFolder]]:
    """Make the folder of a run and of each seed, as `train` does."""
    whole, first = RunFolder.at(out), config.run.seed
    names = [f"seed{first + i}" for i in range(config.run.num_seeds)]
    folders = [whole.seed(name) for name in names] if len(names) > 1 else [whole]
    for i, folder in enumerate(folders):
        folder.files.make()
        write_config(folder, config.replace(seed=first + i, num_seeds=1))
        if spec is not None:
            write_spaces(folder, spec)
    return out, folders


TINY: dict[str, Any] = {
    "steps": 480,
    "chunk_steps": 40,
    "hidden": (8,),
    "num_envs": 2,
    "batch_size": 4,
    "learning_starts": 40,
    "replay_capacity": 100,
    "evaluation_episodes": 2,
    "evaluation_every": 100,
    "video_seconds": 0,
    "quiet": True,
}


OF_REPLAY = {"batch_size", "learning_starts", "replay_capacity"}
"""The options in it that only the replay learner has."""
ROLLOUT = {"rollout_steps": 8, "minibatches": 4, "epochs": 2}
"""Small options of the parallel learner: a chunk of 40 steps is two rollouts and a half."""


def tiny(small: dict[str, Any] = TINY, **changes: Any) -> dict[str, Any]:
    """Small options, some of them changed; of the parallel learner if it is named."""
    if changes.get("learner") == "parallel":
        small = {name: x for name, x in small.items() if name not in OF_REPLAY} | ROLLOUT
    return small | changes


WALL_CLOCK = ("train_seconds", "steps_per_second", "solved_at_seconds")


def flags(options: dict[str, Any]) -> list[str]:
    """Options as the command line takes them."""
    argv = ["--quiet"]
    for name, value in options.items():
        if name != "quiet":
            values = value if isinstance(value, tuple) else (value,)
            argv += [f"--{name.replace('_', '-')}", *map(str, values)]
    return argv


class KilledError(QuitError):
    """Stands for a kill: nothing is saved any more."""


def train_until(chunks: int, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
    """Train, and die after some chunks, the last of which is not saved."""
    take, count = Session._take, [0]  # pyright: ignore[reportPrivateUsage]

    def dying(self: Session, *args: Any) -> None:
        self.writer.wait()
        take(self, *args)
        count[0] += 1
        if count[0] == chunks:
            raise KilledError

    monkeypatch.setattr(Session, "_take", dying)
    with pytest.raises(KilledError):
        noisydqn.train(**options)
    monkeypatch.undo()


def results(folder: Path) -> dict[str, Any]:
    """What a run came to, but for times."""
    summary = json.loads((folder / "summary.json").read_text())
    tables = {
        name: [
            [x for x, key in zip(line.split(","), header, strict=True) if "second" not in key]
            for line in lines
        ]
        for name in ("metrics", "episodes", "evaluations")
        for header, *lines in [
            [line.strip() for line in (folder / f"{name}.csv").read_text().splitlines() or [""]]
        ]
        for header in [header.split(",")]
    }
    files = ("final.safetensors", "best.safetensors")
    return {
        "summary": {key: value for key, value in summary.items() if key not in WALL_CLOCK},
        **{name: (folder / name).read_bytes() for name in files},
        **tables,
    }
