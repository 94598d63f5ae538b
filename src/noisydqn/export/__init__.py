"""Export of policies: one file that plays elsewhere, and a card that describes it."""

import importlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import jax.numpy as jnp
import msgspec
import numpy as np
import safetensors.numpy

from noisydqn.config.config import Config
from noisydqn.config.stored import to_stored
from noisydqn.envs.encoding import Encoding
from noisydqn.envs.registry import AnyEnvironment, environment_to_play
from noisydqn.envs.spaces import Dtype, Shape
from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.errors import UserError
from noisydqn.export.graph import input_shape
from noisydqn.files import free_path, given_path
from noisydqn.learner.agent import values
from noisydqn.learner.policy import Policy
from noisydqn.runs.folder import RunFolder, open_folder, read_spaces, read_summary
from noisydqn.runs.weights import checksum, load_policy
from noisydqn.settings import own_settings
from noisydqn.trees import named

Format = Literal["onnx", "torch", "safetensors"]
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "torch": ".pt2", "safetensors": ".safetensors"}

CARD, CARD_VERSION = "noisydqn-card", 1
CHECKED = 64
"""Number of observations on which a file is compared with its policy."""
TOLERANCE = 1e-3
MAX_CARD_BYTES = 2**24


class _Observation(msgspec.Struct):
    shape: Shape
    dtype: Dtype


class _Actions(msgspec.Struct):
    names: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]


class _Card(msgspec.Struct):
    """The parts of a card that are read back; without `spaces`, observations need no encoding."""

    observation: _Observation
    actions: _Actions
    config: dict[str, Any]
    spaces: Encoding | None = None


@own_settings()
def export_run(
    path: Path | str,
    file_format: Format = "onnx",
    out: Path | str | None = None,
    weights: str = "best",
    *,
    env: AnyEnvironment = None,
) -> Path:
    """Export the policy of a run, like `noisydqn export`; return the file's path.

    The file holds mean weights, preprocessing and the statistics of normalization. A card beside
    it has the same name with `.json` appended.

    Args:
        path: a folder that `train` made; for several seeds, the folder of one seed.
        file_format: `"onnx"`, `"torch"` (a program of `torch.export`) or `"safetensors"`, which
            `noisydqn.load_policy` reads.
        out: a new file; None takes a free name in the run's folder.
        weights: `"best"` or `"final"`.
        env: as in `noisydqn.load_policy`.

    Raises:
        UserError: `out` exists, the format is unknown or needs a package that is not installed,
            the network cannot be exported to it, or the folder does not hold exactly one run with
            intact weights.
    """
    if file_format not in SUFFIXES:
        raise UserError(f"the format {file_format!r} is unknown: there are {', '.join(SUFFIXES)}")
    folder, config = open_folder(path)
    file = folder.path / f"policy{SUFFIXES[file_format]}"
    file = free_path(file, beside=".json") if out is None else given_path(out)
    spec = spec_of_run(folder, config, env)
    policy = load_policy(folder.weights(weights), config, spec)
    for taken in (file, card_path(file)):
        if taken.exists():
            raise UserError(f"--out {taken} exists, nothing was changed: name a new file")
    export_policy(file, file_format, policy, spec, describe(folder, config, spec))
    return file


def spec_of_run(folder: RunFolder, config: Config, env: AnyEnvironment = None) -> EnvironmentSpec:
    """Read the interface of a run's environment; make the environment if the run is an old one.

    Args:
        folder: the run's folder.
        config: the run's config.
        env: the environment of an old run, where the config cannot name it.

    Raises:
        UserError: the file is damaged, or an old run's environment cannot be made.
    """
    spec = read_spaces(folder)
    if spec is not None:
        return spec
    try:
        return environment_to_play(config.environment, env).spec
    except UserError as error:
        if env is not None:
            raise
        what = str(error)
        if "<" in config.environment.env:
            what = (
                f"{config.environment.env} cannot be found again by its name; pass what makes it "
                "from Python, as env= of noisydqn.load_policy or noisydqn.export.export_run"
            )
        raise UserError(
            f"{folder.path} has no {folder.spaces.name}, so its policy needs the environment: "
            f"{what}"
        ) from error


def card_path(file: Path) -> Path:
    """Return the path of an exported file's card."""
    return file.with_name(file.name + ".json")


def describe(folder: RunFolder, config: Config, spec: EnvironmentSpec) -> dict[str, Any]:
    """Make the card of a policy: its observations, actions and training."""
    observation = spec.observation
    summary = read_summary(folder)
    return {
        "format": CARD,
        "version": CARD_VERSION,
        "observation": {
            "shape": list(observation.shape),
            "dtype": str(np.dtype(observation.dtype)),
            "frames": config.preprocessing.frame_stack,
        },
        "actions": {
            "number": spec.num_actions,
            "start": spec.encoding.actions.start,
            "names": list(spec.action_names),
        },
        "spaces": msgspec.to_builtins(spec.encoding),
        "preprocessing": {
            "normalize": config.preprocessing.normalize_observations,
            "clip": config.preprocessing.observation_clip if _running(config) else None,
            "images": "[height, width] or [height, width, channels], bytes from 0 to 255",
            "parts": "end to end in the order of spaces, categories one-hot; bytes among other "
            "numbers divided by 255",
            "frames": "the newest last, the first of an episode repeated",
        },
        "training": {"noise": "mean weights are exported", **summary},
        "config": to_stored(config),
    }


