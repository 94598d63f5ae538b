"""The folder of a run: its files, and how they are read and written."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import msgspec

from noisydqn.config.config import Config
from noisydqn.config.gate import StoredConfig
from noisydqn.config.stored import from_stored, to_stored, unusable
from noisydqn.envs.encoding import Encoding
from noisydqn.envs.host import HostEnvironment
from noisydqn.envs.images import NONE
from noisydqn.envs.protocol import Environment
from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.errors import UserError
from noisydqn.files import Place, free_path, given_path
from noisydqn.folders import File, Folder, json_bytes

DEFAULT_PARENT = Path("runs")
COMPARISON = "compare.json"
"""The file of a comparison, in the folder that holds those of its runs."""
MAX_JSON_BYTES = 2**24
SEED = re.compile(r"seed[0-9]+")
"""Names of the folders of seeds that were trained together."""
SEED_OF_STUDY = re.compile(r"seed-[0-9]+")
"""Names of the folders of seeds in a comparison or a tuning."""


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """The files of one seed's run."""

    files: Folder

    @staticmethod
    def at(path: Path | str) -> "RunFolder":
        """Return the run in the folder of that path, which need not exist."""
        return RunFolder(Folder(path))

    @property
    def path(self) -> Path:
        """The path of the folder, for messages."""
        return self.files.path

    def seed(self, name: str) -> "RunFolder":
        """Return the folder of one seed in that of several."""
        return RunFolder(self.files.folder(name))

    @property
    def config(self) -> File:
        """The config."""
        return self.files.file("config.json")

    @property
    def spaces(self) -> File:
        """The environment's spaces, so that its policy can be loaded without it."""
        return self.files.file("spaces.json")

    @property
    def final(self) -> File:
        """The weights after the last update."""
        return self.files.file("final.safetensors")

    @property
    def best(self) -> File:
        """The weights with the highest mean return in an evaluation during training."""
        return self.files.file("best.safetensors")

    @property
    def summary(self) -> File:
        """Results and times."""
        return self.files.file("summary.json")

    @property
    def video(self) -> File:
        """The video of the best weights."""
        return self.files.file("policy.mp4")

    @property
    def curves(self) -> File:
        """Plots of return and noise over the run."""
        return self.files.file("curves.png")

    @property
    def report(self) -> File:
        """The page about the run."""
        return self.files.file("report.html")

    @property
    def metrics(self) -> File:
        """A row for each chunk of steps."""
        return self.files.file("metrics.csv")

    @property
    def episodes(self) -> File:
        """A row for each training episode."""
        return self.files.file("episodes.csv")

    @property
    def evaluations(self) -> File:
        """A row for each evaluation."""
        return self.files.file("evaluations.csv")

    @property
    def tensorboard(self) -> Folder:
        """TensorBoard events."""
        return self.files.folder("tensorboard")

    @property
    def tracking(self) -> File:
        """The id by which services that track experiments know the run."""
        return self.files.file("tracking.json")

    @property
    def results(self) -> list[File]:
        """All files that training makes, but for checkpoints and TensorBoard events."""
        tables = [self.metrics, self.episodes, self.evaluations]
        shown = [self.video, self.curves, self.report]
        return [self.final, self.best, self.summary, *shown, *tables, self.tracking]

    @property
    def checkpoints(self) -> Folder:
        """The checkpoints from which a run is resumed."""
        return self.files.folder("checkpoints")

    @property
    def start(self) -> Folder:
        """What the run started from, if it was another run, in the form of a checkpoint."""
        return self.files.folder("start")

    def weights(self, which: str) -> File:
        """Return the file of the weights called "best" or "final".

        Raises:
            UserError: the file does not exist, or the weights have another name.
        """
        if which not in ("best", "final"):
            raise UserError(f"weights must be best or final, got {which!r}")
        file = self.best if which == "best" else self.final
        if not file.taken():
            places = [self.path, self.path.absolute().parent]  # of seeds trained together
            begun = [place for place in places if RunFolder.at(place).checkpoints.exists()]
            hint = f"resume it: noisydqn resume {begun[0]}" if begun else "train again"
            raise UserError(
                f"{self.path} holds no {file.name}: the run was not saved; {hint}, or name another "
                "folder"
            )
        return file


