"""Reading of exported policies: safetensors with a card."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import safetensors

from noisydqn.config.config import Config
from noisydqn.config.gate import NETWORK, StoredConfig
from noisydqn.config.stored import from_stored
from noisydqn.envs.encoding import Encoding
from noisydqn.envs.registry import AnyEnvironment, environment_to_play
from noisydqn.envs.spaces import Dtype, Shape
from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.errors import UserError
from noisydqn.folders import File
from noisydqn.imports import is_inert
from noisydqn.learner.policy import Policy
from noisydqn.runners.build import policy_like
from noisydqn.runs.folder import RunFolder, read_spaces
from noisydqn.runs.weights import DTYPES, checksum, policy_of_arrays
from noisydqn.trees import named, size_of

CARD, CARD_VERSION = "noisydqn-card", 1
MAX_CARD_BYTES, MAX_HEADER_BYTES = 2**23, 2**24


class _Observation(msgspec.Struct):
    shape: Shape | None = None  # of several arrays, `spaces` tells
    dtype: Dtype = "float32"


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


def load_exported(path: Path, *, trust: bool) -> tuple[Policy, EnvironmentSpec]:
    """Load an exported policy, and the interface of its environment.

    The card comes first: it says how large the arrays are, of which none is read before.

    Args:
        path: of the file.
        trust: whether code that the card's config names may be imported.

    Raises:
        UserError: the file is damaged, was not made by `export_policy`, or names code that is
            needed, and is not trusted.
    """
    file = File.at(path)
    try:
        with file.reading() as opened:
            if int.from_bytes(opened.read(8), "little") > MAX_HEADER_BYTES:
                raise ValueError("its header is too large")
        with file.opened() as place, safetensors.safe_open(place, framework="numpy") as tensors:
            metadata: dict[str, str] = tensors.metadata() or {}
            if metadata.get("format") != CARD:
                raise UserError(
                    f"{path} holds no exported policy: name a run's folder, or a file that "
                    "noisydqn export --format safetensors made"
                )
            text = metadata.get("card", "")
            spec, options = read_card(text, path)
            config = from_stored(options, path).admit(NETWORK, trust=trust)
            expected = policy_like(config.program, spec)
            if file.size() > MAX_HEADER_BYTES + sum(map(size_of, named(expected).values())):
                raise ValueError("it is larger than its card's network")
            names: list[str] = list(tensors.keys())
            if not {tensors.get_slice(name).get_dtype() for name in names} <= {*DTYPES.values()}:
                raise ValueError("it holds arrays of other types than float32")
            arrays = {name: np.asarray(tensors.get_tensor(name)) for name in names}
        if card_checksum(arrays, text) != metadata.get("sha256"):
            raise ValueError("its checksum is wrong")
    except (safetensors.SafetensorError, OSError, ValueError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{path} is damaged and cannot be read ({error}): export it again"
        ) from error
    return policy_of_arrays(expected, with_sigmas(arrays, named(expected)), path), spec


def with_sigmas(arrays: dict[str, np.ndarray], expected: Iterable[str]) -> dict[str, np.ndarray]:
    """Add the sigmas that an export leaves out: zeros beside each mean."""
    means = {name: arrays.get(name.removesuffix("_sigma") + "_mu") for name in expected}
    sigmas = {
        x: np.zeros_like(y) for x, y in means.items() if x.endswith("_sigma") and y is not None
    }
    return arrays | sigmas


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
        if card.spaces is None and seen.shape is None:
            raise ValueError("the shape of its observations is missing")
        shape = seen.shape or ()
        encoding = card.spaces or Encoding.as_stored(shape, seen.dtype, card.actions.names)
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} has a damaged card ({reason}): export it again") from error
    return EnvironmentSpec.of(encoding), card.config
