"""The folder of a run: its files, and how they are read and written."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import msgspec

from noisydqn.config.config import Config
from noisydqn.config.stored import from_stored, to_stored, unusable
from noisydqn.envs.encoding import Encoding
from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.errors import UserError
from noisydqn.files import Place, free_path, given_path, write_beside, write_json
from noisydqn.options import flag

DEFAULT_PARENT = Path("runs")


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """The paths of one seed's run."""

    path: Path

    @property
    def config(self) -> Path:
        """The options."""
        return self.path / "config.json"

    @property
    def spaces(self) -> Path:
        """The environment's spaces, so that its policy can be loaded without it."""
        return self.path / "spaces.json"

    @property
    def final(self) -> Path:
        """The weights after the last update."""
        return self.path / "final.safetensors"

    @property
    def best(self) -> Path:
        """The weights with the highest mean return in an evaluation during training."""
        return self.path / "best.safetensors"

    @property
    def summary(self) -> Path:
        """Results and times."""
        return self.path / "summary.json"

    @property
    def video(self) -> Path:
        """The video of the best weights."""
        return self.path / "policy.mp4"

    @property
    def curves(self) -> Path:
        """Plots of return and noise over the run."""
        return self.path / "curves.png"

    @property
    def metrics(self) -> Path:
        """A row for each chunk of steps."""
        return self.path / "metrics.csv"

    @property
    def episodes(self) -> Path:
        """A row for each training episode."""
        return self.path / "episodes.csv"

    @property
    def evaluations(self) -> Path:
        """A row for each evaluation."""
        return self.path / "evaluations.csv"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard events."""
        return self.path / "tensorboard"

    @property
    def checkpoints(self) -> Path:
        """The checkpoints from which a run is resumed."""
        return self.path / "checkpoints"

    def weights(self, which: str) -> Path:
        """Return the path of the weights called "best" or "final".

        Raises:
            UserError: the file does not exist, or the weights have another name.
        """
        if which not in ("best", "final"):
            raise UserError(f"weights must be best or final, got {which!r}")
        path = self.best if which == "best" else self.final
        if not path.exists():
            places = [self.path, self.path.absolute().parent]  # of seeds trained together
            begun = [place for place in places if RunFolder(place).checkpoints.is_dir()]
            hint = f"resume it: noisydqn resume {begun[0]}" if begun else "train again"
            raise UserError(
                f"{self.path} holds no {path.name}: the run was not saved; {hint}, or name another "
                "folder"
            )
        return path


def _make_out(config: Config, out: Path | None) -> Path:
    """Make the folder of a new run: `out`, which must be new or empty, or one under `runs/`."""
    if out is None:
        while True:
            name = re.sub(r"[^\w.-]+", "-", config.preset)  # one from a file could be a path
            out = free_path(DEFAULT_PARENT / f"{name}-seed{config.run.seed}")
            out.parent.mkdir(parents=True, exist_ok=True)
            try:
                out.mkdir()
            except FileExistsError:  # another run has taken it
                continue
            return out
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file: name a folder that is new or empty")
    if out.is_dir() and any(out.iterdir()):
        what = "already holds a run" if RunFolder(out).config.exists() else "is not empty"
        raise UserError(f"--out {out} {what}, nothing was changed: name another folder")
    out.mkdir(parents=True, exist_ok=True)
    return out


def create_folders(
    config: Config, out: Place | None, spec: EnvironmentSpec | None = None
) -> tuple[Path, list[RunFolder]]:
    """Make the folder of a run and, for several seeds, a folder for each in it.

    Each seed's folder gets its config.

    Args:
        config: config of the run.
        out: the folder, new or empty; None makes a new one under `runs/`.
        spec: the interface of the environment; None leaves it to `write_spaces`.

    Returns:
        The run's folder and that of each seed.

    Raises:
        UserError: `out` is not empty, is a file, or cannot be written to.
    """
    folders: list[RunFolder] = []
    out = None if out is None else given_path(out)
    try:
        out = _make_out(config, out)
        for seed in range(config.run.seed, config.run.seed + config.run.num_seeds):
            folder = RunFolder(out / f"seed{seed}" if config.run.num_seeds > 1 else out)
            folder.path.mkdir(exist_ok=True)
            write_config(folder, config.replace(seed=seed, num_seeds=1))
            if spec is not None:
                write_spaces(folder, spec)
            folders.append(folder)
    except OSError as error:
        raise UserError(
            f"--out {DEFAULT_PARENT if out is None else out} cannot be written to: "
            f"{error.strerror}; name another folder"
        ) from error
    return out, folders


def write_config(folder: RunFolder, config: Config) -> None:
    """Write the config of one seed's run."""
    write_json(folder.config, to_stored(config))


def write_spaces(folder: RunFolder, spec: EnvironmentSpec) -> None:
    """Write the spaces of the environment of one seed's run."""
    write_beside(folder.spaces, spec.encoding.to_json())