def _running(config: Config) -> bool:
    return config.preprocessing.normalize_observations == "running"


def export_policy(
    file: Path, file_format: Format, policy: Policy, spec: EnvironmentSpec, card: dict[str, Any]
) -> None:
    """Write a policy and its card. Both appear once the file has been compared with the policy.

    Raises:
        UserError: as `export_run`, or the file cannot be written.
    """
    part = file.with_name(f"{file.stem}.part{SUFFIXES[file_format]}")
    text = json.dumps(card, indent=2) + "\n"
    if file.suffix != SUFFIXES[file_format] or not file.parent.is_dir():
        raise UserError(
            f"{file} cannot be exported to: name a {SUFFIXES[file_format]} file in a folder that "
            "exists"
        )
    try:
        if file_format == "safetensors":
            _write_safetensors(part, policy, text)
        else:
            target = importlib.import_module(f"noisydqn.export.{file_format}")
            target.write(part, policy, spec, text)
            _check(policy, spec, lambda seen: target.read_values(part, seen), part)
        card_path(file).write_text(text)
        part.replace(file)
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)
        if not file.exists():
            card_path(file).unlink(missing_ok=True)


def _write_safetensors(path: Path, policy: Policy, card: str) -> None:
    arrays = {
        name: np.asarray(x) for name, x in named(policy).items() if not name.endswith("_sigma")
    }
    about = {"format": CARD, "card": card, "sha256": _checksum(arrays, card)}
    path.write_bytes(safetensors.numpy.save(arrays, about))


def _checksum(arrays: dict[str, np.ndarray], card: str) -> str:
    return checksum({**arrays, "card": np.frombuffer(card.encode(), np.uint8)})


def example_observations(policy: Policy, spec: EnvironmentSpec, number: int) -> np.ndarray:
    """Make random observations of the dtype and shape that a policy takes."""
    rng = np.random.default_rng(0)
    shape = (number, *input_shape(policy, spec.observation))
    dtype = np.dtype(spec.observation.dtype)
    if dtype == np.uint8:
        return rng.integers(0, 256, shape, np.uint8)
    return (rng.random(shape) < 0.5) if dtype == np.bool_ else rng.normal(size=shape).astype(dtype)


def _check(policy: Policy, spec: EnvironmentSpec, read: Any, path: Path) -> None:
    """Compare a file with its policy.

    Raises:
        RuntimeError: their values differ.
    """
    seen = example_observations(policy, spec, CHECKED)
    expected = np.asarray(values(policy.network, policy.preprocess(jnp.asarray(seen)), None))
    difference = float(np.abs(read(seen) - expected).max())
    if not difference <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
        raise RuntimeError(f"{path} differs from its policy by {difference}: a defect of export")


def read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], str]:
    """Read the arrays and the card's text of an exported file.

    Raises:
        UserError: the file is damaged or was not made by `export_policy`.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata: dict[str, str] = file.metadata() or {}
            names: list[str] = list(file.keys())
            arrays = {name: np.asarray(file.get_tensor(name)) for name in names}
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(
            f"{path} is damaged and cannot be read ({error}): export it again"
        ) from error
    if metadata.get("format") != CARD:
        raise UserError(
            f"{path} holds no exported policy: name a run's folder, or a file that noisydqn export "
            "--format safetensors made"
        )
    text = metadata.get("card", "")
    if _checksum(arrays, text) != metadata.get("sha256"):
        raise UserError(
            f"{path} is damaged and cannot be read (its checksum is wrong): export it again"
        )
    return arrays, text


def read_card(text: str, path: Path) -> tuple[EnvironmentSpec, dict[str, Any]]:
    """Read the card of the file `path`: the interface of its environment, and the options.

    Raises:
        UserError: the card is damaged or of another version.
    """
    try:
        if len(text) > MAX_CARD_BYTES:
            raise ValueError(f"{len(text):,} characters, expected at most {MAX_CARD_BYTES:,}")
        stored = msgspec.json.decode(text, type=dict[str, Any])
        version = stored.get("version")
        if version != CARD_VERSION:
            raise UserError(
                f"{path} has a card of version {version}, expected {CARD_VERSION}: use the "
                "version of noisydqn that wrote it"
            )
        card = msgspec.convert(stored, _Card)
        seen = card.observation
        encoding = card.spaces or Encoding.as_stored(seen.shape, seen.dtype, card.actions.names)
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} has a damaged card ({reason}): export it again") from error
    return EnvironmentSpec.of(encoding), card.config
