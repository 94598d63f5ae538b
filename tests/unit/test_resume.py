"""Resumed runs end with the same bits; a run that cannot be resumed says so."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tests.disks import mounted
from tests.host_envs import CountingHostEnv, Cue, Forgetful
from tests.processes import interrupt
from tests.runs import TINY, flags, results, tiny, train_until

import noisydqn
from noisydqn.checkpoint import rows as ring
from noisydqn.checkpoint.reader import newest_whole
from noisydqn.cli import main
from noisydqn.envs.host import HostEnvironment
from noisydqn.errors import DivergedError, UserError
from noisydqn.runners import host_programs
from noisydqn.runs import evaluations
from noisydqn.runs.folder import RunFolder
from noisydqn.runs.session import Session
from noisydqn.runs.weights import policy_like
from noisydqn.types import Row

pytestmark = pytest.mark.slow

CHUNKS = TINY["steps"] // TINY["chunk_steps"]
SPEC = HostEnvironment.create(noisydqn.Config(env="CartPole-v1").environment, CountingHostEnv).spec


INDEXED: dict[str, Any] = {
    "noise": "indexed",
    "index_dim": 3,
    "prior_scale": 1.0,
    "matched_targets": True,
    "noise_samples": 2,
}


@pytest.mark.parametrize(
    ("env", "options"),
    [
        ("noisydqn/Catcher-v0", {}),
        ("noisydqn/DeepSea-v0", {"env_kwargs": {"size": 3}}),
        ("bsuite:cartpole/0", {}),
        (
            "gymnax:Breakout-MinAtar",
            {"learner": "replay", "normalize_rewards": True, "acting_noise_shared": True},
        ),
        ("CartPole-v1", {"normalize_observations": "running", "n_step": 3}),
        ("CartPole-v1", {"vectorization": "own", "acting_noise": "episode"}),
        ("FrozenLake-v1", {"vectorization": "subprocess", "frame_stack": 2}),
        ("Acrobot-v1", {"max_episode_steps": 70, "exploration": "both", "replay": "uniform"}),
        ("gymnax:Breakout-MinAtar", {"learner": "parallel", "exploration": "noisy"}),
        ("CartPole-v1", {"learner": "parallel", "exploration": "both", "frame_stack": 2}),
        ("Acrobot-v1", {"learner": "parallel", "distribution": "quantile", "quantiles": 5}),
        ("CartPole-v1", {"learner": "parallel", "spread_updates": True, "epochs": 3}),
        ("CartPole-v1", {**INDEXED, "target_perturbation": 0.1, "acting_noise": "episode"}),
        ("gymnax:Breakout-MinAtar", {**INDEXED, "learner": "parallel", "exploration": "noisy"}),
        ("noisydqn-tests/Fetch-v0", {"normalize_observations": "running"}),
        (
            "noisydqn-tests/Symbols-v0",
            {"learner": "parallel", "exploration": "noisy", "frame_stack": 2},
        ),
        ("CartPole-v1", {"noise_goal": 0.1, "update_noise": "mean", "acting_noise": "step"}),
    ],
)
def test_a_resumed_run_ends_with_the_same_bits(
    env: str, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed twice, the second time after the memory's ring has gone round."""
    options = tiny(**options)
    noisydqn.train(env=env, out=tmp_path / "whole", **options)
    out = tmp_path / "killed"
    train_until(4, monkeypatch, env=env, out=out, checkpoint_seconds=1e-9, **options)
    again: dict[str, Any] = {"resume": True, "checkpoint_seconds": 1e-9, **options}
    train_until(5, monkeypatch, env=env, out=out, **again)
    noisydqn.resume(out, quiet=True)
    assert results(out) == results(tmp_path / "whole")
    assert len(list((out / "checkpoints").glob("*.json"))) == 2  # --keep


