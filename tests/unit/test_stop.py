"""Signals, stops in the middle of things, and what many runs in one process leave behind."""

import gc
import os
import signal
import threading
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.envs.classic_control import CartPoleEnv
from tests.host_envs import CountingHostEnv
from tests.probes import SMALL, CountingEnv, adapted, run_device
from tests.unit.test_resume import results, tiny

import noisydqn
from noisydqn.checkpoint.reader import newest_whole
from noisydqn.checkpoint.writer import CheckpointWriter
from noisydqn.compilation import join_threads
from noisydqn.errors import EnvironmentFailedError, StoppedError
from noisydqn.folders import Folder
from noisydqn.runners import device
from noisydqn.runners.report import Chunk
from noisydqn.runners.stop import Stop, stoppable

pytestmark = pytest.mark.slow


def refuse(line: str) -> None:
    raise AssertionError(line)


# Signals


def test_the_first_signal_is_noted_and_the_second_interrupts() -> None:
    lines: list[str] = []
    before = signal.getsignal(signal.SIGTERM)
    with stoppable(lines.append) as stop:
        stop.check()
        signal.raise_signal(signal.SIGTERM)
        assert (stop.signal, stop.word) == (signal.SIGTERM, "terminated")
        with pytest.raises(StoppedError):
            stop.check()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    assert len(lines) == 1
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    """A shell starts background jobs so."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stoppable(refuse) as stop:
            signal.raise_signal(signal.SIGINT)
            assert not stop.asked
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


# In the middle of a chunk


class StopAt(Stop):
    """Asked for when it is looked at for the nth time."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.looks = looks

    @property
    def asked(self) -> bool:
        self.looks -= 1
        return self.looks < 0


@pytest.mark.parametrize("looks", [1, 15])
def test_a_chunk_left_on_the_device_is_finished_with_the_same_bits(
    looks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "PART_SECONDS", 1e-9)  # a step at a time
    config = SMALL.replace(steps=80, chunk_steps=40, learning_starts=22)
    env, keys = adapted(CountingEnv()), jnp.stack([jax.random.key(0)])
    whole = [seen(chunk) for chunk in run_device(config, env, keys)]
    *before, last = run_device(config, env, keys, stop=StopAt(looks))
    assert (last.seeds, last.steps) == ([], 2 * looks)
    writer = CheckpointWriter(Folder(tmp_path), 1, None, refuse)
    writer.save(last.snapshot(), {})
    writer.wait()
    checkpoint = newest_whole(Folder(tmp_path), refuse)
    after = [seen(chunk) for chunk in run_device(config, env, keys, checkpoint)]
    assert len(before) + len(after) == len(whole)
    assert after == whole[len(before) :]


def seen(chunk: Chunk) -> Any:
    """What a chunk says, with the bits of its weights."""
    weights = [np.asarray(x).tobytes() for x in jax.tree.leaves(chunk.policy(0))]
    return chunk.steps, str(chunk.seeds), weights


class Once(CartPoleEnv):
    """Interrupts, or fails, once, at its nth step in all."""

    left, fails = 10**9, False

    def step(self, action: Any) -> Any:
        Once.left -= 1
        if Once.left == 0:
            if Once.fails:
                raise RuntimeError("a cable is loose")
            signal.raise_signal(signal.SIGINT)
        return super().step(action)


@pytest.mark.parametrize(("fails", "left"), [(False, 31), (True, 34)])
def test_a_chunk_left_on_the_host_is_finished_with_the_same_bits(
    fails: bool, left: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Be it left by a signal, or by a failure between acting and stepping."""
    options = tiny(env=Once, steps=120)
    noisydqn.train(out=tmp_path / "whole", **options)
    monkeypatch.setattr(Once, "left", left)
    monkeypatch.setattr(Once, "fails", fails)
    out = tmp_path / "left"
    if fails:
        with pytest.raises(EnvironmentFailedError, match="a cable is loose"):
            noisydqn.train(out=out, **options)
    else:
        assert noisydqn.train(out=out, **options).interrupted
    noisydqn.resume(out, quiet=True, trust=True)
    assert results(out) == results(tmp_path / "whole")


class Loose(CartPoleEnv):
    """Fails in evaluations, as long as a cable is loose."""

    loose = False

    def step(self, action: Any) -> Any:
        if Loose.loose and threading.current_thread().name == "evaluation":
            raise RuntimeError("a cable is loose")
        return super().step(action)


def test_a_run_whose_evaluation_fails_is_resumed_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = tiny(env=Loose, steps=400, evaluation_every=40)
    noisydqn.train(out=tmp_path / "whole", **options)
    monkeypatch.setattr(Loose, "loose", True)
    out = tmp_path / "left"
    with pytest.raises(EnvironmentFailedError, match="a cable is loose"):
        noisydqn.train(out=out, **options)
    monkeypatch.setattr(Loose, "loose", False)
    checkpoint = newest_whole(Folder(out / "checkpoints"), refuse)
    assert checkpoint is not None
    noisydqn.resume(out, env=Loose, quiet=True)
    assert results(out) == results(tmp_path / "whole")


# Many runs in one process


def test_runs_leave_nothing_behind_but_compiled_programs(tmp_path: Path) -> None:
    options = tiny(env=CountingHostEnv, steps=80, evaluation_every=0)

    def train(number: int) -> tuple[int, int, int]:
        noisydqn.train(out=tmp_path / str(number), **options)
        join_threads()  # those that compile, and save what they compiled, end soon after
        gc.collect()
        arrays = sum(x.nbytes for x in jax.live_arrays())
        return threading.active_count(), len(os.listdir("/proc/self/fd")), arrays  # noqa: PTH208

    left = [train(number) for number in range(10)]
    assert left[9] == left[1]
