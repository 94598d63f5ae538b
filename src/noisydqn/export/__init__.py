"""Export of policies: one file that plays elsewhere, and a card that describes it."""

import importlib
import json
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import safetensors.numpy

from noisydqn.config.config import Config
from noisydqn.config.stored import to_stored
from noisydqn.dimensions import end_to_end
from noisydqn.envs.actions import Actions, numbers_of, sizes_of
from noisydqn.envs.registry import AnyEnvironment
from noisydqn.envs.spaces import Discrete
from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.errors import UserError
from noisydqn.export.graph import input_structs
from noisydqn.files import given_path
from noisydqn.folders import File
from noisydqn.learner.agent import values
from noisydqn.learner.policy import Policy
from noisydqn.runs.exported import CARD, CARD_VERSION, admit_policy, card_checksum, spec_of_run
from noisydqn.runs.folder import RunFolder, open_folder, read_summary
from noisydqn.runs.weights import load_policy
from noisydqn.settings import own_settings
from noisydqn.trees import named
from noisydqn.types import Mixed

Format = Literal["onnx", "torch", "safetensors"]
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "torch": ".pt2", "safetensors": ".safetensors"}

CARD_SUFFIX = ".json"
CHECKED = 64
"""Number of observations on which a file is compared with its policy."""
TOLERANCE = 1e-3


@own_settings()
def export_run(
    path: Path | str,
    file_format: Format = "onnx",
    out: Path | str | None = None,
    weights: str = "best",
    *,
    env: AnyEnvironment = None,
    trust: bool = False,
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
        trust: as in `noisydqn.load_policy`.

    Raises:
        UserError: `out` exists, the format is unknown or needs a package that is not installed,
            the network cannot be exported to it, the folder does not hold exactly one run with
            intact weights, or its config names code and is not trusted.
    """
    if file_format not in SUFFIXES:
        raise UserError(f"the format {file_format!r} is unknown: there are {', '.join(SUFFIXES)}")
    folder, stored = open_folder(path)
    config = admit_policy(folder, stored, env, trust=trust)
    file = folder.files.file(f"policy{SUFFIXES[file_format]}").free(beside=CARD_SUFFIX)
    file = file if out is None else File.at(given_path(out))
    spec = spec_of_run(folder, config, env)
    policy = load_policy(folder.weights(weights), config, spec)
    for each in (file, card_of(file)):
        if each.taken():
            raise UserError(f"--out {each} exists, nothing was changed: name a new file")
    export_policy(file, file_format, policy, spec, describe(folder, config, spec))
    return file.path


def card_path(file: Path) -> Path:
    """Return the path of an exported file's card."""
    return file.with_name(file.name + CARD_SUFFIX)


def card_of(file: File) -> File:
    """Return the card of an exported file."""
    return file.folder.file(file.name + CARD_SUFFIX)


def describe(folder: RunFolder, config: Config, spec: EnvironmentSpec) -> dict[str, Any]:
    """Make the card of a policy: its observations, actions and training."""
    summary = read_summary(folder)
    return {
        "format": CARD,
        "version": CARD_VERSION,
        "observation": {
            **_form(spec.observation),
            "frames": config.preprocessing.frame_stack,
        },
        "actions": {
            "number": spec.num_actions,
            **_decoding(spec.encoding.actions),
            "names": list(spec.action_names),
            **({"mask": "action_mask: bool, true where an action is valid"} if spec.masked else {}),
        },
        "spaces": msgspec.to_builtins(spec.encoding),
        "preprocessing": {
            "normalize": config.preprocessing.normalize_observations,
            "clip": config.preprocessing.observation_clip if _running(config) else None,
            "images": "[height, width] or [height, width, channels], bytes from 0 to 255",
            "parts": "end to end in the order of spaces, or each an input where some are images; "
            "categories one-hot; bytes in float32 divided by 255",
            "frames": "the newest last, the first of an episode repeated; vectors beside images "
            "have none",
        },
        "training": {"noise": "mean weights are exported", **summary},
        "config": to_stored(config),
    }


def _decoding(actions: Actions) -> dict[str, Any]:
    """Say which action of the environment a choice is."""
    if isinstance(actions, Discrete):
        return {"start": actions.start}
    return {
        "shape": list(actions.shape),
        "sizes": list(sizes_of(actions)),
        "numbers": numbers_of(actions).tolist(),
    }


def _form(observation: Any) -> dict[str, Any]:
    """Return shape and dtype of an observation, or those of its parts by path."""
    if not isinstance(observation, Mixed):
        return {"shape": list(observation.shape), "dtype": str(np.dtype(observation.dtype))}
    by_path = {**observation.images, **observation.vectors}
    return {"parts": {path: _form(part) for path, part in by_path.items()}}


def _running(config: Config) -> bool:
    return config.preprocessing.normalize_observations == "running"


def export_policy(
    file: File, file_format: Format, policy: Policy, spec: EnvironmentSpec, card: dict[str, Any]
) -> None:
    """Write a policy and its card. Both appear once the file has been compared with the policy.

    Raises:
        UserError: as `export_run`, or the file cannot be written.
    """
    text = json.dumps(card, indent=2) + "\n"
    suffix = SUFFIXES[file_format]
    if file.path.suffix != suffix or not file.folder.exists():
        raise UserError(
            f"{file} cannot be exported to: name a {suffix} file in a folder that exists"
        )
    try:
        with tempfile.TemporaryDirectory() as made:
            part = Path(made) / f"policy{suffix}"
            if file_format == "safetensors":
                _write_safetensors(part, policy, text)
            else:
                target = importlib.import_module(f"noisydqn.export.{file_format}")
                target.write(part, policy, spec, text)
                _check(policy, spec, partial(target.read_values, part), part)
            card_of(file).write(text.encode(), new=True)
            try:
                file.take(part, new=True)
            except OSError:
                card_of(file).remove()
                raise
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}") from error


