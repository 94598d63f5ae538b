"""Files of policies in the format safetensors, so that loading runs no code."""

import contextlib
import hashlib
import json
import math
from collections.abc import Generator, Mapping
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


def check_policy(file: File) -> None:
    """Check that a file holds a whole policy, of whatever network: its format, types and sum.

    Raises:
        ValueError: it does not; the message says why.
        OSError: it cannot be read.
    """
    try:
        with _opened(file) as (tensors, about, stored):
            if unlike := _unlike(about):
                raise ValueError(f"it holds {unlike}")
            types = {dtype for _, dtype in stored.values()}
            if not types <= set(DTYPES.values()):
                raise ValueError(f"it holds arrays of {', '.join(sorted(types))}")
            numbers = sum(math.prod(shape) for shape, _ in stored.values())
            if file.size() > MAX_HEADER_BYTES + numbers * np.dtype(np.float32).itemsize:
                raise ValueError("it holds more than its arrays")
            _checked({name: tensors.get_tensor(name) for name in stored}, about)
    except safetensors.SafetensorError as error:
        raise ValueError(str(error)) from error


def _read(file: File, expected: dict[str, Any]) -> dict[str, np.ndarray]:
    """Read a file's arrays after checking names, shapes, types and their sum."""
    path = file.path
    try:
        if file.size() > MAX_HEADER_BYTES + sum(map(size_of, expected.values())):
            raise ValueError("it is larger than the config's network")
        with _opened(file) as (tensors, about, stored):
            if unlike := _unlike(about):
                raise UserError(f"{path} holds {unlike}: use the version of noisydqn that wrote it")
            _check_arrays(path, stored, expected)
            return _checked({name: tensors.get_tensor(name) for name in expected}, about)
    except FileNotFoundError as error:
        raise UserError(
            f"{path} does not exist: the run was not saved, or this is no run folder"
        ) from error
    except (safetensors.SafetensorError, ValueError, TypeError, OSError, RecursionError) as error:
        raise UserError(
            f"{path} is damaged and cannot be read ({error}): restore it from a copy or train again"
        ) from error


@contextlib.contextmanager
def _opened(file: File) -> Generator[tuple[Any, dict[str, Any], dict[str, Any]]]:
    """Open a file: its arrays, what it says about itself, and shapes and types by name."""
    with file.opened() as place, safetensors.safe_open(place, framework="numpy") as tensors:
        metadata: dict[str, str] = tensors.metadata() or {}
        about = msgspec.json.decode(metadata.get("noisydqn", "{}"), type=dict[str, Any])
        slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118
        yield tensors, about, {x: (tuple(y.get_shape()), y.get_dtype()) for x, y in slices.items()}


def _unlike(about: dict[str, Any]) -> str:
    """Say which format a file has instead of this one; "" if it has this one."""
    found = (about.get("format", "an unknown format"), about.get("version"))
    if found == (FORMAT, VERSION):
        return ""
    return f"{found[0]} version {found[1]}, expected {FORMAT} version {VERSION}"


def _checked(arrays: dict[str, np.ndarray], about: dict[str, Any]) -> dict[str, np.ndarray]:
    if checksum(arrays) != about.get("sha256"):
        raise ValueError("its values are not those that were written")
    return arrays


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