Found = tuple[RunFolder, StoredConfig]
"""A run that was found, and its config."""


def run_name(folder: RunFolder) -> tuple[str, str | None]:
    """Return the name of a run without the path to it, and that of the group of its seeds."""
    path = folder.path.absolute()
    if not (SEED.fullmatch(path.name) or SEED_OF_STUDY.fullmatch(path.name)):
        return path.name, None
    first = -2 if SEED.fullmatch(path.name) else -4  # a study, an environment, a variant
    group = "/".join(path.parts[first:-1])
    return f"{group}/{path.name}", group


def make_folder(name: str) -> Path:
    """Make a folder under `runs/`, by that name or, if it is taken, with a number."""
    while True:
        out = free_path(DEFAULT_PARENT / name)
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            out.mkdir()
        except FileExistsError:  # another run has taken it
            continue
        return out


def config_bytes(config: Config) -> bytes:
    """Return the contents of the `config.json` of one seed's run."""
    return json_bytes(to_stored(config))


def write_config(folder: RunFolder, config: Config) -> None:
    """Write the config of one seed's run."""
    folder.config.write(config_bytes(config))


def write_spaces(folder: RunFolder, spec: EnvironmentSpec) -> None:
    """Write the spaces of the environment of one seed's run."""
    folder.spaces.write(spec.encoding.to_json())


def read_spaces(folder: RunFolder) -> EnvironmentSpec | None:
    """Read the interface of the environment of a run; None if the run is older than the file.

    Raises:
        UserError: the file is damaged or of another version.
    """
    try:
        return EnvironmentSpec.of(Encoding.from_json(folder.spaces.read(MAX_JSON_BYTES)))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise unusable(folder.spaces.path, error) from error


def with_stored_spaces(folder: RunFolder, environment: Environment) -> Environment:
    """Return an environment with the images of a run's observations, and with masks if it had them.

    A run older than `--images` has none: all parts are one vector. One older than action masks
    learned without them.

    Raises:
        UserError: as `read_spaces`.
    """
    stored = read_spaces(folder)
    if stored is None:
        return environment
    before = stored.encoding

    def as_stored(env: HostEnvironment) -> Environment:
        if env.spec.masked and not before.masked:
            env = dataclasses.replace(env, masks=False)
        now = env.spec.encoding
        if before.observation != now.observation or before.images == now.images:
            return env
        images = tuple(image.path for image in before.images) or (NONE,)
        return dataclasses.replace(env, images=images)

    return environment.by_kind(device=lambda env: env, host=as_stored)


def check_spaces(folder: RunFolder, spec: EnvironmentSpec) -> None:
    """Refuse an environment whose observations or actions differ from those of a run.

    Raises:
        UserError: they differ, or as `read_spaces`.
    """
    stored = read_spaces(folder)
    if stored is None:
        return
    old, new = stored.encoding, spec.encoding
    interface = old.observation, old.actions, old.masked
    if interface != (new.observation, new.actions, new.masked):
        raise UserError(
            f"the environment shows {_shown(new)}, but that of {folder.path} showed {_shown(old)}: "
            "give the environment that it was trained on"
        )


def _shown(encoding: Encoding) -> str:
    kinds = {str(part.stored) for part, _ in encoding.parts}
    masks = " with action masks" if encoding.masked else ""
    return (
        f"{encoding.words} of {'/'.join(sorted(kinds))} and takes {encoding.actions.words}{masks}"
    )


class _Evaluation(msgspec.Struct):
    """What an evaluation in a summary has in any case."""

    mean_return: float


class _Summary(msgspec.Struct):
    """What is read of a summary, with the types that are relied on."""

    steps: int = 0
    evaluation: _Evaluation | None = None


