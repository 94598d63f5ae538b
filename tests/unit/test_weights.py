"""Policies come back from files as they were."""

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
import safetensors.numpy

from noisydqn import PRESETS, UserError
from noisydqn.envs.catcher import CatcherPixels
from noisydqn.envs.device import DeviceEnvironment
from noisydqn.folders import File
from noisydqn.preprocessing import normalize
from noisydqn.runners import build
from noisydqn.runs.weights import load_policy, save_policy

pytestmark = pytest.mark.slow

SPEC = DeviceEnvironment.create(CatcherPixels()).spec


@pytest.mark.parametrize("preset", [name for name in PRESETS if name != "atari"])
def test_every_presets_policy_comes_back(preset: str, tmp_path: Path) -> None:
    """With the statistics of running normalization, where there are any."""
    config = PRESETS[preset]
    policy = build.make_policy(config.program, SPEC, jax.random.key(0))
    if policy.moments is not None:
        seen = jax.random.randint(jax.random.key(1), (5, 42, 42), 0, 255)
        moments = normalize.update(normalize.init(seen.shape[1:]), seen).rounded
        policy = eqx.tree_at(lambda p: p.moments, policy, moments)
    path = tmp_path / "policy.safetensors"
    save_policy(File.at(path), policy)
    assert [file.name for file in tmp_path.iterdir()] == ["policy.safetensors"]
    loaded = load_policy(File.at(path), config, SPEC)
    assert eqx.tree_equal(loaded, policy)


def test_the_same_policy_gives_the_same_bytes(tmp_path: Path) -> None:
    policy = build.make_policy(PRESETS["catcher"].program, SPEC, jax.random.key(0))
    for i in range(8):
        save_policy(File.at(tmp_path / str(i)), policy)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_values_that_were_changed_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "policy.safetensors"
    save_policy(
        File.at(path), build.make_policy(PRESETS["catcher"].program, SPEC, jax.random.key(0))
    )
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="its values are not those that were written"):
        load_policy(File.at(path), PRESETS["catcher"], SPEC)
    path.write_bytes(bytes(2**23))
    with pytest.raises(UserError, match="larger than the config's network"):
        load_policy(File.at(path), PRESETS["catcher"], SPEC)


def test_another_networks_weights_are_refused(tmp_path: Path) -> None:
    config = PRESETS["catcher"]
    path = tmp_path / "policy.safetensors"
    policy = build.make_policy(config.program, SPEC, jax.random.key(0))
    save_policy(File.at(path), policy)
    with pytest.raises(UserError, match="does not fit the config beside it"):
        load_policy(File.at(path), config.replace(hidden=(64,)), SPEC)
    with pytest.raises(UserError, match="is in only one of them"):
        load_policy(File.at(path), config.replace(normalize_observations="running"), SPEC)
    half = jax.tree.map(lambda x: x.astype(jnp.float16), policy)
    save_policy(File.at(path), half)
    with pytest.raises(UserError, match="is F16 "):
        load_policy(File.at(path), config, SPEC)


def test_what_a_file_says_about_itself_may_be_nested(tmp_path: Path) -> None:
    """Deeper than a decoder goes: that is damage like any other."""
    path = tmp_path / "policy.safetensors"
    deep = '{"format": ' + "[" * 10_000 + "]" * 10_000 + "}"
    path.write_bytes(safetensors.numpy.save({}, {"noisydqn": deep}))
    with pytest.raises(UserError, match="is damaged and cannot be read"):
        load_policy(File.at(path), PRESETS["catcher"], SPEC)
