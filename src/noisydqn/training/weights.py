"""Policies in files: safetensors, so that loading runs no code."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import Array

from noisydqn import build
from noisydqn.build import Policy
from noisydqn.config import Config
from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.errors import UserError

FORMAT, VERSION = "noisydqn-policy", 1


def named_arrays(policy: Policy) -> dict[str, Array]:
    """The arrays of a policy by their paths."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(policy)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def save_policy(path: Path, policy: Policy) -> None:
    """Write a policy: beside the old file first, then in its place, so that one is always whole."""
    arrays = {name: np.asarray(x) for name, x in named_arrays(policy).items()}
    metadata = {"format": FORMAT, "version": str(VERSION)}
    beside = path.with_name(path.name + ".part")
    beside.write_bytes(safetensors.numpy.save(arrays, metadata))
    beside.replace(path)


def load_policy(path: Path, config: Config, spec: EnvironmentSpec) -> Policy:
    """Read a policy that was trained with `config` on such an environment.

    Raises:
        UserError: there is no such file, it is damaged or of another format, or its arrays are
            not those of the config's network.
    """
    return fit(_read(path), config, spec, path)


def fit(arrays: dict[str, np.ndarray], config: Config, spec: EnvironmentSpec, path: Path) -> Policy:
    """The policy of a config with the arrays that were read from `path`.

    Raises:
        UserError: they are not those of the config's network.
    """
    expected = jax.eval_shape(lambda: build.make_policy(config, spec, jax.random.key(0)))
    names = named_arrays(expected)
    if arrays.keys() != names.keys():
        differing = sorted(arrays.keys() ^ names.keys())
        raise UserError(
            f"{path} does not fit the config beside it: {differing[0]!r} is in only one of them; "
            "use the weights and the config of the same run"
        )
    for name, array in arrays.items():
        shape, dtype = names[name].shape, names[name].dtype
        if array.shape != shape or array.dtype != dtype:
            raise UserError(
                f"{path} does not fit the config beside it: {name} is {array.dtype} "
                f"{list(array.shape)}, expected {dtype} {list(shape)}; use the weights and the "
                "config of the same run"
            )
    leaves = [jnp.asarray(arrays[name]) for name in names]
    return jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(expected), leaves)


def _read(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise UserError(f"{path} does not exist: the run was not saved, or this is no run folder")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata: dict[str, str] = file.metadata() or {}
            names: list[str] = list(file.keys())
            arrays: dict[str, np.ndarray] = {name: file.get_tensor(name) for name in names}
    except (safetensors.SafetensorError, ValueError, TypeError, OSError) as error:
        raise UserError(
            f"{path} is damaged and cannot be read ({error}): restore it from a copy or train again"
        ) from error
    version = metadata.get("version")
    if metadata.get("format") != FORMAT or version != str(VERSION):
        raise UserError(
            f"{path} holds {metadata.get('format', 'an unknown format')} version {version}, "
            f"expected {FORMAT} version {VERSION}: use the version of noisydqn that wrote it"
        )
    return arrays


def write_json(path: Path, value: object) -> None:
    """Write JSON beside the old file first, then in its place."""
    beside = path.with_name(path.name + ".part")
    beside.write_text(json.dumps(value, indent=2) + "\n")
    beside.replace(path)
