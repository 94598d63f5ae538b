"""The cost of checkpoints with a million Atari transitions in the replay buffer.

    python -m benchmarks.checkpoint [--interval 300] [--window 30]

The replay buffer of the Atari preset, eight environments, is filled with synthetic frames. The
host runner then steps on frames that cost nothing, with the preset's network and updates. This
measures steps/s alone, a full checkpoint, and incremental checkpoints while steps continue. An
incremental checkpoint has the transitions of one interval, at the measured speed and at 500
steps/s. It needs about 11 GB of memory, and about 10 GB of disk under the temporary folder.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import results
from noisydqn.checkpoint import rows as ring
from noisydqn.checkpoint.snapshot import Snapshot
from noisydqn.checkpoint.writer import CheckpointWriter
from noisydqn.envs.encoding import numbered
from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.folders import Folder
from noisydqn.learner import sum_tree
from noisydqn.learner.gradient import no_metrics
from noisydqn.presets import config_for
from noisydqn.runners.replay_core import ReplayCore, ReplayTraining
from noisydqn.types import TimeStep

NAME = "checkpoint"
CHECKPOINTS = ("full", "incremental", "fast")
FAST = 500
FRAME = (84, 84)


class Trainer:
    """The host runner's two calls a step, on synthetic frames."""

    def __init__(self) -> None:
        config = config_for("ALE/Pong-v5")
        spec = EnvironmentSpec(jax.ShapeDtypeStruct(FRAME, jnp.uint8), 6, numbered(6))
        core = ReplayCore.create(config.program, spec)
        self.config, self.core = config, core
        self._act: Callable[..., Any] = jax.jit(
            lambda state, time_step, step: core.act(core.observe(state, time_step), step),
            donate_argnums=0,
        )

        def learn(state: ReplayTraining, number: Any, sums: Any) -> Any:
            state, sums = core.learn(state, number, sums)
            return core.resample(state, number > 0), sums

        self._learn: Callable[..., Any] = jax.jit(learn, donate_argnums=(0, 2))
        self.state: ReplayTraining = jax.jit(core.init)(jax.random.key(0))
        self.written = 0
        self._frames = np.random.default_rng(0).integers(
            0, 256, (64, config.runner.num_envs, *FRAME), np.uint8
        )

    def fill(self) -> None:
        """Fill every slot with frames that can be sampled."""
        replay = self.state.replay
        rows = replay.rows._replace(last=jnp.zeros_like(replay.rows.last))
        slots, axis = len(rows.last), 0
        layout = ring.Layout.of(rows, axis)
        random = np.random.default_rng(1)
        for block in layout.changed(0, slots):
            start, size = layout.span(block)
            fields = [np.zeros(x.shape, x.dtype) for x in ring.block_structs(rows, axis, size)]
            fields[0] = random.integers(0, 256, fields[0].shape, np.uint8)
            rows = ring.paste(rows, axis, start, fields)
        leaves = jnp.arange(rows.last.size, dtype=jnp.int32)
        tree = sum_tree.put(replay.tree, leaves, jnp.ones(leaves.shape))
        self.state = self.state._replace(replay=replay._replace(rows=rows, tree=tree))
        self.written = slots

    def step(self) -> None:
        """Step all environments and make the scheduled updates."""
        num_envs, i = self.config.runner.num_envs, self.written
        nothing: Any = np.zeros(num_envs, bool)
        frames: Any = self._frames[i % len(self._frames)]
        reward: Any = np.zeros(num_envs, np.float32)
        shown = TimeStep(frames, reward, nothing, nothing, {})
        self.state, actions = self._act(self.state, shown, np.int32(10**6))
        np.asarray(actions)
        number = np.int32(self.core.schedule.scheduled(i * num_envs, 0))
        self.state, _ = self._learn(self.state, number, no_metrics())
        self.written += 1

    def steps_per_second(self, seconds: float) -> float:
        """Measure environment steps per second over some time."""
        start, before = time.perf_counter(), self.written
        while (now := time.perf_counter()) - start < seconds:
            self.step()
        return (self.written - before) * self.config.runner.num_envs / (now - start)

    def snapshot(self, more: int = 0) -> Snapshot:
        """Make the host runner's snapshot, as if `more` rows had been added."""
        replay = self.state.replay
        arrays = {"state": self.core.with_rows(self.state, None)}
        return Snapshot(arrays, replay.rows, 0, self.written + more)