@pytest.mark.parametrize("learner", ["replay", "parallel"])
def test_a_run_on_a_single_core_is_resumed_with_the_same_bits(
    learner: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Acting and learning are one call there."""
    options = tiny(env="CartPole-v1", learner=learner)
    monkeypatch.setattr(host_programs, "usable_cores", lambda: [0])
    host_programs.programs.cache_clear()
    noisydqn.train(out=tmp_path / "whole", **options)
    with monkeypatch.context() as patch:
        train_until(4, patch, out=tmp_path / "killed", checkpoint_seconds=1e-9, **options)
    noisydqn.resume(tmp_path / "killed", quiet=True)
    host_programs.programs.cache_clear()
    assert results(tmp_path / "killed") == results(tmp_path / "whole")


def test_a_resumed_run_continues_to_the_evaluation_that_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked to stop in the very chunk that an evaluation would have confirmed."""
    goal: dict[str, Any] = {"stop_at_return": 10.0, "window": 2, "stop_at_evaluation": 6.0}
    options = tiny(env=CountingHostEnv, **goal)
    noisydqn.train(out=tmp_path / "whole", **options)
    take = Session._take  # pyright: ignore[reportPrivateUsage]

    def asked_to_stop(self: Session, *args: Any) -> None:
        take(self, *args)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Session, "_take", asked_to_stop)
    out = tmp_path / "stopped"
    assert noisydqn.train(out=out, **options).interrupted
    assert (out / "evaluations.csv").read_text() == ""
    monkeypatch.undo()
    noisydqn.resume(out, trust=True, quiet=True)
    assert results(out) == results(tmp_path / "whole")
    assert results(out)["summary"]["steps"] == TINY["chunk_steps"]


def test_pong_continues_with_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the vector environment that it brings, in the middle of episodes."""
    options = tiny(max_episode_steps=30, steps=600, chunk_steps=100, hidden=(16,))
    options |= {"learning_starts": 400, "evaluation_every": 0, "evaluation_episodes": 1}
    noisydqn.train(env="ALE/Pong-v5", out=tmp_path / "whole", **options)
    out = tmp_path / "killed"
    options["checkpoint_seconds"] = 1e-9
    train_until(5, monkeypatch, env="ALE/Pong-v5", out=out, **options)
    noisydqn.resume(out, quiet=True)
    assert results(out) == results(tmp_path / "whole")


def test_tensorboard_forgets_what_was_not_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last chunk before the kill is trained again; its events count once."""
    out = tmp_path / "killed"
    train_until(4, monkeypatch, env="CartPole-v1", out=out, **tiny(checkpoint_seconds=1e-9))
    noisydqn.resume(out, quiet=True)
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    steps = [event.step for event in events.Scalars("noise/action_change")]
    assert steps == list(range(40, TINY["steps"] + 1, 40))


def test_seeds_trained_together_are_resumed_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = tiny(num_seeds=2, seed=3, env="noisydqn/Catcher-v0")
    noisydqn.train(out=tmp_path / "whole", **options)
    out = tmp_path / "killed"
    train_until(5, monkeypatch, out=out, checkpoint_seconds=1e-9, **options)
    with pytest.raises(UserError, match=f"trained together with others: resume {out}"):
        noisydqn.resume(out / "seed3", quiet=True)
    noisydqn.resume(out, quiet=True)
    for seed in ("seed3", "seed4"):
        assert results(out / seed) == results(tmp_path / "whole" / seed)


