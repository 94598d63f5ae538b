"""Files of policies in the format safetensors, so that loading runs no code."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import safetensors
import safetensors.numpy

from noisydqn.config.config import Config
from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.errors import UserError
from noisydqn.folders import File
from noisydqn.learner.policy import Policy
from noisydqn.runners.build import policy_like
from noisydqn.trees import named, size_of

FORMAT, VERSION = "noisydqn-policy", 2
DTYPES = {"float32": "F32"}
"""Types of a network's arrays, and safetensors' names for them."""
MAX_HEADER_BYTES = 2**20


def checksum(arrays: dict[str, np.ndarray]) -> str:
    """Return the SHA-256 sum of arrays and their names, in hexadecimal digits."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(name.encode() + b"\0" + np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()


def save_policy(file: File, policy: Policy) -> None:
    """Write a policy to a file, which replaces an old one only when it is complete.

    The same policy gives the same bytes.
    """
    arrays = {name: np.asarray(x) for name, x in named(policy).items()}
    about = {"format": FORMAT, "version": VERSION, "sha256": checksum(arrays)}
    # A single entry: safetensors writes several in any order.
    file.write(safetensors.numpy.save(arrays, {"noisydqn": json.dumps(about)}))


def load_policy(file: File, config: Config, spec: EnvironmentSpec) -> Policy:
    """Read a policy that was trained with `config` on an environment with interface `spec`.

    Raises:
        UserError: the file is missing, damaged or of another format, or its arrays are not those
            of the config's network.
    """
    expected = policy_like(config.program, spec)
    return _filled(expected, _read(file, named(expected)))


def policy_of_arrays(expected: Policy, arrays: dict[str, np.ndarray], path: Path) -> Policy:
    """Return a policy like `expected` with the arrays that were read from `path`.

    Raises:
        UserError: names, shapes or types differ from those of `expected`.
    """
    stored = {name: (x.shape, DTYPES.get(x.dtype.name)) for name, x in arrays.items()}
    _check_arrays(path, stored, named(expected))
    return _filled(expected, arrays)


def _filled(expected: Policy, arrays: dict[str, np.ndarray]) -> Policy:
    leaves = [jnp.asarray(arrays[name]) for name in named(expected)]
    return jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(expected), leaves)


def _read(file: File, expected: dict[str, Any]) -> dict[str, np.ndarray]:
    """Read a file's arrays after checking names, shapes, types and their sum."""
    path = file.path
    try:
        if file.size() > MAX_HEADER_BYTES + sum(map(size_of, expected.values())):
            raise ValueError("it is larger than the config's network")
        with file.opened() as place, safetensors.safe_open(place, framework="numpy") as tensors:
            metadata: dict[str, str] = tensors.metadata() or {}
            sum_of_all = _check_about(path, metadata.get("noisydqn", "{}"))
            slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118
            stored = {k: (tuple(x.get_shape()), x.get_dtype()) for k, x in slices.items()}
            _check_arrays(path, stored, expected)
            arrays: dict[str, np.ndarray] = {name: tensors.get_tensor(name) for name in expected}
        if checksum(arrays) != sum_of_all:
            raise ValueError("its values are not those that were written")
    except FileNotFoundError as error:
        raise UserError(
            f"{path} does not exist: the run was not saved, or this is no run folder"
        ) from error
    except (safetensors.SafetensorError, ValueError, TypeError, OSError) as error:
        raise UserError(
            f"{path} is damaged and cannot be read ({error}): restore it from a copy or train again"
        ) from error
    return arrays


def _check_about(path: Path, text: str) -> str:
    """Check the format of a file; returns the sum of its values."""
    about: dict[str, Any] = msgspec.json.decode(text, type=dict[str, Any])
    if about.get("format") != FORMAT or about.get("version") != VERSION:
        raise UserError(
            f"{path} holds {about.get('format', 'an unknown format')} version "
            f"{about.get('version')}, expected {FORMAT} version {VERSION}: use the version of "
            "noisydqn that wrote it"
        )
    return str(about.get("sha256"))


def _check_arrays(path: Path, stored: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Check names, shapes and safetensors' types of the arrays in a file."""
    if stored.keys() != expected.keys():
        differing = sorted(stored.keys() ^ expected.keys())
        raise UserError(
            f"{path} does not fit the config beside it: {differing[0]!r} is in only one of them; "
            "use the weights and the config of the same run"
        )
    for name, struct in expected.items():
        shape, dtype = stored[name]
        if shape != struct.shape or dtype != DTYPES.get(np.dtype(struct.dtype).name):
            raise UserError(
                f"{path} does not fit the config beside it: {name} is {dtype} {list(shape)}, "
                f"expected {struct.dtype} {list(struct.shape)}; use the weights and the config of "
                "the same run"
            )