def read_spaces(folder: RunFolder) -> EnvironmentSpec | None:
    """Read the interface of the environment of a run; None if the run is older than the file.

    Raises:
        UserError: the file is damaged or of another version.
    """
    try:
        return EnvironmentSpec.of(Encoding.from_json(folder.spaces.read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise unusable(folder.spaces, error) from error


def check_spaces(folder: RunFolder, spec: EnvironmentSpec) -> None:
    """Refuse an environment whose observations or actions differ from those of a run.

    Raises:
        UserError: they differ, or as `read_spaces`.
    """
    stored = read_spaces(folder)
    if stored is None:
        return
    old, new = stored.encoding, spec.encoding
    if (old.observation, old.actions) != (new.observation, new.actions):
        raise UserError(
            f"the environment shows {_shown(new)}, but that of {folder.path} showed {_shown(old)}: "
            "give the environment that it was trained on"
        )


def _shown(encoding: Encoding) -> str:
    kinds = {str(part.stored) for part, _ in encoding.parts}
    return f"{encoding.words} of {'/'.join(sorted(kinds))} and takes {encoding.actions.words}"


def holds_run(path: Place) -> bool:
    """Tell whether a folder holds a run, or runs of several seeds."""
    path = given_path(path)
    return RunFolder(path).config.exists() or any(path.glob("seed*/config.json"))


def check_same(config: Config, path: Path) -> dict[str, Any]:
    """Check that a folder holds a run with the options of `config`.

    Returns:
        The options that may differ: the budget, and when checkpoints are saved and how many are
        kept.

    Raises:
        UserError: other options differ, or as `open_folders`.
    """
    runs = open_folders(path)
    stored = runs[0][1].replace(num_seeds=len(runs))
    wanted = config.flat()
    free = {name: wanted[name] for name in ("steps", "checkpoint_seconds", "keep")}
    stored = stored.replace(**free).flat()
    words = {"preset": "preset (NAME)", "env": "environment (NAME)"}  # which have no flag
    differing = [words.get(x, flag(x)) for x in wanted if stored.get(x) != wanted[x]]
    if differing:
        raise UserError(
            f"--out {path} holds a run with other {', '.join(differing)}: give the same options, "
            "or name another folder"
        )
    return free


def refuse_without_checkpoints(path: Path, folder: RunFolder) -> None:
    """Refuse to resume a run that was trained, but whose checkpoints are missing.

    Args:
        path: the folder that the user named.
        folder: the folder of a seed in it.

    Raises:
        UserError: the checkpoints are missing.
    """
    places = [RunFolder(path).checkpoints, folder.checkpoints]
    if any(place.is_dir() for place in places) or not folder.metrics.exists():
        return
    parent = path.absolute().parent
    together = RunFolder(parent).checkpoints.is_dir()
    hint = f"it was trained together with others: resume {parent}" if together else "train anew"
    raise UserError(f"{folder.path} holds no checkpoints, nothing was changed: {hint}")


def read_summary(folder: RunFolder) -> dict[str, Any]:
    """Read the summary of a run; {} if it is missing or cannot be read."""
    try:
        return msgspec.json.decode(folder.summary.read_bytes(), type=dict[str, Any])
    except (OSError, ValueError):
        return {}


def open_folders(path: Place) -> list[tuple[RunFolder, Config]]:
    """Find the run in a folder, or the runs of several seeds in its sub-folders, by seed.

    Raises:
        UserError: there is no run, or a config cannot be read.
    """
    path = given_path(path, "DIR")
    try:
        if not path.is_dir():
            raise UserError(f"{path} is not a folder: name the folder of a run (train's --out)")
        places = [path] if RunFolder(path).config.exists() else list(path.glob("seed*"))
        folders = [RunFolder(place) for place in places if RunFolder(place).config.exists()]
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    if not folders:
        raise UserError(f"{path} holds no run (no config.json): name a folder that train made")
    runs = [(folder, read_config(folder.config)) for folder in folders]
    return sorted(runs, key=lambda run: run[1].run.seed)


def open_folder(path: Place) -> tuple[RunFolder, Config]:
    """Find the only run in a folder.

    Raises:
        UserError: the folder holds runs of several seeds, or as `open_folders`.
    """
    runs = open_folders(path)
    if len(runs) > 1:
        names = ", ".join(folder.path.name for folder, _ in runs)
        raise UserError(f"{path} holds {len(runs)} runs: name the folder of one of them: {names}")
    return runs[0]


def load_config(path: Place) -> Config:
    """Load the options of a run, to start another: `train(load_config("runs/one"), seed=1)`.

    Args:
        path: a run's folder or its `config.json`. A folder of several seeds gives the options that
            all of them were started with.

    Raises:
        UserError: there is no run, or its config cannot be used.
    """
    path = given_path(path, "the run")
    if path.is_file():
        return read_config(path)
    if not path.exists():
        raise UserError(f"{path} does not exist: name a run's folder or its config.json")
    runs = open_folders(path)
    return runs[0][1].replace(num_seeds=len(runs))


def read_config(path: Path) -> Config:
    """Read a `config.json`.

    Raises:
        UserError: it is damaged, of another version, or has options that do not exist.
    """
    try:
        stored: dict[str, Any] = msgspec.json.decode(path.read_bytes(), type=dict)
        if "version" not in stored:
            raise ValueError("it has no version")
    except (OSError, ValueError, RecursionError) as error:
        raise unusable(path, error) from error
    return from_stored(stored, path)