def save(trainer: Trainer, writer: CheckpointWriter, folder: Path, more: int) -> dict[str, Any]:
    """Save, as if `more` rows had been added, and train until the checkpoint is written."""
    before = sum(path.stat().st_size for path in folder.iterdir())
    start = time.perf_counter()
    writer.save(trainer.snapshot(more), {})
    stall = time.perf_counter() - start
    steps = trainer.written
    while writer.busy:
        trainer.step()
    seconds = time.perf_counter() - start
    speed = (trainer.written - steps) * trainer.config.runner.num_envs / max(seconds - stall, 1e-9)
    after = sum(path.stat().st_size for path in folder.iterdir())
    return {
        "transitions": (more or len(trainer.state.replay.rows.last))
        * trainer.config.runner.num_envs,
        "gigabytes": (after - before) / 1e9,
        "stall_seconds": stall,
        "seconds": seconds,
        "steps_per_second_meanwhile": speed,
    }


def table(data: dict[str, Any]) -> str:
    """Format the results as a table in Markdown."""

    def seconds(which: str) -> str:
        return f"{data[which]['stall_seconds']:.1f} of {data[which]['seconds']:.0f}"

    alone = sum(data["steps_per_second_alone"]) / 2
    rows = [
        (which, f"{done['transitions']:,}", f"{done['gigabytes']:.2f} GB", seconds(which))
        for which, done in ((which, data[which]) for which in CHECKPOINTS)
    ]
    header = ("", "new transitions", "written", "seconds that training waits")
    return (
        f"{results.markdown(header, rows)}\n\nTraining makes {alone:.0f} steps/s here. A "
        f"checkpoint every {data['interval']:.0f} s costs "
        f"{data['incremental']['share_of_time_lost']:.1%} of the time, or "
        f"{data['fast']['share_of_time_lost']:.1%} with the transitions of 500 steps/s."
    )


def main() -> None:
    """Measure, save, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--interval", type=float, default=300.0, help="seconds between checkpoints")
    parser.add_argument("--window", type=float, default=30.0, help="seconds of steps alone")
    args = parser.parse_args()
    trainer = Trainer()
    trainer.fill()
    for _ in range(5):
        trainer.step()
    folder = Path(tempfile.mkdtemp())
    try:
        writer = CheckpointWriter(Folder(folder), len(CHECKPOINTS), None, sys.exit)
        done = {"full": save(trainer, writer, folder, 0)}
        alone = trainer.steps_per_second(args.window)
        jumped = 0
        for which, speed in (("incremental", alone), ("fast", FAST)):
            trainer.written += jumped
            more = int(speed * args.interval) // trainer.config.runner.num_envs
            done[which] = save(trainer, writer, folder, more)
            jumped = more
        again = trainer.steps_per_second(args.window)
    finally:
        shutil.rmtree(folder)
    without = (alone + again) / 2
    for saved in done.values():
        writing = saved["seconds"] - saved["stall_seconds"]
        slower = max(1 - saved["steps_per_second_meanwhile"] / without, 0.0) * writing
        saved["share_of_time_lost"] = (saved["stall_seconds"] + slower) / args.interval
    data = {"steps_per_second_alone": [alone, again], "interval": args.interval, **done}
    results.save(NAME, "python -m benchmarks.checkpoint " + " ".join(sys.argv[1:]), data)
    print(table(data))


if __name__ == "__main__":
    main()