_Value = str | float | int | bool | None


def read_summary(folder: RunFolder) -> dict[str, Any]:
    """Read the summary of a run; {} if it is missing or cannot be read."""
    try:
        data = folder.summary.read(MAX_JSON_BYTES)
        msgspec.json.decode(data, type=_Summary)
        return msgspec.json.decode(data, type=dict[str, _Value | dict[str, int | float]])
    except (OSError, ValueError, RecursionError):
        return {}


def open_folders(path: Place) -> list[Found]:
    """Find the run in a folder, or the runs of several seeds in its sub-folders, by seed.

    Raises:
        UserError: there is no run, or a config cannot be read.
    """
    path = given_path(path, "DIR")
    try:
        if not path.is_dir():
            raise UserError(f"{path} is not a folder: name the folder of a run (train's --out)")
    except OSError as error:
        raise unreadable(path, error) from error
    return read_runs(RunFolder.at(path))


def unreadable(path: Path, error: OSError) -> UserError:
    """Return the error of a folder that cannot be read."""
    return UserError(f"{path} cannot be read: {error.strerror}")


def read_runs(whole: RunFolder) -> list[Found]:
    """Read the configs in the folder of a run, or of several seeds, by seed.

    Raises:
        UserError: there is no run, or a config cannot be read.
    """
    try:
        folders = runs_in(whole)
    except OSError as error:
        raise unreadable(whole.path, error) from error
    if not folders:
        raise UserError(
            f"{whole.path} holds no run (no config.json): name a folder that train made"
        )
    runs = [(folder, read_config(folder.config)) for folder in folders]
    return sorted(runs, key=lambda run: run[1].options["seed"])


def runs_in(folder: RunFolder) -> list[RunFolder]:
    """Return a folder that holds a run, or its sub-folders that do."""
    if folder.config.taken():
        return [folder]
    if not folder.files.exists():
        return []
    names = [name for name in folder.files.names() if SEED.fullmatch(name)]
    return [seed for seed in map(folder.seed, names) if seed.config.taken()]


def open_folder(path: Place) -> Found:
    """Find the only run in a folder.

    Raises:
        UserError: the folder holds runs of several seeds, or as `open_folders`.
    """
    runs = open_folders(path)
    if len(runs) > 1:
        names = ", ".join(folder.path.name for folder, _ in runs)
        raise UserError(f"{path} holds {len(runs)} runs: name the folder of one of them: {names}")
    return runs[0]


def load_config(path: Place, *, trust: bool = False) -> Config:
    """Load the options of a run, to start another: `train(load_config("runs/one"), seed=1)`.

    Args:
        path: a run's folder or its `config.json`. A folder of several seeds gives the options that
            all of them were started with.
        trust: whether code that the config names, such as an environment of one's own, may be
            imported.

    Raises:
        UserError: there is no run, its config cannot be used, or it names code without `trust`.
    """
    return find_config(path).admit(trust=trust)


def find_config(path: Place) -> StoredConfig:
    """Find the options of a run, as `load_config` does, without making use of them.

    Raises:
        UserError: there is no run, or its config cannot be used.
    """
    path = given_path(path, "the run")
    if path.is_file():
        return read_config(File.at(path))
    if not path.exists():
        raise UserError(f"{path} does not exist: name a run's folder or its config.json")
    runs = open_folders(path)
    stored = runs[0][1]
    return StoredConfig({**stored.options, "num_seeds": len(runs)}, stored.path)


def read_config(file: File) -> StoredConfig:
    """Read a `config.json`.

    Raises:
        UserError: it is damaged, of another version, or has options that do not exist.
    """
    try:
        stored: dict[str, Any] = msgspec.json.decode(file.read(MAX_JSON_BYTES), type=dict)
        if "version" not in stored:
            raise ValueError("it has no version")
    except (OSError, ValueError, RecursionError) as error:
        raise unusable(file.path, error) from error
    return from_stored(stored, file.path)
