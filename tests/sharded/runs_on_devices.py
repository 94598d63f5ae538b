"""Runs on several devices: what they learn from, their seeds, checkpoints and starts.

To be run in a process with four devices, as `tests/unit/test_devices.py` does.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.probes import SMALL, CountingEnv, adapted, run_device
from tests.programs import use
from tests.runs import results, tiny, train_until

import noisydqn
from noisydqn import Config
from noisydqn.checkpoint.arrays import to_host
from noisydqn.checkpoint.reader import newest_whole
from noisydqn.envs.device import DeviceEnvironment
from noisydqn.envs.registry import make_environment
from noisydqn.errors import UserError
from noisydqn.learner import sum_tree
from noisydqn.runners import device
from noisydqn.runners.report import Chunk
from noisydqn.runs.folder import RunFolder
from noisydqn.trees import named
from noisydqn.types import Row

CARTPOLE = "gymnax:CartPole-v1"
PARALLEL = SMALL.replace(learner="parallel", rollout_steps=4, minibatches=2, epochs=2)


def run(config: Config, *seeds: int, env: Any = None) -> list[Chunk]:
    """Train seeds; states are copied, as the next chunk takes their arrays."""
    keys = jnp.stack([jax.random.key(seed) for seed in seeds or (0,)])
    env = adapted(CountingEnv() if env is None else env)
    return [copied(chunk) for chunk in run_device(config, env, keys)]


def copied(chunk: Chunk) -> Chunk:
    object.__setattr__(chunk, "state", {name: to_host(x) for name, x in named(chunk.state).items()})
    return chunk


SHARED = ("training.learner", "training.statistics.moments", "training.replay.max_priority")
"""What all devices have the same of."""


@pytest.mark.parametrize(("base", "devices"), [(SMALL, 4), (PARALLEL, 2)])
def test_what_is_the_same_on_all_devices_and_what_is_not(base: Config, devices: int) -> None:
    config = base.replace(
        num_envs=8, devices=devices, steps=320, chunk_steps=80, normalize_observations="running"
    )
    first, *_, last = run(config)
    assert last.seeds[0].updates > 20
    assert np.isfinite(last.seeds[0].metrics["loss"])
    for name, x in last.state.items():
        assert len(x) == devices, name
        if name.startswith(SHARED):
            assert all(np.array_equal(x[0], other) for other in x), name
    keys = last.state["training.actor.key"]
    assert len({tuple(key) for key in keys}) == devices
    lengths = {(e.length, e.episode_return) for e in first.seeds[0].episodes}
    assert lengths <= {(3, 6.0), (5, 15.0)}
    ended = sum(len(chunk.seeds[0].episodes) for chunk in (first, last))
    assert 2 * 80 / 6 < ended < 2 * 80 / 4 + 16


def test_statistics_are_those_of_all_environments() -> None:
    """Against all observations, which the replay buffer still holds."""
    config = SMALL.replace(
        num_envs=8, devices=4, steps=80, chunk_steps=80, normalize_observations="running"
    )
    config = config.replace(replay_capacity=160, learning_starts=10**6)
    (chunk,) = run(config)
    state = chunk.state
    stored = state["training.replay.rows.observation"][:, :10].reshape(-1, 3)  # 10 steps, 8 envs
    newest = state["training.actor.time_step.observation"].reshape(-1, 3)
    seen = np.concatenate([stored, newest]).astype(np.float64)
    moments = "training.statistics.moments"
    assert (state[f"{moments}.seen"] == len(seen)).all()
    np.testing.assert_allclose(state[f"{moments}.mean.value"][3], seen.mean(0), rtol=1e-5)
    variance = state[f"{moments}.squares.value"][3] / len(seen)
    np.testing.assert_allclose(variance, seen.var(0), rtol=1e-4)


def test_every_device_samples_what_its_environments_did() -> None:
    config = SMALL.replace(num_envs=8, devices=4, steps=160, chunk_steps=160, learning_starts=10**6)
    (chunk,) = run(config.replace(replay_capacity=200))
    rows = {x: y for x, y in chunk.state.items() if x.startswith("training.replay.rows")}
    assert rows["training.replay.rows.last"].shape == (4, 25, 2)  # of 200 in all
    tree = chunk.state["training.replay.tree"]
    totals = [float(sum_tree.total(jnp.asarray(x))) for x in tree]
    assert all(total > 0 for total in totals)


def test_updates_per_episode_count_the_episodes_of_all_devices() -> None:
    config = SMALL.replace(num_envs=8, devices=2, steps=320, chunk_steps=320, learning_starts=0)
    (chunk,) = run(config.replace(updates_per_step=0, updates_per_episode=1))
    episodes = chunk.seeds[0].episodes
    first = config.learner.first_step(8)
    assert chunk.seeds[0].updates == sum(episode.step >= first for episode in episodes)


@pytest.mark.parametrize(("base", "devices"), [(SMALL, 2), (PARALLEL, 4)])
def test_seeds_have_the_bits_of_the_seeds_that_share_a_device(base: Config, devices: int) -> None:
    config = base.replace(steps=200, chunk_steps=100, normalize_observations="running")
    together = run(config.replace(devices=devices), 0, 1, 2, 3)[-1]
    share = 4 // devices
    for start in range(0, 4, share):
        alone = run(config, *range(start, start + share))[-1]
        for name, x in alone.state.items():
            np.testing.assert_array_equal(x, together.state[name][start : start + share])
        for i in range(share):
            assert alone.seeds[i].episodes == together.seeds[start + i].episodes
            assert alone.seeds[i].metrics == together.seeds[start + i].metrics


def test_seeds_lie_on_their_devices() -> None:
    keys = jnp.stack([jax.random.key(seed) for seed in range(4)])
    chunk = next(run_device(SMALL.replace(devices=4, steps=40), adapted(CountingEnv()), keys))
    weights = chunk.state.training.learner.online.vector
    assert [shard.device for shard in weights.addressable_shards] == jax.devices()[:4]
    assert all(len(shard.data) == 1 for shard in weights.addressable_shards)


@pytest.mark.parametrize(
    "options",
    [
        {
            "devices": 2,
            "learner": "replay",
            "normalize_observations": "running",
            "normalize_rewards": True,
        },
        {"devices": 4, "num_envs": 4, "learner": "parallel", "exploration": "noisy"},
        {"devices": 2, "learner": "replay", "num_seeds": 4},
    ],
)
def test_a_resumed_run_has_the_same_bits(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = tiny(env=CARTPOLE, **options)
    noisydqn.train(out=tmp_path / "whole", **options)
    out = tmp_path / "killed"
    train_until(5, monkeypatch, out=out, checkpoint_seconds=1e-9, **options)
    other = tiny(options, devices=1 if options["devices"] == 2 else 2)
    with pytest.raises(UserError, match="holds a run with other --devices"):
        noisydqn.train(out=out, resume=True, **other)
    noisydqn.resume(out, quiet=True)
    names = [f"seed{i}" for i in range(options["num_seeds"])] if "num_seeds" in options else ["."]
    for name in names:
        assert results(out / name) == results(tmp_path / "whole" / name)


def test_a_checkpoint_of_other_devices_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    options = tiny(env=CARTPOLE, learner="replay", devices=2)
    train_until(3, monkeypatch, out=out, checkpoint_seconds=1e-9, **options)
    config = out / "config.json"
    config.write_text(config.read_text().replace('"devices": 2', '"devices": 1'))
    with pytest.raises(UserError, match=r"--devices 1 \(was 2\); restore config.json"):
        noisydqn.resume(out, quiet=True)


@pytest.mark.parametrize("devices", [(1, 2), (2, 1), (2, 4)])
def test_a_run_that_starts_from_another_divides_its_steps(
    devices: tuple[int, int], tmp_path: Path
) -> None:
    """Every environment keeps its own rows, on whichever device it is."""
    options = tiny(env=CARTPOLE, learner="replay", num_envs=4, evaluation_every=0)
    before, after = (tmp_path / name for name in ("before", "after"))
    noisydqn.train(out=before, **tiny(options, devices=devices[0], steps=80))
    options = tiny(options, devices=devices[1], steps=8)
    noisydqn.train(start_from=before, from_replay=True, out=after, **options)
    old, new = observations(before, devices[0]), observations(after, devices[1])
    assert len(np.unique(old[19], axis=0)) == 4
    np.testing.assert_array_equal(new[:20], old[:20])


def observations(folder: Path, devices: int) -> np.ndarray:
    """The ring of a run's newest checkpoint [slots, envs, 4]."""
    checkpoint = newest_whole(RunFolder.at(folder).checkpoints, lambda _: None)
    assert checkpoint is not None
    shape = devices, checkpoint.manifest.slots, 4 // devices

    def array(dtype: type, *more: int) -> Any:
        return jax.ShapeDtypeStruct((*shape, *more), np.dtype(dtype))

    numbers, flags = array(np.float32), array(np.bool_)
    like = Row(array(np.float32, 4), array(np.int32), numbers, flags, flags)
    ((_, fields),) = checkpoint.blocks(like, 1)
    return np.concatenate(fields[0], axis=1)


@pytest.mark.parametrize("num_seeds", [1, 2])
def test_programs_of_several_devices_are_kept(num_seeds: int, tmp_path: Path) -> None:
    """A second process loads them, each for the devices that it was compiled for."""
    config = SMALL.replace(num_envs=4, devices=2, steps=40, chunk_steps=40)
    env = make_environment(config.environment.__class__(env=CARTPOLE))
    assert isinstance(env, DeviceEnvironment)
    keys = jnp.stack([jax.random.key(seed) for seed in range(num_seeds)])
    ends: list[Chunk] = []
    with use(tmp_path):
        for again in (False, True):
            device.programs.cache_clear()
            made = device.programs(config.program, env, num_seeds)
            programs = [x for each in (made.init, made.advance, made.end) for x in each.programs]
            assert len(programs) == 3 * num_seeds
            assert [x.shapes is not None and x.ready for x in programs] == [again] * len(programs)
            ends += [copied(chunk) for chunk in device.run(made, keys, config.total_steps)]
    for name, x in ends[0].state.items():
        np.testing.assert_array_equal(x, ends[1].state[name])