def test_seeds_trained_in_turn_are_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in the second seed: the first is not trained or evaluated again."""
    options = tiny(num_seeds=2, env="CartPole-v1")
    noisydqn.train(out=tmp_path / "whole", **options)
    out = tmp_path / "killed"
    train_until(CHUNKS + 4, monkeypatch, out=out, checkpoint_seconds=1e-9, **options)
    noisydqn.resume(out, quiet=True)
    for seed in ("seed0", "seed1"):
        assert results(out / seed) == results(tmp_path / "whole" / seed)
    both = json.loads((out / "summary.json").read_text())["seeds"]
    assert [seed["seed"] for seed in both] == [0, 1]


def test_a_users_function_is_passed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make() -> Cue:
        return Cue()

    noisydqn.train(env=make, out=tmp_path / "whole", **TINY)
    out = tmp_path / "killed"
    train_until(4, monkeypatch, env=make, out=out, checkpoint_seconds=1e-9, **TINY)
    with pytest.raises(UserError, match="cannot be found again by its name"):
        noisydqn.resume(out)
    noisydqn.resume(out, env=make, quiet=True)
    assert results(out) == results(tmp_path / "whole")


def test_a_single_instance_is_evaluated_before_it_trains_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An evaluation that a stop left over must not take the instance that training needs."""
    options = tiny(steps=80, evaluation_every=0, num_envs=1)

    def stopped(*_: Any, check: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        while True:
            time.sleep(0.01)
            check()

    with monkeypatch.context() as patch:
        patch.setattr(evaluations, "evaluate", stopped)
        assert noisydqn.train(env=CountingHostEnv(), out=tmp_path / "run", **options).interrupted
    noisydqn.resume(tmp_path / "run", env=CountingHostEnv(), steps=160, quiet=True)
    rows = (tmp_path / "run" / "evaluations.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == ["80", "160"]
    assert "no evaluation" not in capsys.readouterr().err


@pytest.mark.parametrize("vectorization", ["sync", "own"])
def test_an_environment_that_is_not_deterministic_is_detected(
    vectorization: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its episode is cut, not ended, and another begins."""
    own = "tests.host_envs:noisydqn-tests/Forgetful-v0"
    env: Any = Forgetful if vectorization == "sync" else own
    options = tiny(vectorization=vectorization, checkpoint_seconds=1e-9, steps=160)
    out = tmp_path / "killed"
    train_until(3, monkeypatch, env=env, out=out, **options)
    before = (out / "episodes.csv").read_text()
    handed = env if vectorization == "sync" else None
    noisydqn.resume(out, env=handed, trust=True, quiet=True)
    warned = capsys.readouterr().err
    assert "environment 0, 1 did not play again as before: it is not deterministic" in warned
    summary = json.loads((out / "summary.json").read_text())
    assert summary["steps"] == 160
    after = (out / "episodes.csv").read_text()
    assert after.startswith(before[: len(before) // 2])
    # Whole episodes last 31 steps: the two under way after 40 steps are not among them.
    lengths = [int(line.split(",")[2]) for line in after.splitlines()[1:]]
    assert set(lengths) <= {31}
    # And it can be resumed a second time.
    noisydqn.resume(out, env=handed, trust=True, steps=240, quiet=True)
    assert json.loads((out / "summary.json").read_text())["steps"] == 240


def test_a_budget_is_extended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    options = tiny(steps=120)
    noisydqn.train(env="CartPole-v1", out=out, **options)
    assert main(["resume", str(out), "--steps", "240", "--quiet"]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert summary["steps"] == 240
    assert summary["evaluation"] is not None
    rows = (out / "metrics.csv").read_text().splitlines()
    assert [int(row.split(",")[0]) for row in rows[1:]] == list(range(40, 241, 40))
    assert json.loads((out / "config.json").read_text())["steps"] == 240
    assert main(["resume", str(out), "--steps", "200"]) == 2
    assert "--steps 200 is less than the 240 that are trained already" in capsys.readouterr().err
    before = results(out)
    assert main(["resume", str(out), "--quiet"]) == 0  # nothing is left to do
    assert results(out) == before


def test_train_with_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same command starts a run and resumes it."""
    argv = ["train", "CartPole-v1", "--resume", "--quiet", "--video-seconds", "0"]
    argv += ["--chunk-steps", "40", "--hidden", "8", "--evaluation-episodes", "1"]
    assert main([*argv, "--steps", "40"]) == 2
    assert "--resume needs --out" in capsys.readouterr().err
    argv += ["--out", str(tmp_path / "run")]
    assert main([*argv, "--steps", "40"]) == 0
    assert main([*argv, "--steps", "80"]) == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 80
    capsys.readouterr()
    assert main([*argv, "--steps", "80", "--seed", "5", "--n-step", "2"]) == 2
    assert "holds a run with other --seed, --n-step" in capsys.readouterr().err
    argv[1] = "Acrobot-v1"
    assert main([*argv, "--steps", "80"]) == 2
    words = "holds a run with other preset (NAME), environment (NAME), --stop-at"
    assert words in capsys.readouterr().err


def test_a_run_that_was_never_saved_starts_from_the_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noisydqn.train(env="CartPole-v1", out=tmp_path / "whole", **TINY)
    out = tmp_path / "killed"
    train_until(4, monkeypatch, env="CartPole-v1", out=out, **TINY)
    noisydqn.resume(out, quiet=True)
    assert results(out) == results(tmp_path / "whole")


def test_one_writer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A second process is refused; what a dead one left behind locks nothing."""
    out = tmp_path / "run"
    noisydqn.train(env="CartPole-v1", out=out, **tiny(steps=40))
    program = (
        "import pathlib, sys, time\n"
        "from noisydqn.checkpoint.lock import Lock\n"
        "from noisydqn.folders import Folder\n"
        f"with Lock(Folder({str(out)!r}), print):\n"
        "    print('locked', flush=True); time.sleep(600)"
    )
    other = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert other.stdout is not None
    other.stdout.readline()
    assert main(["resume", str(out), "--steps", "80"]) == 2
    message = capsys.readouterr().err
    assert f"{out} is being trained by process {other.pid}, nothing was changed" in message
    other.kill()
    other.wait()
    other.stdout.close()
    assert main(["resume", str(out), "--steps", "80", "--quiet"]) == 0


def test_sigterm_saves_and_exits_with_143(tmp_path: Path) -> None:
    out = tmp_path / "run"
    argv = ["CartPole-v1", "--steps", "1000000", "--quiet", "--hidden", "8", "--chunk-steps", "100"]
    printed = interrupt(out, out / "metrics.csv", *argv, number=signal.SIGTERM, code=143)
    assert "terminated: saving" in printed
    assert f"to resume: noisydqn resume {out}" in printed
    steps = json.loads((out / "summary.json").read_text())["steps"]
    assert main(["resume", str(out), "--steps", str(steps + 100), "--quiet"]) == 0
    rows = (out / "metrics.csv").read_text().splitlines()
    ends = [*range(100, steps + 100, 100), steps + 100]  # the chunk that was left is finished
    assert [int(row.split(",")[0]) for row in rows[1:]] == ends


def test_training_that_diverges_stops_and_keeps_what_was_good(tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = tiny(learning_rate=1e30, checkpoint_seconds=1e-9, loss="squared")
    options |= {"learning_starts": 200, "updates_per_step": 1.0}
    with pytest.raises(DivergedError, match=r"diverged at update [\d,]+, between steps ") as caught:
        noisydqn.train(env=CountingHostEnv, out=out, **options)
    assert "arrays of weights are not finite, first" in str(caught.value)
    assert f"what was trained until then is in {out}" in str(caught.value)
    for file in (RunFolder.at(out).final, RunFolder.at(out).best):
        assert all(np.isfinite(x).all() for x in safetensors.numpy.load_file(file.path).values())
    checkpoint = newest_whole(RunFolder.at(out).checkpoints, pytest.fail)
    assert checkpoint is not None
    config = noisydqn.Config(**{k: v for k, v in options.items() if k != "quiet"})
    policy = policy_like(config.program, SPEC)
    kept = checkpoint.read("seed0", {"final": policy})["final"]
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(kept))


@pytest.fixture
def disk(tmp_path: Path) -> Generator[Path]:
    """A separate disk of 400 KiB."""
    with mounted(tmp_path / "disk", "400k") as path:
        yield path


def test_a_run_on_a_full_disk_can_be_resumed(disk: Path, tmp_path: Path) -> None:
    """It goes on until the weights cannot be saved, and can be resumed when there is room."""
    noisydqn.train(env="CartPole-v1", out=tmp_path / "whole", **TINY)
    out, ballast = disk / "run", disk / "ballast"
    argv = ["train", "CartPole-v1", *flags(TINY), "--checkpoint-seconds", "1e-9"]
    process = subprocess.Popen(
        [sys.executable, "-m", "noisydqn", *argv, "--out", str(out)], stderr=subprocess.PIPE
    )
    while not list(out.glob("checkpoints/*.json")):
        assert process.poll() is None
        time.sleep(0.01)
    with contextlib.suppress(OSError):
        ballast.write_bytes(bytes(2**20))  # as much as there is room for
    _, printed = process.communicate(timeout=240)
    assert process.returncode == 1, printed.decode()
    last = printed.decode().splitlines()[-1]
    assert f"noisydqn: {out}/" in last
    assert "cannot be written: No space left on device; make room" in last
    ballast.unlink()
    noisydqn.resume(out, quiet=True)
    found, expected = results(out), results(tmp_path / "whole")
    for name in ("summary", "final.safetensors", "best.safetensors"):
        assert found[name] == expected[name]


def test_a_disk_that_cannot_be_written_to(disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = disk / "run"
    noisydqn.train(env="CartPole-v1", out=out, **tiny(steps=40))
    remount = ["mount", "-o", "remount,ro", str(disk)]
    subprocess.run(remount, check=True)
    assert main(["resume", str(out), "--steps", "80", "--quiet"]) == 2
    assert f"{out} cannot be written to: Read-only file system" in capsys.readouterr().err


@pytest.mark.parametrize("size", [1, 7, 16])
def test_blocks_of_a_ring(size: int) -> None:
    """Which blocks have changed, against comparing every slot; and what is cut can be pasted."""
    layout = ring.Layout(16, size)
    empty = Row(jnp.zeros((16, 3, 2)), *(jnp.zeros((16, 3)) for _ in range(4)))
    slots = np.zeros(16, int)
    for before, now in [(0, 3), (3, 3), (3, 14), (14, 18), (18, 40), (40, 41)]:
        old = slots.copy()
        for written in range(before, now):
            slots[written % 16] = written + 1
        blocks = {int(slot) // size for slot in np.flatnonzero(slots != old)}
        assert layout.changed(before, now) == sorted(blocks)
    rows = jax.tree.map(lambda x: x + jnp.arange(x.size).reshape(x.shape), empty)
    filled = empty
    for block in layout.changed(0, 16):
        start, length = layout.span(block)
        filled = ring.paste(filled, 0, start, ring.cut(rows, 0, start, length))
    assert eqx.tree_equal(filled, rows)
