"""Reading of exported policies: safetensors with a card."""

from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import safetensors

from noisydqn.config.config import Config
from noisydqn.config.gate import NETWORK, StoredConfig
from noisydqn.envs.encoding import Encoding
from noisydqn.envs.registry import AnyEnvironment, environment_to_play
from noisydqn.envs.spaces import Dtype, Shape
from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.errors import UserError
from noisydqn.folders import File
from noisydqn.imports import is_inert
from noisydqn.runs.folder import RunFolder, read_spaces
from noisydqn.runs.weights import checksum

CARD, CARD_VERSION = "noisydqn-card", 1
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


def admit_policy(
    folder: RunFolder, stored: StoredConfig, env: AnyEnvironment, *, trust: bool
) -> Config:
    """Admit a run's config to load its policy, which needs no environment unless the run is old.

    Raises:
        UserError: the config names code that is needed, and is not trusted.
    """
    needs_env = env is None and not folder.spaces.exists()
    return stored.admit((*NETWORK, "env") if needs_env else NETWORK, trust=trust)


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
        if is_inert(config.environment.env):
            what = (
                f"{config.environment.env} cannot be found again by its name; pass what makes it "
                "from Python, as env= of noisydqn.load_policy or noisydqn.export.export_run"
            )
        raise UserError(
            f"{folder.path} has no {folder.spaces.name}, so its policy needs the environment: "
            f"{what}"
        ) from error


def card_checksum(arrays: dict[str, np.ndarray], card: str) -> str:
    """Compute the checksum of a policy and its card."""
    return checksum({**arrays, "card": np.frombuffer(card.encode(), np.uint8)})


def read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], str]:
    """Read the arrays and the card's text of an exported file.

    Raises:
        UserError: the file is damaged or was not made by `export_policy`.
    """
    try:
        file = File.at(path)
        with file.opened() as place, safetensors.safe_open(place, framework="numpy") as tensors:
            metadata: dict[str, str] = tensors.metadata() or {}
            names: list[str] = list(tensors.keys())
            arrays = {name: np.asarray(tensors.get_tensor(name)) for name in names}
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
    if card_checksum(arrays, text) != metadata.get("sha256"):
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