def _write_safetensors(path: Path, policy: Policy, card: str) -> None:
    arrays = {
        name: np.asarray(x) for name, x in named(policy).items() if not name.endswith("_sigma")
    }
    about = {"format": CARD, "card": card, "sha256": card_checksum(arrays, card)}
    path.write_bytes(safetensors.numpy.save(arrays, about))


def example_observations(policy: Policy, spec: EnvironmentSpec, number: int) -> Any:
    """Make random observations of the dtypes and shapes that a policy takes."""
    rng = np.random.default_rng(0)

    def example(struct: jax.ShapeDtypeStruct) -> np.ndarray:
        shape, dtype = (number, *struct.shape), np.dtype(struct.dtype)
        if dtype == np.uint8:
            return rng.integers(0, 256, shape, np.uint8)
        if dtype == np.bool_:
            return rng.random(shape) < 0.5
        return rng.normal(size=shape).astype(dtype)

    return jax.tree.map(example, input_structs(policy, spec.observation))


def example_masks(spec: EnvironmentSpec, number: int) -> np.ndarray | None:
    """Make random action masks [number, A], each with a valid action; None without masks."""
    if not spec.masked:
        return None
    rng = np.random.default_rng(1)
    masks = rng.random((number, spec.num_actions)) < 0.5
    masks[np.arange(number), rng.integers(spec.num_actions, size=number)] = True
    return masks


def _check(policy: Policy, spec: EnvironmentSpec, read: Any, path: Path) -> None:
    """Compare a file with its policy.

    Raises:
        RuntimeError: their values differ.
    """
    seen, masks = example_observations(policy, spec, CHECKED), example_masks(spec, CHECKED)
    shown = policy.preprocess(jax.tree.map(jnp.asarray, seen))
    given = None if masks is None else jnp.asarray(masks)
    expected = np.asarray(values(policy.network, shown, None, given))
    expected = end_to_end(expected, spec.action_sizes)
    ours = read(seen) if masks is None else read(seen, masks)
    valid = np.ones(expected.shape, bool) if masks is None else masks
    difference = float(np.abs(ours[valid] - expected[valid]).max())
    largest = max(1.0, float(np.abs(expected[valid]).max()))
    if not difference <= TOLERANCE * largest or np.isfinite(ours[~valid]).any():
        raise RuntimeError(f"{path} differs from its policy by {difference}: a defect of export")
